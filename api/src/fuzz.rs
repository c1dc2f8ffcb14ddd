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

/// Calls a target's entry with each file of its corpus; panics where there is none. With `CORACLE_FUZZ_SECONDS` it goes on
/// for so long with changed files: without the coverage that `hack/fuzz` has, but with nothing to build besides the tests.
pub fn replay(target: &str, entry: fn(&[u8])) {
    let fuzz = format!("{}/../fuzz", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(format!("{fuzz}/corpus/{target}")).expect("the target's corpus");
    let mut files: Vec<_> = files.map(|file| file.expect("a file of it").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let mut corpus = vec![];
    for file in files {
        println!("{}", file.display());
        corpus.push(std::fs::read(file).expect("a file of the corpus"));
        entry(corpus.last().expect("just read"));
    }
    let seconds = std::env::var("CORACLE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    if let Some(time) = seconds.map(std::time::Duration::from_secs) {
        wander(&corpus, time, entry, &format!("{fuzz}/artifacts/{target}"));
    }
}

/// Changes files at random until the time is over. What fails is left where `hack/fuzz` leaves it.
fn wander(corpus: &[Vec<u8>], time: std::time::Duration, entry: fn(&[u8]), artifact: &str) {
    /// One input may take so long, whatever the build and the machine.
    const LONGEST: std::time::Duration = std::time::Duration::from_secs(20);
    let begun = std::time::Instant::now();
    let mut numbers = Numbers(u64::from(std::process::id()) ^ begun.elapsed().as_nanos() as u64);
    let mut count = 0_u64;
    while begun.elapsed() < time {
        let input = changed(corpus, &mut numbers);
        let started = std::time::Instant::now();
        let ended = std::panic::catch_unwind(|| entry(&input));
        if ended.is_err() || started.elapsed() > LONGEST {
            let folder = std::path::Path::new(artifact).parent().expect("a folder");
            std::fs::create_dir_all(folder).expect("a folder for what was found");
            let file = format!("{artifact}-wander-{count}");
            std::fs::write(&file, &input).expect("a file for what was found");
            panic!("{file} fails after {count} inputs ({:?})", started.elapsed());
        }
        count += 1;
    }
    println!("{artifact}: {count} inputs");
}

/// Independent numbers out of one (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound.max(1) as u64).unwrap_or_default()
    }
}

/// A file with some of its bytes changed, doubled, dropped, or taken from another file.
fn changed(corpus: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    const MOST: usize = 32 << 10;
    const EDGES: [&[u8]; 12] = [
        b"\0",
        b"\xff\xff\xff\xff",
        b"-1",
        b"9223372036854775808",
        b"1e400",
        b"\"",
        b"{",
        b"[",
        b"\n",
        b"/",
        b"\\",
        b":",
    ];
    let mut input = corpus[numbers.below(corpus.len())].clone();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(input.len() + 1);
        let end = at + numbers.below((input.len() - at).min(48) + 1);
        match numbers.below(8) {
            0 | 1 if at < input.len() => input[at] ^= u8::try_from(numbers.below(256)).unwrap_or_default(),
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                let most = 1 << numbers.below(8);
                let times = 1 + numbers.below(most);
                drop(input.splice(at..at, piece.repeat(times)));
            }
            4 | 5 => {
                let other = &corpus[numbers.below(corpus.len())];
                let from = numbers.below(other.len() + 1);
                let to = from + numbers.below((other.len() - from).min(512) + 1);
                drop(input.splice(at..end, other[from..to].iter().copied()));
            }
            _ => drop(input.splice(at..end, EDGES[numbers.below(EDGES.len())].iter().copied())),
        }
        input.truncate(MOST);
    }
    input
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
