//! The documents that describe an image: manifest, index, configuration. Whoever wrote them may be an enemy: their sizes,
//! the lengths of their lists and their digests are bounded and checked here, before anything is done with them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// As much as registries take as a manifest.
pub(super) const MAX_MANIFEST: u64 = 4 << 20;
/// Real ones have some tens of kilobytes.
pub(super) const MAX_CONFIG: u64 = 4 << 20;
/// Docker makes at most 127; the kernel takes 500, but the options of a mount are limited to a page.
pub(super) const MAX_LAYERS: usize = 200;
/// Platforms and attestations of one index.
const MAX_MANIFESTS: usize = 1000;
/// Variables or arguments of an image.
const MAX_STRINGS: usize = 10_000;

/// The part of an image's configuration that running needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImageConfig {
    #[serde(rename = "User")]
    pub(crate) user: String,
    #[serde(rename = "Env", deserialize_with = "at_most::<_, _, MAX_STRINGS>")]
    pub(crate) env: Vec<String>,
    #[serde(rename = "Entrypoint", deserialize_with = "at_most::<_, _, MAX_STRINGS>")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(rename = "Cmd", deserialize_with = "at_most::<_, _, MAX_STRINGS>")]
    pub(crate) cmd: Vec<String>,
    #[serde(rename = "WorkingDir")]
    pub(crate) working_dir: String,
    #[serde(rename = "StopSignal")]
    pub(crate) stop_signal: String,
}

/// An image configuration file.
#[derive(Debug, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    config: Option<ImageConfig>,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(deserialize_with = "at_most::<_, _, MAX_LAYERS>")]
    diff_ids: Vec<Digest>,
}

/// What a configuration file says.
#[derive(Debug)]
pub(super) struct Configuration {
    pub(super) config: ImageConfig,
    /// Digests of the unpacked layers, lowest first.
    pub(super) diff_ids: Vec<Digest>,
}

impl Configuration {
    pub(super) fn parse(bytes: &[u8]) -> Result<Configuration, String> {
        let file: ConfigFile =
            serde_json::from_slice(bytes).map_err(|error| format!("configuration: {error}"))?;
        Ok(Configuration { config: file.config.unwrap_or_default(), diff_ids: file.rootfs.diff_ids })
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Descriptor {
    pub(super) digest: Digest,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: Annotations,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// Those that name an image in an archive.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Annotations {
    #[serde(default, rename = "io.containerd.image.name")]
    containerd: Option<String>,
    #[serde(default, rename = "org.opencontainers.image.ref.name")]
    oci: Option<String>,
}

impl Descriptor {
    /// For this machine, as far as is said.
    pub(super) fn is_ours(&self) -> bool {
        self.platform.as_ref().is_none_or(Platform::is_ours)
    }

    /// The image's name, where the archive's writer has put it.
    pub(super) fn name(&self) -> Option<&str> {
        self.annotations.containerd.as_deref().or(self.annotations.oci.as_deref())
    }
}

impl Platform {
    fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == architecture()
    }
}

/// Go's name for this machine's architecture, as images use it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Document {
    Image(ImageManifest),
    Index(Vec<Descriptor>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct ImageManifest {
    pub(super) config: Descriptor,
    /// Lowest first.
    pub(super) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "some_at_most::<_, _, MAX_LAYERS>")]
    layers: Option<Vec<Descriptor>>,
    #[serde(default, deserialize_with = "some_at_most::<_, _, MAX_MANIFESTS>")]
    manifests: Option<Vec<Descriptor>>,
}

/// The media types of manifests; what a registry is asked for.
pub(super) const IMAGE_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
pub(super) const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

impl Document {
    /// Reads a manifest or an index. What could be taken for either is refused, for then two readers may see two images
    /// below one digest (CVE-2021-41190).
    pub(super) fn parse(bytes: &[u8]) -> Result<Document, String> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| format!("manifest: {error}"))?;
        if raw.schema_version != Some(2) {
            return Err("manifest: unsupported schema version".to_owned());
        }
        let said = raw.media_type.as_deref();
        let fits = |types: [&str; 2]| said.is_none_or(|said| types.contains(&said));
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), layers, None) if fits(IMAGE_TYPES) => {
                Ok(Document::Image(ImageManifest { config, layers: layers.unwrap_or_default() }))
            }
            (None, None, Some(manifests)) if fits(INDEX_TYPES) => Ok(Document::Index(manifests)),
            _ => Err(format!(
                "manifest: neither an image nor an index{}",
                said.map(|said| format!(" (media type {said:?})")).unwrap_or_default()
            )),
        }
    }
}

/// The manifest of an index that is for this machine.
pub(super) fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(Platform::is_ours))
}

