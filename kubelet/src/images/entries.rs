//! The entries of a tar stream: ustar, PAX and GNU headers, each read within bounds. What the stream says of sizes, names
//! and attributes is believed only as far as it can be kept.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, Header, PaxExtensions};

const BLOCK: usize = 512;
/// Long names, and PAX records of one entry (attributes too): as much as Go's reader takes.
const MAX_EXTENSION: u64 = 1 << 20;
/// The kernel's longest path.
const MAX_PATH: usize = 4095;
/// Pieces of one sparse file.
const MAX_PIECES: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    SymbolicLink,
    HardLink,
    Fifo,
    /// A character or block device.
    Device,
}

/// One entry. Its data is read from the reader it came from.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    /// Target of a link.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) modified: (i64, u32),
    /// Length of the file.
    pub(super) size: u64,
    /// Where in the file the data belongs, if it has holes: offset and length.
    pub(super) pieces: Option<Vec<(u64, u64)>>,
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What extension headers say of the next entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, u32)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the attributes have together: there may be any number of headers before an entry.
    bytes: u64,
}

/// Reads entries one after the other; reading from it gives the data of the current one.
pub(super) struct Entries<R> {
    inner: R,
    /// Of the current entry's data.
    left: u64,
    padding: u64,
    /// Headers of all kinds that may still come.
    headers: u64,
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("archive: {}", why.into()))
}

impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

impl<R: Read> Entries<R> {
    /// More than `most` headers are an error.
    pub(super) fn new(inner: R, most: u64) -> Self {
        Entries { inner, left: 0, padding: 0, headers: most }
    }

    pub(super) fn inner(&mut self) -> &mut R {
        &mut self.inner
    }

