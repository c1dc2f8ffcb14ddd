//! What fuzzing calls, and tests call with the corpus of `fuzz/`: values and selectors as objects and queries carry them.

use std::borrow::Cow;

use crate::cron::Schedule;
use crate::selector::{FieldSelector, LabelSelector};
use crate::{Cidr, Quantity, cron, quantity, time};

/// Lines, each of which is read as every sort of value: what is taken is written again as something that means the same.
pub fn values(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut sum = Quantity::ZERO;
    for line in text.lines() {
        quantity_of(line, &mut sum);
        if let Ok(cidr) = line.parse::<Cidr>() {
            assert_eq!(cidr.to_string().parse(), Ok(cidr));
            assert!(cidr.contains(cidr.address()) && cidr.nth(cidr.size()).is_none());
        }
        if let Ok(Schedule::Fields(fields)) = Schedule::parse(line) {
            assert!(fields.minutes < 1 << 60 && fields.hours < 1 << 24 && fields.weekdays < 1 << 7);
            assert_eq!(
                (fields.days & !(((1u64 << 31) - 1) << 1), fields.months & !(((1 << 12) - 1) << 1)),
                (0, 0)
            );
        }
        if let Some(at) = time::parse(&line.into()) {
            let text = time::seconds(at);
            assert_eq!(time::parse(&text.as_str().into()).map(time::seconds), Some(text));
            time::micros(at);
            time::since(Some(at), jiff::Timestamp::UNIX_EPOCH);
        }
        time::is_zone(line);
        if let Ok(seconds) = line.parse() {
            time::human_duration(seconds);
        }
    }
    assert_eq!(sum.to_string().parse::<Quantity>().ok().map(|q| q.to_string()), Some(sum.to_string()));
    let _ = cron::Schedule::parse(&text);
}

fn quantity_of(text: &str, sum: &mut Quantity) {
    let canonical = quantity::canonical(text);
    let Ok(amount) = text.parse::<Quantity>() else {
        assert!(canonical.is_err(), "{text:?}");
        return;
    };
    // What upstream's round trip leaves stays as it is from then on.
    let canonical = canonical.expect("it is a quantity");
    assert_eq!(canonical.parse(), Ok(amount), "{text:?}");
    assert_eq!(quantity::canonical(&canonical).as_deref(), Ok(&*canonical), "{text:?}");
    let _ = (amount.value(), amount.milli_value(), amount.as_f64(), -amount - amount);
    assert!(amount.is_zero() || amount.is_negative() != (amount > Quantity::ZERO), "{text:?}");
    *sum += amount;
}

/// Two texts: a label selector and a field selector. A label selector that is taken is written as one that means the same.
pub fn selectors(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (labels, fields) = text.split_once('\0').unwrap_or((&text, &text));
    if let Ok(selector) = LabelSelector::parse(labels) {
        let again = LabelSelector::parse(&selector.to_string());
        assert_eq!(again.as_ref(), Ok(&selector), "{labels:?}");
        selector.matches(|_| Some("b"));
        selector.matches(|_| None);
    }
    if let Ok(selector) = FieldSelector::parse(fields) {
        selector.required("metadata.name");
    }
}

/// The first line as text, and what follows it.
pub fn first_line(bytes: &[u8]) -> (Cow<'_, str>, &[u8]) {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    (String::from_utf8_lossy(&bytes[..end]), bytes.get(end + 1..).unwrap_or_default())
}

/// What stands between NULs.
pub fn parts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut parts = bytes.splitn(N, |b| *b == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// A directory in memory that is gone with this.
pub struct Place(pub std::path::PathBuf);

impl Place {
    /// # Panics
    ///
    /// Where there is no room in memory.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes something outside")]
    pub fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = format!("/dev/shm/coracle-fuzz-{}-{number}", std::process::id());
        std::fs::create_dir(&path).expect("a directory in memory");
        Place(path.into())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing is left to do about what stays.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Calls a target's entry with each file of its corpus; panics where there is none.
pub fn replay(target: &str, entry: fn(&[u8])) {
    let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(folder).expect("the target's corpus");
    let mut files: Vec<_> = files.map(|file| file.expect("a file of it").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        println!("{}", file.display());
        entry(&std::fs::read(file).expect("a file of the corpus"));
    }
}

/// A test for each target of a crate's `fuzz` module, in which the corpus is replayed.
#[macro_export]
macro_rules! replayed {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            $crate::fuzz::replay(stringify!($target), super::$target);
        })*
    };
}

#[cfg(test)]
mod tests {
    crate::replayed! { values selectors }
}
