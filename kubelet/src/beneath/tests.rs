//! What others could do with a directory, and what must come of it.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;

/// A directory that others shape, and beside it one that they must not reach.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        for name in ["volume/a", "outside"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("volume/a/file"), "inside").unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        let place = Place { dir };
        let outside = place.outside();
        for (link, target) in [
            ("up", Path::new("..")),
            ("absolute", &outside),
            ("within", Path::new("a")),
            ("deep", Path::new("a/../../outside")),
            ("secret", &outside.join("secret")),
            ("rooted", Path::new("/a")),
            ("loop", Path::new("loop")),
            ("dangling", Path::new("/run/made")),
            ("relative", Path::new("a/../new/made")),
        ] {
            symlink(target, place.volume().join(link)).unwrap();
        }
        place
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn handle(&self) -> Dir {
        Dir::open(self.volume()).unwrap()
    }

    fn is_untouched(&self) {
        let names: Vec<_> = fs::read_dir(self.outside()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(self.outside().join("secret")).unwrap(), "secret");
        let beside = fs::read_dir(self.dir.path()).unwrap().count();
        assert_eq!(beside, 2, "nothing was made beside the volume");
    }
}

#[test]
fn what_is_found_stays_below_the_directory() {
    use Links::{AsRoot, Refused, Within};
    let place = Place::new();
    let dir = place.handle();
    // Which kinds of links let the path be read.
    for (path, allowed) in [
        ("a/file", &[Refused, Within, AsRoot][..]),
        ("./a/./file", &[Refused, Within, AsRoot]),
        ("within/file", &[Within, AsRoot]),
        ("rooted/file", &[AsRoot]),
        ("up/a/file", &[AsRoot]),
        ("../../a/file", &[AsRoot]),
        ("/a/file", &[AsRoot]),
        ("a/../a/file", &[Refused, Within, AsRoot]),
        ("up/volume/a/file", &[]),
        ("up/outside/secret", &[]),
        ("absolute/secret", &[]),
        ("deep/secret", &[]),
        ("secret", &[]),
        ("loop", &[]),
        ("../outside/secret", &[]),
        ("a", &[]),
        ("", &[]),
        ("/proc/self/root/etc/passwd", &[]),
    ] {
        for links in [Refused, Within, AsRoot] {
            let got = dir.read(path, links, 100);
            assert_eq!(got.is_ok(), allowed.contains(&links), "{path} {links:?}: {got:?}");
            assert!(got.is_err() || got.unwrap() == b"inside", "{path}");
        }
    }
}

#[test]
fn directories_are_made_below_the_directory() {
    use Links::{AsRoot, Refused, Within};
    for (path, allowed, made) in [
        ("a/b/c", &[Refused, Within, AsRoot][..], "a/b/c"),
        ("within/b", &[Within, AsRoot], "a/b"),
        ("within", &[Within, AsRoot], "a"),
        ("rooted/b", &[AsRoot], "a/b"),
        ("/etc/x", &[AsRoot], "etc/x"),
        ("a/../b", &[AsRoot], "b"),
        ("../../b", &[AsRoot], "b"),
        ("up/outside/b", &[AsRoot], "outside/b"),
        ("dangling/b", &[AsRoot], "run/made/b"),
        ("relative/b", &[AsRoot], "new/made/b"),
        ("absolute/b", &[AsRoot], ""),
        ("loop/b", &[], ""),
        ("a/file/b", &[], ""),
    ] {
        for links in [Refused, Within, AsRoot] {
            let place = Place::new();
            let got = place.handle().make_dirs(path, links, 0o750);
            assert_eq!(got.is_ok(), allowed.contains(&links), "{path} {links:?}: {got:?}");
            assert!(got.is_err() || place.volume().join(made).is_dir(), "{path} {links:?}");
            place.is_untouched();
        }
    }
    let place = Place::new();
    place.handle().make_dirs("x/y", Links::Refused, 0o1777).unwrap();
    let mode = |path: &str| fs::metadata(place.volume().join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("x"), mode("x/y")), (0o1777, 0o1777), "whatever the umask");
}

