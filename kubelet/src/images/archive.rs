//! Imports what `docker save`, `skopeo` and `buildah` write: docker-archive and OCI-layout tars.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path};

use serde::Deserialize;

use super::digest::Digest;
use super::entries::{Entries, Kind};
use super::manifest::{Configuration, Descriptor, Document, MAX_CONFIG, MAX_LAYERS, at_most};
use super::reference::ImageName;
use super::room::Room;
use super::store::{Entry, Store};
use super::unpack;
use crate::cri::ImageInfo;

/// Where each member's bytes lie in the (uncompressed) archive.
struct Members {
    file: File,
    offsets: HashMap<String, (u64, u64)>,
}

/// Images are not nested deeper than an index of indexes, and their documents are small.
const MAX_DOCUMENT: u64 = 8 << 20;
const MAX_DEPTH: u32 = 4;
/// Documents and layers of one archive, and its images.
const MAX_MEMBERS: u64 = 100_000;
const MAX_IMAGES: usize = 1000;

impl Members {
    fn open(path: &Path, store: &Store) -> io::Result<Members> {
        let mut reader = BufReader::new(File::open(path)?);
        let compressed = {
            let mut magic = [0; 4];
            let read = reader.read(&mut magic)?;
            reader.seek(SeekFrom::Start(0))?;
            magic[..read].starts_with(&[0x1f, 0x8b]) || magic[..read] == [0x28, 0xb5, 0x2f, 0xfd]
        };
        let file = if compressed { decompress(reader, store)? } else { reader.into_inner() };
        let mut offsets = HashMap::new();
        let mut links = Vec::new();
        let mut archive = Entries::new(BufReader::new(file.try_clone()?), MAX_MEMBERS);
        let end = file.metadata()?.len();
        while let Some(entry) = archive.next_after(|reader, bytes| {
            // A position beyond any file is none.
            reader.seek_relative(i64::try_from(bytes).map_err(io::Error::other)?)
        })? {
            let name = clean(&entry.path);
            match entry.kind {
                // docker-archive writers link equal layers to each other.
                Kind::HardLink | Kind::SymbolicLink => links.push((name, clean(&entry.link), entry.link)),
                Kind::File if entry.pieces.is_none() => {
                    let offset = archive.inner().stream_position()?;
                    if offset.checked_add(entry.size).is_none_or(|after| after > end) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    offsets.insert(name, (offset, entry.size));
                }
                Kind::File | Kind::Directory | Kind::Fifo | Kind::Device => {}
            }
        }
        for (name, target, raw) in links {
            let found = offsets.get(&target).or_else(|| {
                let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                offsets.get(&clean(&[parent.as_bytes(), b"/", &raw].concat()))
            });
            if let Some(found) = found.copied() {
                offsets.insert(name, found);
            }
        }
        Ok(Members { file, offsets })
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let (_, size) = self.place(name)?;
        if size > MAX_DOCUMENT {
            return Err(io::Error::other(format!("{name} has {size} bytes, more than {MAX_DOCUMENT}")));
        }
        let mut bytes = Vec::new();
        self.stream(name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn place(&self, name: &str) -> io::Result<(u64, u64)> {
        self.offsets
            .get(name)
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("the archive has no {name}")))
    }

    fn stream(&self, name: &str) -> io::Result<impl Read + use<>> {
        let (offset, size) = self.place(name)?;
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.take(size))
    }

    fn blob(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        let bytes = self.read(&blob_path(digest))?;
        let found = Digest::of(&bytes);
        if found == *digest {
            Ok(bytes)
        } else {
            Err(io::Error::other(format!("blob {digest} has digest {found}")))
        }
    }
}

/// Puts the plain archive down where it takes no name.
fn decompress(reader: BufReader<File>, store: &Store) -> io::Result<File> {
    const PIECE: u64 = 8 << 20;
    let compressed = reader.get_ref().metadata()?.len();
    let (scratch, mut plain) = store.scratch_file()?;
    let mut stream = unpack::decompress(reader)?.take(unpack::most_unpacked(compressed));
    let mut room = Room::new(store.handle());
    loop {
        let copied = io::copy(&mut (&mut stream).take(PIECE), &mut plain)?;
        room.wrote(copied)?;
        if copied < PIECE {
            break;
        }
    }
    plain.flush()?;
    store.read_scratch(&scratch)
}

