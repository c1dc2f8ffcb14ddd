//! Hostile output of containers, requests to a shim and its files, and what the kernel tells of mounts that others made.

use jiff::Timestamp;

use super::log::Log;
use super::protocol::{ExitFile, Reply, Request, ShimConfig, StateFile};
use super::verify;
use crate::fuzz::Place;

/// Output in two pieces, as a log: whole lines are whole, and what is shown is what was said.
pub(crate) fn output(bytes: &[u8]) {
    let place = Place::new();
    let path = std::path::Path::new("pod/c/0.log");
    let mut log = Log::open(&place.0, path, 0, 0).expect("a log in memory");
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let now = Timestamp::UNIX_EPOCH;
    for piece in [first, second] {
        log.append(0, piece, now).expect("a log in memory");
    }
    log.finish(0, now).expect("a log in memory");
    let written = std::fs::read(place.0.join(path)).expect("the log");
    assert_eq!(crate::streaming::hostile::shown(&written), bytes);
}

/// JSON of a request, a reply or a file; a line of `mountinfo`.
pub(crate) fn request(bytes: &[u8]) {
    fn same<T: serde::Serialize + for<'a> serde::Deserialize<'a>>(bytes: &[u8]) {
        let Ok(read) = serde_json::from_slice::<T>(bytes) else { return };
        let written = serde_json::to_vec(&read).expect("it can be written");
        let again: T = serde_json::from_slice(&written).expect("what we wrote");
        assert_eq!(serde_json::to_vec(&again).expect("it can be written"), written);
    }
    same::<Request>(bytes);
    same::<Reply>(bytes);
    same::<StateFile>(bytes);
    same::<ExitFile>(bytes);
    same::<ShimConfig>(bytes);
    for line in String::from_utf8_lossy(bytes).lines() {
        verify::hostile_mount(line);
    }
}
