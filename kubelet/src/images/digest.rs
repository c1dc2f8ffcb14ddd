//! Digests of contents: the only names that ever make a path in the image store.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// `sha256:` and 64 lower-case hex digits; nothing else can be one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest([u8; 32]);

/// The text of something that is no digest, shortened.
#[derive(Debug, thiserror::Error)]
#[error("invalid digest {0:?}: want sha256: and 64 lower-case hex digits")]
pub(crate) struct InvalidDigest(String);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The 64 hex digits: a name of a file.
    pub(crate) fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Digest, InvalidDigest> {
        let invalid = || InvalidDigest(text.chars().take(80).collect());
        let digits = text.strip_prefix("sha256:").ok_or_else(invalid)?;
        // Upper case would be a second name of the same content.
        if !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| invalid())?;
        Ok(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Knows the digest and the length of what went through it.
#[derive(Default)]
pub(super) struct Hasher {
    state: Sha256,
    length: u64,
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.length += bytes.len() as u64;
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

/// A reader that hashes what is read through it, and refuses to read more than it may.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Hasher,
    most: u64,
}

impl<R: Read> Hashing<R> {
    /// More than `most` bytes are an error.
    pub(super) fn new(inner: R, most: u64) -> Self {
        Hashing { inner, hasher: Hasher::default(), most }
    }

    /// Reads what is left (padding after an archive's end) and gives digest and length of all.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        let length = self.hasher.length();
        Ok((self.hasher.finish(), length))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        if self.hasher.length() > self.most {
            let why = format!("unpacks to more than {} bytes", self.most);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lower_case_sha256_digests_are_digests() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        assert_eq!(serde_json::from_str::<Digest>(&format!("{good:?}")).unwrap().to_string(), good);
        let bad = [
            String::new(),
            "sha256:".to_owned(),
            "../../pki".to_owned(),
            format!("sha256:../../{}", "a".repeat(58)),
            format!("sha256:{}", "0A".repeat(32)),
            format!("sha256:{}", "a".repeat(63)),
            format!("sha256:{}", "a".repeat(65)),
            format!("sha512:{}", "a".repeat(64)),
            "a".repeat(64),
            // 16 bytes in is the middle of a character.
            format!("sha256:{}é{}", "a".repeat(15), "a".repeat(47)),
            format!("sha256:{}\0", "a".repeat(63)),
            format!(" {good}"),
        ];
        for text in bad {
            assert!(text.parse::<Digest>().is_err(), "{text:?}");
            assert!(serde_json::from_value::<Digest>(text.clone().into()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_hashing_reader_stops_at_its_bound() {
        let mut hashing = Hashing::new(&b"abc"[..], 3);
        let mut one = [0; 1];
        hashing.read_exact(&mut one).unwrap();
        assert_eq!(hashing.finish().unwrap(), (Digest::of(b"abc"), 3));
        assert!(Hashing::new(io::repeat(0), 1 << 20).finish().is_err());
    }
}
