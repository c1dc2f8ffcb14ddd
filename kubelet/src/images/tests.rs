//! Hostile layers, archives and registries, and who may use an image that is on the node.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::digest::Digest;
use super::unpack::unpack;
use super::{GarbagePolicy, Images, ImagesConfig, Wanted};
use crate::beneath::Dir;

mod archives;
mod registry;

/// One entry of a tar, raw: names are put there as they are.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    kind: u8,
    name: &'a [u8],
    link: &'a [u8],
    data: &'a [u8],
    uid: u64,
}

pub(super) const FILE: Member<'_> = Member { kind: b'0', name: b"", link: b"", data: b"x", uid: 0 };
const DIRECTORY: Member<'_> = Member { kind: b'5', data: b"", ..FILE };
const SYMLINK: Member<'_> = Member { kind: b'2', data: b"", ..FILE };
const HARD_LINK: Member<'_> = Member { kind: b'1', data: b"", ..FILE };
const PAX: Member<'_> = Member { kind: b'x', ..FILE };
const LONG_NAME: Member<'_> = Member { kind: b'L', ..FILE };

fn header(member: &Member<'_>, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let raw = header.as_old_mut();
    raw.name[..member.name.len()].copy_from_slice(member.name);
    raw.linkname[..member.link.len()].copy_from_slice(member.link);
    raw.linkflag = [member.kind];
    header.set_mode(0o644);
    header.set_uid(member.uid);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

pub(super) fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        out.extend_from_slice(header(member, member.data.len() as u64).as_bytes());
        out.extend_from_slice(member.data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

fn pax(key: &str, value: &str) -> Vec<u8> {
    let mut length = key.len() + value.len() + 3;
    while length != key.len() + value.len() + 3 + length.to_string().len() {
        length = key.len() + value.len() + 3 + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

fn unpacked(at: &Path, layer: &[u8]) -> std::io::Result<(Digest, u64)> {
    unpack(layer, &Dir::make(at, 0o755)?, 64 << 20)
}

#[test]
#[cfg_attr(not(root), ignore = "needs root")]
fn nothing_of_a_layer_lands_outside_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let absolute = outside.to_str().unwrap().as_bytes();
    let secret = outside.join("secret");
    let secret_path = secret.to_str().unwrap().as_bytes();
    let below = |name: &str| [absolute, b"/", name.as_bytes()].concat();
    let to_absolute = Member { name: b"out", link: absolute, ..SYMLINK };
    let to_relative = Member { name: b"out", link: b"../outside", ..SYMLINK };
    let to_secret = Member { name: b"l", link: secret_path, ..SYMLINK };
    let file = |name| Member { name, ..FILE };
    let (pax_path, pax_link) = (pax("path", "../evil"), pax("linkpath", secret.to_str().unwrap()));
    let long = pax("path", &"../".repeat(1000));
    let (absolute_file, absolute_whiteout) = (below("evil"), below(".wh.secret"));
    // What is to fail, and what is to be made below the layer instead.
    let cases: Vec<(&str, Vec<Member<'_>>, bool)> = vec![
        ("a name that leads up", vec![file(b"../evil")], false),
        ("and comes back", vec![file(b"a/../../layer/evil")], false),
        ("an absolute name", vec![file(&absolute_file)], true),
        ("an absolute whiteout", vec![file(&absolute_whiteout)], true),
        ("a name by PAX", vec![Member { data: &pax_path, ..PAX }, file(b"a")], false),
        ("a long name by PAX", vec![Member { data: &long, ..PAX }, file(b"a")], false),
        ("a name by GNU", vec![Member { data: b"../evil\0", ..LONG_NAME }, file(b"a")], false),
        ("through an absolute link", vec![to_absolute, file(b"out/evil")], true),
        ("through a relative link", vec![to_relative, file(b"out/evil")], true),
        ("a directory through a link", vec![to_absolute, Member { name: b"out/evil", ..DIRECTORY }], true),
        ("a directory over a link", vec![to_absolute, Member { name: b"out", ..DIRECTORY }], true),
        (
            "a link through a link",
            vec![to_absolute, Member { name: b"out/evil", link: b"x", ..SYMLINK }],
            true,
        ),
        ("a whiteout through a link", vec![to_absolute, file(b"out/.wh.secret")], true),
        ("through a relative one", vec![to_relative, file(b"out/.wh.secret")], true),
        ("an opaque one", vec![to_absolute, file(b"out/.wh..wh..opq")], true),
        ("a whiteout of nothing", vec![file(b"a/.wh.")], false),
        ("a whiteout of the directory", vec![file(b"a/.wh..")], false),
        ("a whiteout of its parent", vec![file(b"a/.wh...")], false),
        ("a whiteout of the root's parent", vec![file(b".wh...")], false),
        ("a file over a link", vec![to_secret, file(b"l")], true),
        ("an absolute hard link", vec![Member { name: b"h", link: secret_path, ..HARD_LINK }], false),
        ("a hard link up", vec![Member { name: b"h", link: b"../outside/secret", ..HARD_LINK }], false),
        ("by PAX", vec![Member { data: &pax_link, ..PAX }, Member { name: b"h", ..HARD_LINK }], false),
        (
            "a hard link through a link",
            vec![to_absolute, Member { name: b"h", link: b"out/secret", ..HARD_LINK }],
            false,
        ),
        (
            "a hard link to a link, and a file over it",
            vec![to_secret, Member { name: b"h", link: b"l", ..HARD_LINK }, file(b"h")],
            true,
        ),
        ("a hard link to nothing", vec![Member { name: b"h", link: b"/", ..HARD_LINK }], false),
        (
            "a directory made a link after the fact",
            vec![
                Member { name: b"d", ..DIRECTORY },
                file(b"d/a"),
                Member { name: b"d", ..to_absolute },
                file(b"d/evil"),
            ],
            true,
        ),
        ("a directory that is a file", vec![file(b"f"), file(b"f/evil")], false),
        ("links in a ring", vec![Member { name: b"r", link: b"r", ..SYMLINK }, file(b"r/evil")], false),
        ("a dot as name", vec![file(b"."), file(b"./"), file(b"/")], true),
    ];
    for (what, members, good) in cases {
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(&secret, "secret").unwrap();
        let before = fs::metadata(&secret).unwrap();
        let layer = dir.path().join("layer");
        let result = unpacked(&layer, &archive(&members));
        assert_eq!(result.is_ok(), good, "{what}: {result:?}");
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{what}: {names:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{what}");
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o700, "{what}");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret", "{what}");
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), before.nlink(), "{what}");
        fs::remove_dir_all(&layer).unwrap();
        fs::remove_dir_all(&outside).unwrap();
    }
}

#[test]
#[cfg_attr(not(root), ignore = "needs root")]
fn good_layers_are_what_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("layer");
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let (records, attribute) = (pax("path", &long), pax("SCHILY.xattr.user.key", "value"));
    let trusted = pax("SCHILY.xattr.trusted.overlay.redirect", "/etc");
    let global = pax("comment", "a commit");
    let (size, time) = (pax("size", "3"), pax("mtime", "1600000000.5"));
    let members = [
        Member { kind: b'g', data: &global, ..FILE },
        Member { name: b"./", ..DIRECTORY },
        Member { name: b"usr/lib/", ..DIRECTORY },
        Member { name: b"lib", link: b"usr/lib", ..SYMLINK },
        Member { name: b"lib/by-link", ..FILE },
        Member { name: b"etc", link: b"/usr", ..SYMLINK },
        Member { name: b"etc/by-root", ..FILE },
        Member { name: b"hard", link: b"/usr/lib/by-link", ..HARD_LINK },
        Member { name: b"owned", uid: 1000, ..FILE },
        Member { data: &records, ..PAX },
        FILE,
        Member { data: &attribute, ..PAX },
        Member { name: b"attribute", ..FILE },
        Member { data: &trusted, ..PAX },
        Member { name: b"plain", ..FILE },
        Member { data: &[size, time].concat(), ..PAX },
        Member { name: b"times", data: b"abc", ..FILE },
        Member { name: b"gone/.wh.file", data: b"", ..FILE },
        Member { name: b"new/.wh..wh..opq", data: b"", ..FILE },
        Member { name: b".wh..wh.plnk", data: b"", ..FILE },
        Member { name: b"twice", data: b"first", ..FILE },
        Member { name: b"twice", data: b"second", ..FILE },
        Member { kind: b'3', name: b"device", data: b"", ..FILE },
        Member { kind: b'6', name: b"pipe", data: b"", ..FILE },
    ];
    let mut bytes = archive(&members);
    // Old writers leave numbers out.
    let mut bare = header(&Member { name: b"bare", ..FILE }, 0);
    let old = bare.as_old_mut();
    (old.uid, old.gid, old.mode, old.size, old.mtime) = ([0; 8], [b' '; 8], [0; 8], [0; 12], [0; 12]);
    bare.set_cksum();
    bytes.splice(0..0, *bare.as_bytes());
    assert_eq!(unpacked(&layer, &bytes).unwrap(), (Digest::of(&bytes), bytes.len() as u64));
    assert!(layer.join("usr/lib/by-link").is_file());
    assert!(layer.join("usr/by-root").is_file() && layer.join("bare").is_file());
    assert_eq!(fs::metadata(layer.join("hard")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(layer.join("owned")).unwrap().uid(), 1000);
    assert!(layer.join(&long).is_file());
    assert_eq!(fs::read_to_string(layer.join("twice")).unwrap(), "second");
    assert_eq!(fs::metadata(layer.join("times")).unwrap().mtime(), 1_600_000_000);
    assert_eq!(fs::metadata(layer.join("usr/lib")).unwrap().mtime(), 1_700_000_000);
    assert!(layer.join("device").is_file(), "an image has no devices of the machine");
    assert!(fs::metadata(layer.join("pipe")).unwrap().file_type().is_fifo());
    let whiteout = fs::symlink_metadata(layer.join("gone/file")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let attribute = |path: &str, name: &str| {
        let mut value = [0; 64];
        let length = rustix::fs::lgetxattr(layer.join(path), name, &mut value[..]).ok()?;
        Some(String::from_utf8_lossy(&value[..length]).into_owned())
    };
    assert_eq!(attribute("attribute", "user.key").as_deref(), Some("value"));
    assert_eq!(attribute("new", "trusted.overlay.opaque").as_deref(), Some("y"));
    assert_eq!(
        attribute("plain", "trusted.overlay.redirect"),
        None,
        "what shows through is not the image's affair"
    );
}

#[test]
#[cfg_attr(not(root), ignore = "needs root")]
fn layers_that_promise_too_much_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let large = vec![b'1'; (1 << 20) + 1];
    let file = Member { name: b"f", ..FILE };
    let (huge_size, overflow) = (pax("size", "999999999999"), pax("size", &u64::MAX.to_string()));
    let (uid, sparse, zero) = (pax("uid", "4294967295"), pax("GNU.sparse.major", "1"), pax("path", "a\0b"));
    let with = |records: &'static [u8]| archive(&[Member { data: records, ..PAX }, file]);
    let leak = |records: Vec<u8>| -> &'static [u8] { records.leak() };
    let mut truncated = archive(&[Member { data: &[b'x'; 4096], ..file }]);
    truncated.truncate(2048);
    let mut broken = archive(&[file]);
    broken[0] ^= 1;
    let mut sparse_header = header(&Member { kind: b'S', ..file }, 1);
    sparse_header.as_gnu_mut().unwrap().set_real_size(1 << 50);
    sparse_header.as_gnu_mut().unwrap().sparse[0].set_offset(1 << 49);
    sparse_header.as_gnu_mut().unwrap().sparse[0].set_length(1);
    sparse_header.set_cksum();
    let sparse_file = [&sparse_header.as_bytes()[..], &[0; 1536]].concat();
    let cases = [
        ("a large name", archive(&[Member { data: &large, ..LONG_NAME }, file])),
        ("large records", archive(&[Member { data: &large, ..PAX }, file])),
        ("a path beyond the kernel's", archive(&[Member { data: &large[..5000], ..LONG_NAME }, file])),
        ("more data than there is", with(leak(huge_size))),
        ("a size that overflows", with(leak(overflow))),
        ("an owner that is nobody's", with(leak(uid))),
        ("an owner beyond 32 bits", archive(&[Member { uid: 1 << 32, ..file }])),
        ("an owner that means: as it is", archive(&[Member { uid: u64::from(u32::MAX), ..file }])),
        ("a sparse file of the other kind", with(leak(sparse))),
        ("a petabyte of holes", sparse_file),
        ("a name that ends early", with(leak(zero))),
        ("records that are none", with(b"99 path=x\n")),
        ("an unknown type", archive(&[Member { kind: b'?', ..file }])),
        ("a cut stream", truncated),
        ("a wrong checksum", broken),
        ("more bytes than it may have", archive(&vec![Member { data: &large, ..file }; 65])),
    ];
    for (n, (what, layer)) in cases.into_iter().enumerate() {
        let at = dir.path().join(n.to_string());
        assert!(unpacked(&at, &layer).is_err(), "{what}");
    }
    let many = archive(&[file; 11]);
    let mut entries = super::entries::Entries::new(&many[..], 10);
    assert!((0..10).all(|_| matches!(entries.next(), Ok(Some(_)))));
    assert!(entries.next().is_err(), "entries are counted");
}

/// Numbers that are the same in every run.
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b"/.0\\\"{[:"[self.below(8)]),
            }
        }
    }
}