/// A list that cannot be longer than `N`, however long what it is read from is; `null` is an empty one.
pub(super) fn at_most<'de, D, T, const N: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    some_at_most::<D, T, N>(deserializer).map(Option::unwrap_or_default)
}

fn some_at_most<'de, D, T, const N: usize>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Items<T, const N: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Items<T, N> {
        type Value = Option<Vec<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {N}")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(item) = items.next_element()? {
                if all.len() == N {
                    return Err(serde::de::Error::custom(format!("more than {N} items")));
                }
                all.push(item);
            }
            Ok(Some(all))
        }
    }
    deserializer.deserialize_any(Items::<T, N>(PhantomData))
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(platform: Option<&str>) -> String {
        let digest = Digest::of(platform.unwrap_or_default().as_bytes());
        let platform = platform.map(|p| format!(r#","platform":{{"os":"linux","architecture":"{p}"}}"#));
        format!(r#"{{"digest":"{digest}","size":3{}}}"#, platform.unwrap_or_default())
    }

    #[test]
    fn a_document_is_an_image_or_an_index_and_never_both() {
        let one = descriptor(None);
        let [oci, docker] = IMAGE_TYPES;
        let cases = [
            (format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{one}]}}"#), Some("image")),
            (
                format!(r#"{{"schemaVersion":2,"mediaType":"{oci}","config":{one},"layers":null}}"#),
                Some("image"),
            ),
            (format!(r#"{{"schemaVersion":2,"manifests":[{one}]}}"#), Some("index")),
            (
                format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, INDEX_TYPES[1]),
                Some("index"),
            ),
            (format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{one}],"manifests":[{one}]}}"#), None),
            (format!(r#"{{"schemaVersion":2,"mediaType":"{docker}","manifests":[{one}]}}"#), None),
            (format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{one}}}"#, INDEX_TYPES[0]), None),
            (format!(r#"{{"schemaVersion":1,"config":{one},"layers":[]}}"#), None),
            (format!(r#"{{"config":{one},"layers":[]}}"#), None),
            (r#"{"schemaVersion":2}"#.to_owned(), None),
            (r#"{"schemaVersion":2,"config":{"digest":"../../pki"},"layers":[]}"#.to_owned(), None),
            (format!(r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":-1}}}}"#, Digest::of(b"")), None),
        ];
        for (text, want) in cases {
            let found = Document::parse(text.as_bytes()).ok().map(|document| match document {
                Document::Image(_) => "image",
                Document::Index(_) => "index",
            });
            assert_eq!(found, want, "{text}");
        }
    }

    #[test]
    fn lists_have_bounds() {
        let one = descriptor(None);
        let layers = |count: usize| {
            format!(
                r#"{{"schemaVersion":2,"config":{one},"layers":[{}]}}"#,
                vec![one.as_str(); count].join(",")
            )
        };
        assert!(Document::parse(layers(MAX_LAYERS).as_bytes()).is_ok());
        assert!(Document::parse(layers(MAX_LAYERS + 1).as_bytes()).is_err());
        let index = |count: usize| {
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec![one.as_str(); count].join(","))
        };
        assert!(Document::parse(index(MAX_MANIFESTS).as_bytes()).is_ok());
        assert!(Document::parse(index(MAX_MANIFESTS + 1).as_bytes()).is_err());
        let config = |env: usize, layers: usize| {
            let (env, id) = (vec!["\"\""; env].join(","), format!("{:?}", Digest::of(b"").to_string()));
            let ids = vec![id.as_str(); layers].join(",");
            format!(r#"{{"config":{{"Env":[{env}],"Cmd":null}},"rootfs":{{"diff_ids":[{ids}]}}}}"#)
        };
        assert!(Configuration::parse(config(MAX_STRINGS, MAX_LAYERS).as_bytes()).is_ok());
        assert!(Configuration::parse(config(MAX_STRINGS + 1, 1).as_bytes()).is_err());
        assert!(Configuration::parse(config(1, MAX_LAYERS + 1).as_bytes()).is_err());
    }

    #[test]
    fn diff_ids_must_be_digests() {
        for id in ["../../pki", "sha256:../../pki", "sha256:aaaaaaaaaaaaaaaé", ""] {
            let text = format!(r#"{{"rootfs":{{"diff_ids":[{id:?}]}}}}"#);
            assert!(Configuration::parse(text.as_bytes()).is_err(), "{id}");
        }
    }

    #[test]
    fn the_manifest_for_this_machine_is_chosen() {
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{}]}}"#,
            descriptor(None),
            descriptor(Some("s390x")),
            descriptor(Some(architecture()))
        );
        let Document::Index(manifests) = Document::parse(text.as_bytes()).unwrap() else { panic!() };
        assert_eq!(choose(&manifests), Some(&manifests[2]));
        assert_eq!(choose(&manifests[..2]), None);
    }
}