/// Member names without `./`, `..` and leading slashes.
fn clean(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut parts: Vec<String> = Vec::new();
    for part in Path::new(&*text).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    parts.join("/")
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

#[derive(Deserialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default, deserialize_with = "at_most::<_, _, MAX_IMAGES>")]
    repo_tags: Vec<String>,
    #[serde(rename = "Layers", deserialize_with = "at_most::<_, _, MAX_LAYERS>")]
    layers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct DockerImages(#[serde(deserialize_with = "at_most::<_, _, MAX_IMAGES>")] Vec<DockerImage>);

/// Imports every image of the archive. `name` replaces the archive's own names when it holds one image.
pub(super) fn import(store: &Store, path: &Path, name: Option<&str>) -> io::Result<Vec<ImageInfo>> {
    let members = Members::open(path, store)?;
    if members.offsets.contains_key("manifest.json") {
        return import_docker(store, &members, name);
    }
    if members.offsets.contains_key("index.json") {
        let bytes = members.read("index.json")?;
        let Document::Index(manifests) = Document::parse(&bytes).map_err(io::Error::other)? else {
            return Err(io::Error::other("index.json is no index"));
        };
        return import_all(store, &members, &manifests, name, 0);
    }
    Err(io::Error::other("neither manifest.json nor index.json: not an image archive"))
}

fn import_docker(store: &Store, members: &Members, name: Option<&str>) -> io::Result<Vec<ImageInfo>> {
    let images: DockerImages =
        serde_json::from_slice(&members.read("manifest.json")?).map_err(io::Error::other)?;
    let mut imported = Vec::new();
    for image in images.0 {
        let bytes = members.read(&image.config)?;
        let tags = match name {
            Some(name) => vec![name.to_owned()],
            None => image.repo_tags,
        };
        imported.push(add(store, members, &bytes, &image.layers, &tags, None)?);
    }
    Ok(imported)
}

fn import_all(
    store: &Store,
    members: &Members,
    manifests: &[Descriptor],
    name: Option<&str>,
    depth: u32,
) -> io::Result<Vec<ImageInfo>> {
    let mut images = Vec::new();
    for descriptor in manifests.iter().filter(|descriptor| descriptor.is_ours()) {
        let name = name.or(descriptor.name());
        let document = Document::parse(&members.blob(&descriptor.digest)?).map_err(io::Error::other)?;
        let manifest = match document {
            Document::Image(manifest) => manifest,
            Document::Index(nested) if depth < MAX_DEPTH => {
                images.extend(import_all(store, members, &nested, name, depth + 1)?);
                continue;
            }
            Document::Index(_) => return Err(io::Error::other("indexes within indexes")),
        };
        if images.len() == MAX_IMAGES {
            return Err(io::Error::other(format!("more than {MAX_IMAGES} images")));
        }
        let bytes = members.blob(&manifest.config.digest)?;
        let layers: Vec<String> = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        let tags: Vec<String> = name.map(str::to_owned).into_iter().collect();
        images.push(add(store, members, &bytes, &layers, &tags, Some(&descriptor.digest))?);
    }
    Ok(images)
}

fn add(
    store: &Store,
    members: &Members,
    config: &[u8],
    layers: &[String],
    tags: &[String],
    manifest: Option<&Digest>,
) -> io::Result<ImageInfo> {
    if config.len() as u64 > MAX_CONFIG {
        return Err(io::Error::other(format!("the configuration has more than {MAX_CONFIG} bytes")));
    }
    let id = Digest::of(config);
    let file = Configuration::parse(config).map_err(io::Error::other)?;
    if file.diff_ids.len() != layers.len() {
        return Err(io::Error::other(
            "the image's configuration and manifest name different numbers of layers",
        ));
    }
    let mut size = config.len() as u64;
    let mut missing = BTreeMap::new();
    for (diff_id, member) in file.diff_ids.iter().zip(layers) {
        let bytes = members.place(member).map_or(0, |(_, bytes)| bytes);
        size = size.saturating_add(bytes);
        if !store.has_layer(diff_id) {
            missing.insert(*diff_id, (member, bytes));
        }
    }
    // The archive itself is on the disk already.
    store.expect(missing.values().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add) / 2)?;
    let mut most = unpack::most_unpacked(size);
    for (diff_id, (member, _)) in missing {
        let layer = BufReader::with_capacity(1 << 16, members.stream(member)?);
        most = most.saturating_sub(store.add_layer(layer, most, &diff_id)?);
    }
    let names: Vec<ImageName> =
        tags.iter().map(|tag| ImageName::parse(tag)).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let digests = match manifest {
        Some(digest) => names.iter().map(|name| name.with_digest(digest)).collect(),
        None => Vec::new(),
    };
    let entry = Entry {
        tags: names.iter().map(ToString::to_string).collect(),
        digests,
        size,
        layers: file.diff_ids,
        config: file.config,
        pulls: None,
    };
    store.add(&id, entry, None)
}