#[test]
#[cfg_attr(not(root), ignore = "needs root")]
fn spoilt_bytes_are_errors_and_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let records = [pax("path", "a/b"), pax("SCHILY.xattr.user.k", "v"), pax("mtime", "1.5")].concat();
    let layer = archive(&[
        Member { data: &records, ..PAX },
        FILE,
        Member { data: b"long/name\0", ..LONG_NAME },
        FILE,
        Member { name: b"l", link: b"/a", ..SYMLINK },
        Member { name: b"l/.wh.b", ..FILE },
        Member { name: b"h", link: b"long/name", ..HARD_LINK },
        Member { name: b"d", ..DIRECTORY },
    ]);
    let digest = Digest::of(b"");
    let part = serde_json::json!({"digest": digest.to_string(), "size": 1, "annotations": {"a": "b"}});
    let documents = [
        serde_json::json!({"schemaVersion": 2, "config": part, "layers": [part]}).to_string(),
        serde_json::json!({"schemaVersion": 2, "manifests": [part]}).to_string(),
        configuration(&[digest.to_string()]),
    ];
    let names = [format!("r.example.com:5000/team/app:v1@{digest}"), "[::1]:5000/a".to_owned()];
    let mut noise = Noise(1);
    for round in 0..400 {
        let mut spoilt = layer.clone();
        noise.spoil(&mut spoilt);
        // Mostly the checksum is wrong: sometimes it is mended, so that the rest is looked at.
        if round % 2 == 0 {
            for block in spoilt.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
                let mut header = tar::Header::new_gnu();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        let at = dir.path().join("room").join(round.to_string());
        fs::create_dir_all(dir.path().join("room")).unwrap();
        let _ = unpacked(&at, &spoilt);
        for document in &documents {
            let mut spoilt = document.clone().into_bytes();
            noise.spoil(&mut spoilt);
            let _ = super::manifest::Document::parse(&spoilt);
            let _ = super::manifest::Configuration::parse(&spoilt);
        }
        for name in &names {
            let mut spoilt = name.clone().into_bytes();
            noise.spoil(&mut spoilt);
            let _ = super::ImageName::parse(&String::from_utf8_lossy(&spoilt));
        }
    }
    assert_eq!(entries_of(dir.path()), 1);
    assert_eq!(entries_of(&dir.path().join("room")), 400);
}