#[test]
fn only_regular_files_are_read_and_never_more_than_asked() {
    let place = Place::new();
    let (dir, volume) = (place.handle(), place.volume());
    nix::unistd::mkfifo(&volume.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(volume.join("socket")).unwrap();
    fs::File::create(volume.join("sparse")).unwrap().set_len(10 << 30).unwrap();
    if nix::unistd::geteuid().is_root() {
        dir.make_node("zero", FileType::CharacterDevice, 0o666, nix::sys::stat::makedev(1, 5)).unwrap();
        let refused = dir.read("zero", Links::Refused, 100).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    }
    for name in ["fifo", "socket", "a"] {
        let refused = dir.read(name, Links::Refused, 100).unwrap_err();
        assert_eq!(
            (refused.kind(), refused.to_string().as_str()),
            (ErrorKind::InvalidInput, "not a regular file")
        );
        assert!(dir.append(name, Access::mode(0o600)).is_err(), "{name}");
    }
    assert_eq!(dir.read("sparse", Links::Refused, 100).unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!(dir.read_start("sparse", Links::Refused, 100).unwrap().len(), 100);
    assert_eq!(dir.read_end("a/file", Links::Refused, 4).unwrap(), b"side");
    assert_eq!(dir.read("a/file", Links::Refused, 6).unwrap(), b"inside");
    assert!(dir.read("a/file", Links::Refused, 5).is_err());
}

#[test]
fn what_is_written_replaces_the_name_alone() {
    let place = Place::new();
    let dir = place.handle();
    for name in ["secret", "absolute", "fresh"] {
        dir.write(name, b"new", Access::mode(0o640)).unwrap();
        let path = place.volume().join(name);
        let found = fs::symlink_metadata(&path).unwrap();
        assert_eq!((found.is_file(), found.mode() & 0o7777), (true, 0o640), "{name}");
        assert_eq!(fs::read_to_string(path).unwrap(), "new");
    }
    symlink(place.outside().join("secret"), place.volume().join("log")).unwrap();
    assert!(dir.append("log", Access::mode(0o600)).is_err(), "a link is not followed");
    for _ in 0..2 {
        dir.append("log.1", Access::mode(0o600)).unwrap().write_all(b"x").unwrap();
    }
    assert_eq!(dir.read("log.1", Links::Refused, 9).unwrap(), b"xx");
    for name in ["", ".", "..", "a/b", "/etc", "up/x"] {
        assert!(dir.write(name, b"", Access::mode(0o600)).is_err(), "{name:?}");
        assert!(dir.remove_tree(name).is_err(), "{name:?}");
        assert!(Name::new(name).is_err(), "{name:?}");
    }
    place.is_untouched();
}

#[test]
fn trees_are_removed_without_following_links_and_however_deep() {
    let place = Place::new();
    let dir = place.handle();
    dir.remove_tree("absolute").unwrap();
    dir.remove_tree("missing").unwrap();
    // Deeper than a path, a stack or a table of descriptors could hold.
    let mut at = dir.make_new("bottomless", Access::mode(0o755)).unwrap();
    for level in 0..1500 {
        if level % 100 == 0 {
            at.symlink(place.outside(), "out").unwrap();
            at.create_new("file", Access::mode(0o600)).unwrap();
        }
        at = at.make_new("d", Access::mode(0o000)).unwrap();
    }
    for number in 0..500 {
        at.create_new(format!("{number}"), Access::mode(0o600)).unwrap();
    }
    dir.remove_tree("bottomless").unwrap();
    assert!(!place.volume().join("bottomless").exists());
    dir.clear().unwrap();
    assert_eq!(dir.entries().unwrap().count(), 0);
    place.is_untouched();
}

#[test]
#[cfg_attr(not(root), ignore = "needs root")]
fn what_is_mounted_in_a_tree_is_not_removed() {
    let place = Place::new();
    let (dir, point) = (place.handle(), place.volume().join("tree/deep/mounted"));
    fs::create_dir_all(&point).unwrap();
    crate::sys::mounts::bind(&place.outside(), &point).unwrap();
    let (nested, direct) =
        (dir.remove_tree("tree"), dir.dir("tree/deep", Links::Refused).unwrap().remove_tree("mounted"));
    let still = fs::read_dir(place.outside()).unwrap().count();
    for moved in crate::sys::mounts::below(place.dir.path()).unwrap() {
        crate::sys::mounts::unmount(&moved).unwrap();
    }
    assert!(nested.is_err() && direct.is_err());
    assert_eq!(still, 1);
    place.is_untouched();
}

/// Somebody swaps a directory for a link out of it all the time.
#[test]
fn swapping_directories_for_links_leads_nowhere() {
    let place = Place::new();
    let (dir, volume, outside) = (place.handle(), place.volume(), place.outside());
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::rename(volume.join("a"), volume.join("b"));
                let _ = symlink(&outside, volume.join("a"));
                let _ = fs::remove_file(volume.join("a"));
                let _ = fs::rename(volume.join("b"), volume.join("a"));
            }
        }
    });
    for number in 0..300 {
        for links in [Links::Refused, Links::Within, Links::AsRoot] {
            if let Ok(a) = dir.dir("a", links) {
                let _ = a.write("planted", b"x", Access::mode(0o600));
                let _ = a.remove_tree("secret");
            }
            let _ = dir.make_dirs(format!("a/{number}"), links, 0o755);
            assert_ne!(dir.read("a/secret", links, 100).ok().as_deref(), Some(&b"secret"[..]));
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    place.is_untouched();
}

#[test]
#[cfg_attr(not(root), ignore = "needs root")]
fn set_id_bits_and_owners_are_as_asked() {
    let place = Place::new();
    let dir = place.handle();
    let access = Access { mode: 0o2750, uid: Some(7), gid: Some(8) };
    dir.make_new("d", access).unwrap();
    dir.create_new("f", Access { mode: 0o4711, ..access }).unwrap();
    dir.set_owner_of("secret", Some(7), Some(8)).unwrap();
    for (name, mode) in [("d", 0o2750), ("f", 0o4711), ("secret", 0o777)] {
        let found = fs::symlink_metadata(place.volume().join(name)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (mode, 7, 8), "{name}");
    }
    let secret = fs::metadata(place.outside().join("secret")).unwrap();
    assert_eq!((secret.uid(), secret.permissions().mode() & 0o7777 & 0o111), (0, 0));
    place.is_untouched();
}

#[test]
fn a_walk_sees_every_entry_once_and_nothing_outside() {
    let place = Place::new();
    let dir = place.handle();
    let mut at = dir.make_new("far", Access::mode(0o755)).unwrap();
    for _ in 0..150 {
        at.create_new("file", Access::mode(0o600)).unwrap();
        at.make_new("x", Access::mode(0o755)).unwrap().create_new("leaf", Access::mode(0o600)).unwrap();
        at = at.make_new("d", Access::mode(0o755)).unwrap();
    }
    let mut seen = std::collections::BTreeMap::<OsString, usize>::new();
    let whole = dir
        .walk(10_000, |_, entry| {
            *seen.entry(entry.name.clone()).or_default() += 1;
            Ok(())
        })
        .unwrap();
    let count = |name: &str| seen.get(OsStr::new(name)).copied();
    // One more file is the volume's own.
    assert_eq!(
        [whole.then_some(1), count("file"), count("x"), count("leaf"), count("d"), count("secret")],
        [Some(1), Some(151), Some(150), Some(150), Some(150), Some(1)]
    );
    assert_eq!(dir.walk(100, |_, _| Ok(())).unwrap_err().kind(), ErrorKind::QuotaExceeded);
    dir.remove_tree("far").unwrap();
    dir.clear().unwrap();
    fs::write(place.volume().join("big"), vec![1; 1 << 20]).unwrap();
    fs::hard_link(place.volume().join("big"), place.volume().join("same")).unwrap();
    let usage = dir.usage(10).unwrap();
    assert_eq!((usage.inodes, usage.incomplete), (2, false));
    assert!((1 << 20..2 << 20).contains(&usage.bytes), "{usage:?}");
    place.is_untouched();
}

#[test]
fn what_a_tree_takes_is_what_is_in_it_and_as_far_as_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("volume"), dir.path().join("outside"));
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("big"), vec![1; 8 << 20]).unwrap();
    fs::write(root.join("a/b/file"), vec![1; 1 << 20]).unwrap();
    fs::hard_link(root.join("a/b/file"), root.join("again")).unwrap();
    symlink(&outside, root.join("out")).unwrap();
    symlink(root.join("a"), root.join("a/b/loop")).unwrap();
    fs::File::create(root.join("sparse")).unwrap().set_len(1 << 40).unwrap();
    let found = usage(&root, 1000).unwrap();
    assert!((1 << 20..2 << 20).contains(&found.bytes), "{found:?}");
    // volume, a, a/b, file, loop, out, sparse
    assert_eq!((found.inodes, found.incomplete), (7, false));
    assert!(
        usage(&root.join("out"), 1000).unwrap().bytes < 1 << 20,
        "a link is not followed at the top, either"
    );
    assert!(usage(&root.join("a/b/file"), 1).unwrap().bytes >= 1 << 20);
    assert!(usage(&root.join("nothing"), 1).is_err());
    for n in 0..50 {
        fs::write(outside.join(n.to_string()), "x").unwrap();
    }
    let found = usage(&outside, 20).unwrap();
    assert_eq!((found.inodes, found.incomplete), (21, true));
}

#[test]
fn nothing_is_hidden_by_depth() {
    let dir = tempfile::tempdir().unwrap();
    let mut at = Dir::open(dir.path()).unwrap();
    for _ in 0..300 {
        at = at.make_new("a_directory_with_a_name_that_is_somewhat_long", Access::mode(0o700)).unwrap();
    }
    let mut file = at.create_new("file", Access::mode(0o600)).unwrap();
    file.write_all(&vec![1; 1 << 20]).unwrap();
    let found = usage(dir.path(), 10_000).unwrap();
    assert_eq!((found.inodes, found.incomplete), (302, false));
    assert!(found.bytes >= 1 << 20, "{found:?}");
}
