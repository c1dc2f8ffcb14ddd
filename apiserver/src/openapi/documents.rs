//! Documents in the form they are sent in, each made when it is first asked for, off the async workers, and kept for as
//! long as somebody goes on asking.

use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{document, hash, hash_of_all, path};
use crate::registry::{Catalog, Version};
use crate::status::{Result, Status};
use crate::{Server, apart};

/// For how long nobody may have asked for a document that is kept.
const KEPT: Duration = Duration::from_secs(45);
/// How much of a document is unpacked at a time.
const PIECE: usize = 64 * 1024;

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Json,
    Protobuf,
}

/// A document, compressed: most clients take it so.
pub(super) struct Document {
    /// What its `ETag` carries; changes when the document does.
    pub(super) hash: String,
    packed: Arc<AsyncMutex<Option<Packed>>>,
}

struct Packed {
    bytes: Bytes,
    asked: Instant,
}

/// The documents made so far: making one takes long, and clients ask for many again and again.
#[derive(Default)]
pub struct Documents {
    versions: Mutex<HashMap<String, Arc<Document>>>,
    /// The one document of the second version, in each form.
    swagger: Mutex<HashMap<Form, Arc<Document>>>,
    /// Something is kept that was not.
    made: Notify,
}

/// Lets go of documents that nobody asks for any more, until the server stops.
pub async fn forget(server: Arc<Server>, stop: CancellationToken) {
    let documents = &server.openapi;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = documents.made.notified() => {}
        }
        while documents.keeps_any() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(KEPT / 3) => {}
            }
            documents.let_go(Instant::now());
        }
    }
}

// === impl Documents ===

impl Documents {
    /// The document of a group version as it is now.
    pub(super) fn version(&self, group: &str, version: &Version) -> Arc<Document> {
        let path = path(group, &version.name);
        current(&mut self.versions.lock(), path, hash(group, &version.name, &version.resources))
    }

    /// The document of everything, in the second version of OpenAPI.
    pub(super) fn swagger(&self, catalog: &Catalog, form: Form) -> Arc<Document> {
        current(&mut self.swagger.lock(), form, hash_of_all(catalog))
    }

    /// Drops the documents of group versions that are no longer served.
    pub fn retain(&self, served: impl Fn(&str) -> bool) {
        self.versions.lock().retain(|path, _| served(path));
    }

    /// A document's bytes, compressed; made by the first who asks while the others wait, to the end also where nobody does
    /// any more.
    pub(super) async fn packed(
        &self,
        document: &Document,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Result<Bytes> {
        let mut packed = document.packed.clone().lock_owned().await;
        if let Some(packed) = packed.as_mut() {
            packed.asked = Instant::now();
            return Ok(packed.bytes.clone());
        }
        self.made.notify_one();
        let made = apart::spawn(move || {
            let bytes = pack(write)?;
            *packed = Some(Packed { bytes: bytes.clone(), asked: Instant::now() });
            Ok::<_, io::Error>(bytes)
        });
        made.await.map_err(Status::internal)?.map_err(Status::internal)
    }

    fn all(&self) -> Vec<Arc<Document>> {
        let mut all: Vec<_> = self.versions.lock().values().cloned().collect();
        all.extend(self.swagger.lock().values().cloned());
        all
    }

    /// One that is being made counts.
    fn keeps_any(&self) -> bool {
        self.all().iter().any(|d| d.packed.try_lock().map_or(true, |packed| packed.is_some()))
    }

    fn let_go(&self, now: Instant) {
        for document in self.all() {
            if let Ok(mut packed) = document.packed.try_lock()
                && packed.as_ref().is_some_and(|p| now.duration_since(p.asked) >= KEPT)
            {
                *packed = None;
            }
        }
    }
}

fn current<K: std::hash::Hash + Eq>(
    all: &mut HashMap<K, Arc<Document>>,
    key: K,
    hash: String,
) -> Arc<Document> {
    if let Some(known) = all.get(&key).filter(|d| d.hash == hash) {
        return known.clone();
    }
    let new = Arc::new(Document { hash, packed: Arc::default() });
    all.insert(key, new.clone());
    new
}

/// Writes a group version's document.
pub(super) fn write_version(group: &str, version: &Version, out: &mut dyn Write) -> io::Result<()> {
    Ok(serde_json::to_writer(out, &document(group, &version.name, &version.resources))?)
}

fn pack(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Bytes> {
    let mut out = BufWriter::with_capacity(PIECE, GzEncoder::new(Vec::new(), Compression::new(4)));
    write(&mut out)?;
    Ok(out.into_inner()?.finish()?.into())
}

/// The plain bytes, for a client that does not take them compressed: piece by piece, as it reads them.
pub(super) fn unpacked(packed: Bytes) -> impl Stream<Item = io::Result<Bytes>> {
    let next = |mut plain: GzDecoder<Reader<Bytes>>| async move {
        let mut piece = vec![0; PIECE];
        let mut filled = 0;
        while filled < PIECE {
            match plain.read(&mut piece[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        piece.truncate(filled);
        Ok((filled > 0).then(|| (piece.into(), plain)))
    };
    futures::stream::try_unfold(GzDecoder::new(packed.reader()), next)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::TryStreamExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_document_is_made_once_and_let_go_when_nobody_asks() {
        let documents = Documents::default();
        let document = current(&mut documents.swagger.lock(), Form::Json, "a".into());
        let made = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let made = made.clone();
            documents.packed(&document, move |out| {
                made.fetch_add(1, Ordering::Relaxed);
                out.write_all(&[b'x'; 3 * PIECE + 7])
            })
        };
        // A client that leaves at once has it made nevertheless.
        drop(tokio::time::timeout(Duration::ZERO, ask()).await);
        let packed = ask().await.unwrap();
        assert_eq!(made.load(Ordering::Relaxed), 1);
        let pieces: Vec<Bytes> = unpacked(packed).try_collect().await.unwrap();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [PIECE, PIECE, PIECE, 7]);

        tokio::time::advance(KEPT / 2).await;
        ask().await.unwrap();
        tokio::time::advance(KEPT / 2).await;
        documents.let_go(Instant::now());
        assert!(documents.keeps_any(), "it was asked for");
        tokio::time::advance(KEPT / 2).await;
        documents.let_go(Instant::now());
        assert!(!documents.keeps_any());
        ask().await.unwrap();
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_an_error_and_is_not_kept() {
        let documents = Documents::default();
        let document = current(&mut documents.swagger.lock(), Form::Json, "a".into());
        let fails = documents.packed(&document, |_| Err(io::Error::other("no")));
        assert_eq!(fails.await.unwrap_err().code(), 500);
        let fine = documents.packed(&document, |out| out.write_all(b"{}"));
        assert!(fine.await.is_ok());
    }
}
