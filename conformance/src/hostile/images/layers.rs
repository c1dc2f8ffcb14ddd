//! Images made by hand: tar entries with any name and any lie, configurations, manifests.

use std::collections::HashMap;
use std::io::Write;

use anyhow::Result;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::registry::{MANIFEST, Repository, Served};

pub(super) const FILE: u8 = b'0';
pub(super) const HARD_LINK: u8 = b'1';
pub(super) const LINK: u8 = b'2';
pub(super) const DEVICE: u8 = b'4';
pub(super) const DIRECTORY: u8 = b'5';
pub(super) const FIFO: u8 = b'6';

pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// One entry of a tar file: ustar, with whatever it is given.
pub(super) fn entry(kind: u8, name: &str, link: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}\0", data.len());
    let mut out = header(kind, name, link, mode, size.as_bytes());
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// The head of an entry, with a size that may be a lie.
pub(super) fn header(kind: u8, name: &str, link: &str, mode: u32, size: &[u8]) -> Vec<u8> {
    let mut head = [0; 512];
    let mut put = |at: usize, room: usize, bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(room)];
        head[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, 100, name.as_bytes());
    put(100, 8, format!("{mode:07o}\0").as_bytes());
    put(108, 8, b"0000000\0");
    put(116, 8, b"0000000\0");
    put(124, 12, size);
    put(136, 12, b"00000000000\0");
    put(148, 8, b"        ");
    put(156, 1, &[kind]);
    put(157, 100, link.as_bytes());
    put(257, 8, b"ustar\x0000");
    // The numbers of /dev/mem, for devices.
    put(329, 8, b"0000001\0");
    put(337, 8, b"0000001\0");
    let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    head.to_vec()
}

/// A name or link longer than a header has room for, as GNU tar writes it.
pub(super) fn long(kind: u8, text: &str) -> Vec<u8> {
    entry(kind, "././@LongLink", "", 0, &[text.as_bytes(), b"\0"].concat())
}

/// The end of a tar file.
pub(super) fn tar(entries: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut out = entries.into_iter().collect::<Vec<_>>().concat();
    out.extend([0; 1024]);
    out
}

/// A shell and what it needs: this machine's busybox, which needs nothing.
pub(super) fn shell() -> Result<Vec<u8>> {
    let busybox = std::fs::read("/bin/busybox")?;
    let directories = ["bin", "dev", "etc", "proc", "sys", "tmp"];
    let mut entries: Vec<Vec<u8>> = directories.map(|d| entry(DIRECTORY, d, "", 0o1777, &[])).to_vec();
    entries.push(entry(FILE, "bin/busybox", "", 0o755, &busybox));
    for applet in ["sh", "cat", "head", "id", "ls", "sleep", "grep", "mount", "rm", "ln", "mkdir"] {
        entries.push(entry(LINK, &format!("bin/{applet}"), "busybox", 0o777, &[]));
    }
    Ok(tar(entries))
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::best());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// An image before it is put on the shelf: everything about it can be made wrong.
pub(super) struct Image {
    /// What is in each layer's blob, and the digest of what is in that.
    pub(super) layers: Vec<(Served, String)>,
    pub(super) config: Value,
    /// Replaces the configuration's bytes.
    pub(super) config_as: Option<Served>,
    /// What a layer is said to have: its true digest is used where there is none.
    pub(super) said: Option<(String, u64)>,
}

// === impl Image ===

impl Image {
    /// An image of these tar files.
    pub(super) fn of(tars: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let layers = tars.into_iter().map(|tar| (Served::Bytes(gzip(&tar).into()), digest(&tar))).collect();
        let config = json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]});
        Image { layers, config, config_as: None, said: None }
    }

    pub(super) fn config(mut self, name: &str, value: Value) -> Self {
        self.config[name] = value;
        self
    }

    pub(super) fn repository(self) -> Repository {
        let diff_ids: Vec<&String> = self.layers.iter().map(|(_, id)| id).collect();
        let config = json!({"architecture": architecture(), "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = Bytes::from(config.to_string());
        let mut blobs = HashMap::new();
        let mut layers = vec![];
        for (blob, _) in &self.layers {
            let (digest, size) = match (&self.said, blob) {
                (Some(said), _) => said.clone(),
                (None, Served::Bytes(bytes)) => (digest(bytes), bytes.len() as u64),
                (None, _) => (digest(b""), 0),
            };
            layers.push(json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size}));
            blobs.insert(digest, blob.clone());
        }
        let of_config = digest(&config);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": of_config, "size": config.len()}});
        blobs.insert(of_config, self.config_as.unwrap_or(Served::Bytes(config)));
        let manifest = Served::Bytes(manifest.to_string().into());
        Repository { manifest, claimed: None, blobs, guarded: None }
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_their_sum_and_digests_their_digits() {
        let made = entry(FILE, "../a", "", 0o644, b"data");
        assert_eq!(made.len(), 1024);
        let sum = std::str::from_utf8(&made[148..154]).ok().and_then(|s| u32::from_str_radix(s, 8).ok());
        let blanked = made[..148].iter().chain(&[b' '; 8]).chain(&made[156..512]);
        assert_eq!(sum, Some(blanked.map(|b| u32::from(*b)).sum()));
        assert_eq!(digest(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
