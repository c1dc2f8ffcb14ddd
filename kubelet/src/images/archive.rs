//! Imports what `docker save`, `skopeo` and `buildah` write: docker-archive and OCI-layout tars.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::reference::ImageName;
use super::store::{ConfigFile, Entry, Store};
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

impl Members {
    fn open(path: &Path, store: &Store) -> io::Result<Members> {
        let mut reader = BufReader::new(File::open(path)?);
        let compressed = {
            let mut magic = [0; 4];
            let read = reader.read(&mut magic)?;
            reader.seek(SeekFrom::Start(0))?;
            magic[..read].starts_with(&[0x1f, 0x8b]) || magic[..read] == [0x28, 0xb5, 0x2f, 0xfd]
        };
        let file = if compressed {
            let scratch = store.scratch();
            let mut plain = File::options().read(true).write(true).create_new(true).open(&scratch)?;
            std::fs::remove_file(&scratch)?;
            io::copy(&mut unpack::decompress(reader)?, &mut plain)?;
            plain.rewind()?;
            plain
        } else {
            reader.into_inner()
        };
        let mut offsets = HashMap::new();
        let mut links = Vec::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = clean(&entry.path()?);
            match entry.link_name()? {
                // docker-archive writers link equal layers to each other.
                Some(target) => links.push((name, clean(&target))),
                None => {
                    offsets.insert(name, (entry.raw_file_position(), entry.size()));
                }
            }
        }
        for (name, target) in links {
            let found = offsets.get(&target).or_else(|| {
                let sibling = Path::new(&name).parent().map(|parent| clean(&parent.join(&target)));
                sibling.and_then(|sibling| offsets.get(&sibling))
            });
            if let Some(found) = found.copied() {
                offsets.insert(name, found);
            }
        }
        Ok(Members { file, offsets })
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream(name)?.take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn stream(&self, name: &str) -> io::Result<impl Read + use<>> {
        let (offset, size) = *self
            .offsets
            .get(name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("the archive has no {name}")))?;
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.take(size))
    }

    fn blob(&self, digest: &str) -> io::Result<Vec<u8>> {
        let bytes = self.read(&blob_path(digest))?;
        let found = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        if found == digest {
            Ok(bytes)
        } else {
            Err(io::Error::other(format!("blob {digest} has digest {found}")))
        }
    }
}

/// Member names without `./`, `..` and leading slashes.
fn clean(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts.join("/")
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

#[derive(Deserialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// Imports every image of the archive. `name` replaces the archive's own names when it holds one image.
pub(super) fn import(store: &Store, path: &Path, name: Option<&str>) -> io::Result<Vec<ImageInfo>> {
    let members = Members::open(path, store)?;
    if members.offsets.contains_key("manifest.json") {
        return import_docker(store, &members, name);
    }
    if members.offsets.contains_key("index.json") {
        let index: Manifest = parse(&members.read("index.json")?)?;
        let mut images = Vec::new();
        for descriptor in index.manifests {
            images.extend(import_oci(store, &members, &descriptor, name, 0)?);
        }
        return Ok(images);
    }
    Err(io::Error::other("neither manifest.json nor index.json: not an image archive"))
}

fn import_docker(store: &Store, members: &Members, name: Option<&str>) -> io::Result<Vec<ImageInfo>> {
    let images: Vec<DockerImage> = parse(&members.read("manifest.json")?)?;
    let mut imported = Vec::new();
    for image in images {
        let bytes = members.read(&image.config)?;
        let tags = match name {
            Some(name) => vec![name.to_owned()],
            None => image.repo_tags.unwrap_or_default(),
        };
        imported.push(add(store, members, &bytes, &image.layers, &tags, None)?);
    }
    Ok(imported)
}

fn import_oci(
    store: &Store,
    members: &Members,
    descriptor: &Descriptor,
    name: Option<&str>,
    depth: u32,
) -> io::Result<Vec<ImageInfo>> {
    let matches = descriptor.platform.as_ref().is_none_or(|platform| {
        platform.os == "linux" && platform.architecture == super::pull::architecture()
    });
    if !matches || depth > MAX_DEPTH {
        return Ok(Vec::new());
    }
    let manifest: Manifest = parse(&members.blob(&descriptor.digest)?)?;
    let own = descriptor
        .annotations
        .get("io.containerd.image.name")
        .or_else(|| descriptor.annotations.get("org.opencontainers.image.ref.name"));
    let name = name.or(own.map(String::as_str));
    let Some(config) = manifest.config else {
        let mut images = Vec::new();
        for nested in manifest.manifests {
            images.extend(import_oci(store, members, &nested, name, depth + 1)?);
        }
        return Ok(images);
    };
    let bytes = members.blob(&config.digest)?;
    let layers: Vec<String> = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
    let tags: Vec<String> = name.map(str::to_owned).into_iter().collect();
    let compressed = manifest.layers.iter().map(|layer| layer.size).sum();
    Ok(vec![add(store, members, &bytes, &layers, &tags, Some((&descriptor.digest, compressed)))?])
}

fn add(
    store: &Store,
    members: &Members,
    config: &[u8],
    layers: &[String],
    tags: &[String],
    manifest: Option<(&str, u64)>,
) -> io::Result<ImageInfo> {
    let id = format!("sha256:{}", hex::encode(Sha256::digest(config)));
    let file: ConfigFile = parse(config)?;
    if file.rootfs.diff_ids.len() != layers.len() {
        return Err(io::Error::other(
            "the image's configuration and manifest name different numbers of layers",
        ));
    }
    let mut size = 0;
    for (diff_id, member) in file.rootfs.diff_ids.iter().zip(layers) {
        size += members.offsets.get(member).map_or(0, |(_, size)| *size);
        if !store.has_layer(diff_id) {
            store.add_layer(BufReader::with_capacity(1 << 16, members.stream(member)?), diff_id)?;
        }
    }
    let names: Vec<ImageName> =
        tags.iter().map(|tag| ImageName::parse(tag)).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let digests = match manifest {
        Some((digest, _)) => names.iter().map(|name| name.with_digest(digest)).collect(),
        None => Vec::new(),
    };
    let entry = Entry {
        tags: names.iter().map(ToString::to_string).collect(),
        digests,
        size: manifest.map_or(size, |(_, compressed)| compressed) + config.len() as u64,
        layers: file.rootfs.diff_ids,
        config: file.config.unwrap_or_default(),
    };
    store.add(&id, entry)
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(io::Error::other)
}
