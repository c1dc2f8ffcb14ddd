//! Which images are garbage: upstream's order, ages and thresholds, as pure decisions.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::digest::Digest;

/// When unused images go, with upstream's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GarbagePolicy {
    /// Percent of the images' file system in use that begin a collection (`imageGCHighThresholdPercent`).
    pub high_percent: u8,
    /// Percent in use that end it (`imageGCLowThresholdPercent`).
    pub low_percent: u8,
    /// An image stays for so long after it has come or was used (`imageMinimumGCAge`).
    pub minimum_age: Duration,
    /// An image unused for longer goes whatever room there is (`imageMaximumGCAge`).
    pub maximum_age: Option<Duration>,
}

impl Default for GarbagePolicy {
    fn default() -> Self {
        GarbagePolicy {
            high_percent: 85,
            low_percent: 80,
            minimum_age: Duration::from_secs(120),
            maximum_age: None,
        }
    }
}

impl GarbagePolicy {
    /// How many bytes shall be freed; `None` below the high threshold.
    pub fn bytes_to_free(&self, capacity: u64, available: u64) -> Option<u64> {
        let available = available.min(capacity);
        if capacity == 0 || 100 - percent(available, capacity) < u64::from(self.high_percent) {
            return None;
        }
        let kept = u128::from(capacity) * u128::from(100_u8.saturating_sub(self.low_percent)) / 100;
        Some(u64::try_from(kept).unwrap_or(u64::MAX).saturating_sub(available))
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(100)
}

/// What a collection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// So many bytes.
    Bytes(u64),
    /// Whatever is older than the policy's greatest age.
    Old,
}

/// What a collection has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub images: usize,
    /// Of the images as they came, as upstream counts.
    pub bytes: u64,
}

impl Wanted {
    /// Whether this image goes, after `freed` bytes have gone.
    pub(super) fn takes(self, image: &Unused, freed: u64, now: Instant, policy: &GarbagePolicy) -> bool {
        let age = |since: Instant| now.saturating_duration_since(since);
        match self {
            Wanted::Bytes(bytes) => {
                freed < bytes
                    && age(image.found) >= policy.minimum_age
                    && image.used.is_none_or(|used| age(used) >= policy.minimum_age)
            }
            Wanted::Old => {
                policy.maximum_age.is_some_and(|most| age(image.used.unwrap_or(image.found)) > most)
            }
        }
    }
}

/// An image that nobody uses now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Unused {
    pub(super) id: Digest,
    pub(super) bytes: u64,
    found: Instant,
    used: Option<Instant>,
}

/// When images were found and used. It begins with the process, as upstream's.
#[derive(Debug, Default)]
pub(super) struct Ledger(HashMap<Digest, Unused>);

impl Ledger {
    /// Takes note of the images there are now.
    pub(super) fn look(
        &mut self,
        now: Instant,
        images: impl Iterator<Item = (Digest, u64)>,
        in_use: &HashSet<Digest>,
    ) {
        let mut there = HashMap::new();
        for (id, bytes) in images {
            let known = self.0.get(&id);
            let used = if in_use.contains(&id) { Some(now) } else { known.and_then(|known| known.used) };
            there.insert(id, Unused { id, bytes, found: known.map_or(now, |known| known.found), used });
        }
        self.0 = there;
    }

    /// A pod is about to use the image.
    pub(super) fn touch(&mut self, id: Digest, now: Instant) {
        self.0.entry(id).or_insert(Unused { id, bytes: 0, found: now, used: None }).used = Some(now);
    }

    /// The unused images: the longest unused first, then those that were found first.
    pub(super) fn in_order(&self, in_use: &HashSet<Digest>) -> Vec<Unused> {
        let mut all: Vec<Unused> =
            self.0.values().filter(|image| !in_use.contains(&image.id)).copied().collect();
        all.sort_by_key(|image| (image.used, image.found, image.id));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collection_begins_at_the_high_threshold_and_ends_at_the_low_one() {
        let policy = GarbagePolicy::default();
        for (available, want) in
            [(1000, None), (160, None), (151, Some(49)), (150, Some(50)), (0, Some(200)), (5000, None)]
        {
            assert_eq!(policy.bytes_to_free(1000, available), want, "{available}");
        }
        assert_eq!(policy.bytes_to_free(0, 0), None);
        assert_eq!(policy.bytes_to_free(u64::MAX, 0), Some(u64::MAX / 5));
    }

    #[test]
    fn the_longest_unused_go_first_and_the_young_stay() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let [never, old, newer, running, fresh, touched] = [1_u8, 2, 3, 4, 5, 6].map(|n| Digest::of(&[n]));
        let mut ledger = Ledger::default();
        let first = [never, old, newer, running, touched];
        let images = |ids: &[Digest]| ids.iter().map(|id| (*id, 10)).collect::<Vec<_>>().into_iter();
        ledger.look(at(0), images(&first), &HashSet::from([old, newer, running]));
        ledger.look(at(10), images(&first), &HashSet::from([newer, running]));
        ledger.touch(touched, at(250));
        let all = [&first[..], &[fresh]].concat();
        let in_use = HashSet::from([running]);
        ledger.look(at(200), images(&all), &in_use);
        let order: Vec<Digest> = ledger.in_order(&in_use).iter().map(|image| image.id).collect();
        assert_eq!(order, [never, fresh, old, newer, touched]);

        let policy = GarbagePolicy::default();
        let gone = |wanted: Wanted, now: Instant, policy: &GarbagePolicy| {
            let mut freed = 0;
            let mut gone = Vec::new();
            for image in ledger.in_order(&in_use) {
                if wanted.takes(&image, freed, now, policy) {
                    freed += image.bytes;
                    gone.push(image.id);
                }
            }
            gone
        };
        assert_eq!(gone(Wanted::Bytes(11), at(300), &policy), [never, old]);
        assert_eq!(gone(Wanted::Bytes(u64::MAX), at(300), &policy), [never, old, newer]);
        assert_eq!(gone(Wanted::Bytes(0), at(300), &policy), []);
        assert_eq!(gone(Wanted::Bytes(u64::MAX), at(400), &policy), [never, fresh, old, newer, touched]);
        assert_eq!(gone(Wanted::Old, at(10_000), &policy), []);
        let aged = GarbagePolicy { maximum_age: Some(Duration::from_secs(100)), ..policy };
        assert_eq!(gone(Wanted::Old, at(300), &aged), [never, old, newer]);
    }
}
