//! What every fuzz target asks beyond "no panic": processor time and memory stay linear in the bytes of the input.

#![allow(unsafe_code, reason = "an allocator that counts, and the clock of a thread")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

pub use libfuzzer_sys;

/// What one input may take whatever its length; the figures allow for a busy machine and for the instrumentation.
const TIME: Duration = Duration::from_millis(500);
const MEMORY: usize = 16 << 20;
/// What each byte of it may take besides.
const TIME_PER_BYTE: Duration = Duration::from_micros(20);
const MEMORY_PER_BYTE: usize = 1 << 10;

/// A target: an entry of a crate's `fuzz` module, which the crate's own tests call with the same corpus.
#[macro_export]
macro_rules! target {
    ($entry:path) => {
        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::run($entry, bytes));
        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
            $crate::mutate(data, size, most, seed)
        });
    };
}

/// Calls the entry and holds it to its budget.
pub fn run(entry: fn(&[u8]), bytes: &[u8]) {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let start = processor_time();
    entry(bytes);
    let took = processor_time() - start;
    let held = PEAK.load(Relaxed).saturating_sub(before);
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    assert!(took <= TIME + TIME_PER_BYTE * length, "{took:?} for {length} bytes");
    assert!(held <= MEMORY + MEMORY_PER_BYTE * bytes.len(), "{held} bytes held for {length} bytes");
}

/// libFuzzer's own mutations, and now and then one piece repeated over and over: what is not linear shows only so.
pub fn mutate(data: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    // A few independent numbers out of one (splitmix64).
    let mut state = u64::from(seed);
    let mut below = |bound: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    };
    if size == 0 || size >= most || below(40) != 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, most);
    }
    let from = below(size);
    let piece = 1 + below((size - from).min(32));
    let times = 1 + below((most - size) / piece + 1).min(1 << below(14));
    let extra = (piece * times).min(most - size) / piece * piece;
    data.copy_within(from + piece..size, from + piece + extra);
    for at in from + piece..from + piece + extra {
        data[at] = data[at - piece];
    }
    size + extra
}

fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock is one of the caller's own thread and `time` is a place to write to.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

impl Counting {
    fn more(size: usize) {
        PEAK.fetch_max(HELD.fetch_add(size, Relaxed) + size, Relaxed);
    }
}

// SAFETY: all is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::more(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::more(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::more(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
}