#[test]
#[cfg_attr(not(root), ignore = "needs root")]
fn holes_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let mut header = header(&Member { kind: b'S', name: b"sparse", ..FILE }, 3);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(32 << 20);
    gnu.sparse[0].set_offset(16 << 20);
    gnu.sparse[0].set_length(3);
    header.set_cksum();
    let mut layer = [header.as_bytes().as_slice(), b"abc"].concat();
    layer.resize(2560, 0);
    unpacked(dir.path(), &layer).unwrap();
    let found = fs::metadata(dir.path().join("sparse")).unwrap();
    assert_eq!(found.len(), 32 << 20);
    assert!(found.blocks() * 512 < 1 << 20);
    let bytes = fs::read(dir.path().join("sparse")).unwrap();
    assert_eq!(&bytes[16 << 20..(16 << 20) + 4], b"abc\0");
}

#[test]
fn streams_are_unpacked_within_a_ratio() {
    assert_eq!(super::unpack::most_unpacked(1000), 4 << 30);
    assert_eq!(super::unpack::most_unpacked(1 << 30), 50 << 30);
    assert_eq!(super::unpack::most_unpacked(u64::MAX), u64::MAX);
}

pub(super) fn configuration(diff_ids: &[String]) -> String {
    let (os, diff_ids) = ("linux", serde_json::json!(diff_ids));
    serde_json::json!({"os": os, "config": {"User": "7"}, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
}

fn entries_of(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}