    /// The next entry; what was not read of the former one is passed over.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        self.next_after(|reader, bytes| {
            let passed = io::copy(&mut reader.take(bytes), &mut io::sink())?;
            if passed == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        })
    }

    /// As `next`; `pass` goes over that many bytes.
    pub(super) fn next_after(
        &mut self,
        mut pass: impl FnMut(&mut R, u64) -> io::Result<()>,
    ) -> io::Result<Option<Entry>> {
        let mut more = Extensions::default();
        loop {
            let rest = self.left + self.padding;
            if rest > 0 {
                pass(&mut self.inner, rest)?;
            }
            (self.left, self.padding) = (0, 0);
            let Some(block) = self.block()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            let kind = header.entry_type();
            let size = number(&header.as_old().size, header.entry_size(), "a size")?;
            match kind {
                EntryType::XHeader => {
                    let records = self.extension(size)?;
                    more.read(&records)?;
                    if more.bytes > MAX_EXTENSION {
                        return Err(invalid(format!(
                            "an entry has attributes of more than {MAX_EXTENSION} bytes"
                        )));
                    }
                }
                EntryType::GNULongName => more.path = Some(self.name(size)?),
                EntryType::GNULongLink => more.link = Some(self.name(size)?),
                // Comments of whole archives, as git writes them.
                EntryType::XGlobalHeader => self.begin(size)?,
                _ => return self.entry(header, kind, size, more).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, kind: EntryType, size: u64, more: Extensions) -> io::Result<Entry> {
        let path = more.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = more.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        if path.len() > MAX_PATH || link.len() > MAX_PATH {
            return Err(invalid("a name is too long"));
        }
        let size = more.size.unwrap_or(size);
        let kind = match kind {
            // Old archives tell directories by their names.
            EntryType::Regular if size == 0 && path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::SymbolicLink,
            EntryType::Link => Kind::HardLink,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            other => {
                return Err(invalid(format!("an entry of unknown type {:?}", char::from(other.as_byte()))));
            }
        };
        // Only files have data, whatever the header says.
        let size = if kind == Kind::File { size } else { 0 };
        let id = |from_pax: Option<u64>, field: &[u8], own: io::Result<u64>| {
            let id = from_pax.map_or_else(|| number(field, own, "an owner"), Ok)?;
            // The greatest number means to the kernel: leave it as it is, which is root's.
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| invalid(format!("owner {id} is out of range")))
        };
        let old = header.as_old();
        let (uid, gid) = (id(more.uid, &old.uid, header.uid())?, id(more.gid, &old.gid, header.gid())?);
        let mut entry = Entry {
            kind,
            path,
            link,
            mode: number(&old.mode, header.mode(), "a mode")?,
            uid,
            gid,
            modified: more.modified.unwrap_or_else(|| {
                (header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0), 0)
            }),
            size,
            pieces: None,
            attributes: more.attributes,
        };
        if header.entry_type() == EntryType::GNUSparse {
            (entry.size, entry.pieces) =
                self.sparse(header, size).map(|(size, pieces)| (size, Some(pieces)))?;
        }
        self.begin(size)?;
        Ok(entry)
    }

    /// The length of a GNU sparse file, and its pieces, which must be in order and be all of its data.
    fn sparse(&mut self, header: &Header, data: u64) -> io::Result<(u64, Vec<(u64, u64)>)> {
        let wrong = || invalid("a sparse file's map is wrong");
        let gnu = header.as_gnu().ok_or_else(wrong)?;
        let length = gnu.real_size().map_err(|_| wrong())?;
        let mut pieces = Vec::new();
        let (mut end, mut sum) = (0_u64, 0_u64);
        let mut add = |offset: io::Result<u64>, size: io::Result<u64>| {
            let (offset, size) = (offset.map_err(|_| wrong())?, size.map_err(|_| wrong())?);
            if offset < end || pieces.len() == MAX_PIECES {
                return Err(wrong());
            }
            end = offset.checked_add(size).filter(|end| *end <= length).ok_or_else(wrong)?;
            sum += size;
            pieces.push((offset, size));
            Ok(())
        };
        for piece in gnu.sparse.iter().filter(|piece| !piece.is_empty()) {
            add(piece.offset(), piece.length())?;
        }
        let mut extended = gnu.is_extended();
        while extended {
            let mut more = GnuExtSparseHeader::new();
            self.headers = self.headers.checked_sub(1).ok_or_else(|| invalid("too many headers"))?;
            self.inner.read_exact(more.as_mut_bytes())?;
            for piece in more.sparse().iter().filter(|piece| !piece.is_empty()) {
                add(piece.offset(), piece.length())?;
            }
            extended = more.is_extended();
        }
        if sum == data { Ok((length, pieces)) } else { Err(wrong()) }
    }

    /// The next header with a right checksum; `None` at the end.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |range: &[u8]| range.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        // The checksum itself counts as spaces.
        let found = sum(&block[..148]) + sum(&block[156..]) + 8 * u32::from(b' ');
        if Header::from_byte_slice(&block).cksum().ok() != Some(found) {
            return Err(invalid("a header's checksum is wrong"));
        }
        self.headers = self.headers.checked_sub(1).ok_or_else(|| invalid("too many entries"))?;
        Ok(Some(block))
    }

    fn begin(&mut self, size: u64) -> io::Result<()> {
        let whole =
            size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| invalid("a size is too large"))?;
        (self.left, self.padding) = (size, whole - size);
        Ok(())
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(invalid(format!("an extended header has {size} bytes, more than {MAX_EXTENSION}")));
        }
        self.begin(size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn name(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }
}

/// A number of a header; a field that nobody has filled is none.
fn number<T: Default>(field: &[u8], parsed: io::Result<T>, what: &str) -> io::Result<T> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    parsed.map_err(|_| invalid(format!("{what} is no number")))
}

impl Extensions {
    fn read(&mut self, records: &[u8]) -> io::Result<()> {
        for record in PaxExtensions::new(records) {
            let record = record.map_err(|_| invalid("an extended header cannot be read"))?;
            let value = record.value_bytes();
            let number = || {
                let text = record.value().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                text.and_then(|text| text.parse().ok())
                    .ok_or_else(|| invalid("an extended header has no number"))
            };
            match record.key_bytes() {
                b"path" => self.path = Some(name(value)?),
                b"linkpath" => self.link = Some(name(value)?),
                b"size" => self.size = Some(number()?),
                b"uid" => self.uid = Some(number()?),
                b"gid" => self.gid = Some(number()?),
                b"mtime" => self.modified = record.value().ok().and_then(time),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(invalid("sparse files of the PAX kind are not supported"));
                }
                key => {
                    if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.bytes +=
                            (size_of::<(Vec<u8>, Vec<u8>)>() + attribute.len() + value.len()) as u64;
                        self.attributes.push((attribute.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

fn name(value: &[u8]) -> io::Result<Vec<u8>> {
    if value.contains(&0) { Err(invalid("a name has a zero byte")) } else { Ok(value.to_vec()) }
}

/// `1700000000.123456789`
fn time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    // Times before 1970 with a part of a second are not worth the trouble.
    Some((seconds, if seconds < 0 { 0 } else { nanoseconds }))
}
