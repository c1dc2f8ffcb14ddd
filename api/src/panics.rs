//! Panics that were contained, counted by the task in which they were. Whoever contains one says so here; pages of metrics tell.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Since the start of the program. Names are of the program's own making, so there are only so many.
static COUNTS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// Counts a panic, and gives its words.
pub fn count(task: &'static str, panic: &(dyn Any + Send)) -> String {
    *COUNTS.lock().unwrap_or_else(PoisonError::into_inner).entry(task).or_default() += 1;
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}

/// How many there were, by task.
pub fn counts() -> Vec<(&'static str, u64)> {
    let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    counts.iter().map(|(task, count)| (*task, *count)).collect()
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn panics_are_counted_and_have_words() {
        let words = |panic: Box<dyn Any + Send>| count("test of panics", &*panic);
        assert_eq!(words(catch_unwind(|| panic!("plain")).unwrap_err()), "plain");
        assert_eq!(words(catch_unwind(|| panic!("number {}", 1)).unwrap_err()), "number 1");
        let mute = catch_unwind(|| std::panic::panic_any(7)).unwrap_err();
        assert_eq!(words(mute), "a panic without words");
        assert!(counts().contains(&("test of panics", 3)));
    }
}
