//! Hostile images: layers, archives, documents of registries.

use std::fs;
use std::path::Path;

use super::access::{self, VerificationPolicy};
use super::entries::Entries;
use super::manifest::{Configuration, Document, MAX_LAYERS, choose};
use super::mirrors::Mirrors;
use super::reference::ImageName;
use super::store::{self, Store};
use super::{archive, credentials, registry, unpack};
use crate::beneath::Dir;
use crate::cri::RegistryCredential;
use crate::fuzz::{Place, parts};

/// Entries that one input may have: each is made on disk.
const MOST: u64 = 64;
/// What one input may unpack to, in bytes.
const BYTES: u64 = 1 << 20;

/// A tar stream. The checksums of its headers are made right first, or no input would get beyond them.
pub(crate) fn layer(bytes: &[u8]) {
    let tar = with_checksums(bytes);
    let mut entries = Entries::new(&tar[..], MOST);
    let mut all = 0;
    loop {
        match entries.next() {
            Ok(Some(entry)) => {
                all += 1;
                assert!(entry.uid != u32::MAX && entry.gid != u32::MAX);
                let pieces = entry.pieces.iter().flatten().map(|(_, size)| size).sum::<u64>();
                assert!(pieces <= entry.size);
            }
            Ok(None) => break,
            Err(_) => return,
        }
    }
    assert!(all <= MOST);
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    fs::write(place.0.join("outside"), "untouched").expect("a file in memory");
    let target = Dir::make(place.0.join("layer"), 0o755).expect("a directory in memory");
    let _ = unpack::unpack(&tar[..], &target, BYTES);
    untouched(&place.0, &["layer", "outside"]);
}

fn untouched(place: &Path, names: &[&str]) {
    let mut found: Vec<String> = fs::read_dir(place)
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, names);
    assert_eq!(fs::read(place.join("outside")).expect("it is there"), b"untouched");
}

/// The bytes with right checksums where a header stands.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + 512) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if block.iter().any(|byte| *byte != 0) {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        let size = header.entry_size().unwrap_or(0).min(bytes.len() as u64);
        at += 512 + (size as usize).next_multiple_of(512);
    }
    tar
}

/// An archive, as `coracle image import` takes it.
pub(crate) fn archive(bytes: &[u8]) {
    let place = Place::new();
    let path = place.0.join("archive");
    fs::write(place.0.join("outside"), "untouched").expect("a file in memory");
    let plain = !bytes.starts_with(&[0x1f, 0x8b]) && !bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    let archive = if plain { with_checksums(bytes) } else { bytes.to_vec() };
    fs::write(&path, archive).expect("a file in memory");
    let store = Store::open(&place.0.join("store")).expect("a store in memory");
    if let Ok(images) = archive::import(&store, &path, None) {
        for image in images {
            assert!(store.list().iter().any(|known| known.id == image.id));
        }
    }
    untouched(&place.0, &["archive", "outside", "store"]);
}

/// What stands between NULs: a reference, a document, and a header of a challenge.
pub(crate) fn document(bytes: &[u8]) {
    let [reference, document, challenge] = parts(bytes);
    let text = String::from_utf8_lossy(reference);
    if let Ok(name) = ImageName::parse(&text) {
        let again = ImageName::parse(&name.to_string()).unwrap_or_else(|e| panic!("{name}: {e}"));
        // A digest says all.
        let tag = name.tag.clone().filter(|_| name.digest.is_none());
        assert_eq!(again, ImageName { tag, ..name.clone() }, "{text:?}");
        for part in name.repository.split('/') {
            assert!(!matches!(part, "" | "." | ".."), "{text:?}");
        }
        let of = |registry: &str| RegistryCredential {
            registry: registry.to_owned(),
            username: "u".to_owned(),
            password: "p".to_owned(),
            secret: None,
        };
        credentials::matching(&name, &[of(&text), of("*.example.com"), of(&name.registry)]);
    }
    let list = vec![text.clone().into_owned()];
    if let Ok(policy) = VerificationPolicy::NeverVerifyAllowlistedImages(list).checked() {
        assert_eq!(policy.checked().as_ref(), Ok(&policy), "{text:?}");
        access::decide(&policy, None, "docker.io/library/x");
    }
    match Document::parse(document) {
        Ok(Document::Image(image)) => assert!(image.layers.len() <= MAX_LAYERS),
        Ok(Document::Index(all)) => assert!(choose(&all).is_none_or(|chosen| chosen.is_ours())),
        Err(_) => {}
    }
    if let Ok(read) = Configuration::parse(document) {
        assert!(read.diff_ids.len() <= MAX_LAYERS);
        let written = serde_json::to_vec(&read.config).expect("it can be written");
        assert_eq!(serde_json::from_slice::<super::manifest::ImageConfig>(&written).ok(), Some(read.config));
    }
    store::hostile_index(document);
    let file = String::from_utf8_lossy(document);
    if let Ok(mirrors) = Mirrors::parse(&file) {
        for host in mirrors.hosts("docker.io", &[]) {
            assert!(!host.plain || registry::is_loopback(&host.address));
        }
    }
    registry::hostile_answer(document, challenge);
}
