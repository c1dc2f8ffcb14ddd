//! Rows that this program has not written: what a damaged database may hold.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;

use super::sqlite::Sqlite;
use super::{Change, Expect, History, OpenError, Options, Store};
use crate::codec::{IncludeObject, Row, metadata_of};
use crate::registry::{Catalog, Registry};
use crate::resources::builtins;

static CATALOG: LazyLock<Arc<Catalog>> = LazyLock::new(|| Registry::new(builtins()).snapshot());
/// As many rows one input may have: each is a transaction.
const MOST: usize = 32;
/// As often a watcher looks.
const LOOKS: usize = 8;

/// Lines `revision deleted resource key value`; what is no number is 0. Texts go into the database as they are.
pub(crate) fn rows(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let backend = Sqlite::open(None).await.expect("a database in memory");
        for line in bytes.split(|byte| *byte == b'\n').take(MOST) {
            let words: Vec<&[u8]> = line.splitn(5, |byte| *byte == b' ').collect();
            let word = |at: usize| words.get(at).copied().unwrap_or_default();
            let number =
                |at| std::str::from_utf8(word(at)).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            // Two rows of one revision cannot be, nor can a key of nothing.
            if word(3).is_empty() {
                continue;
            }
            let _ = backend.plant([number(0), number(1)], [word(2), word(3), word(4)]).await;
        }
        if let Ok(store) = opened(backend).await {
            read(&store).await;
            store.close().await;
        }
    });
}

async fn opened(backend: Sqlite) -> Result<Store, OpenError> {
    let fields = CATALOG.resources().map(|resource| (resource.storage.clone(), resource.fields.clone()));
    let fields: HashMap<_, _> = fields.collect();
    let options = Options { dir: None, history: History::default(), fields };
    Store::with_backend(Arc::new(backend), options, None).await
}

/// The world, the past and the log say the same; and what is written goes on from there.
async fn read(store: &Store) {
    for (resource, count) in store.counts() {
        let view = store.list(&resource, "");
        assert_eq!((view.items.len(), view.more), (count, 0));
        for stored in &view.items {
            assert!(stored.revision <= view.revision);
            let _ = (stored.object(), stored.namespace(), stored.name(), metadata_of(&stored.value));
            for of in CATALOG.resources().filter(|of| of.storage == resource) {
                if let Some(row) = Row::of(of, &stored.value, Timestamp::UNIX_EPOCH) {
                    let mut out = bytes::BytesMut::new();
                    row.write(&stored.value, IncludeObject::Metadata, Timestamp::UNIX_EPOCH, &mut out);
                }
            }
        }
        if let Ok(past) = store.list_at(&resource, "", "", view.revision, usize::MAX - 1).await {
            let [now, then] = [&view.items, &past.items]
                .map(|all| all.iter().map(|s| (&s.key, s.revision)).collect::<Vec<_>>());
            assert_eq!(now, then, "{resource:?}");
        }
        let mut watcher = store.watch(&resource, "", store.compacted());
        for _ in 0..LOOKS {
            let Ok(events) = watcher.poll().await else { break };
            assert!(events.windows(2).all(|pair| pair[0].revision < pair[1].revision));
            if events.is_empty() {
                break;
            }
        }
        let Some(last) = view.items.last() else { continue };
        let draft = store.draft(&resource, &last.object());
        let expect = Expect::Revision(last.revision);
        if let Ok(written) = store.commit(&resource, last.key.clone(), expect, Change::Put(draft)).await {
            assert!(written.revision > view.revision);
        }
    }
}
