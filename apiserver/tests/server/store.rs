//! The store's promises: what was acknowledged stays, revisions only grow, watchers miss nothing and see nothing twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use coracle_api::Object;
use coracle_apiserver::store::{
    Change, CommitError, Cursor, Expect, Expired, History, OpenError, Options, Store, Stored,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

async fn open(dir: Option<&Path>) -> Result<Store, OpenError> {
    let dir = dir.map(Path::to_owned);
    Store::open(Options { dir, history: History::default(), fields: std::collections::HashMap::new() }).await
}

fn resource() -> Arc<str> {
    "/configmaps".into()
}

async fn put(store: &Store, key: &str, expect: Expect, text: &str) -> Result<Arc<Stored>, CommitError> {
    let object = Object(json!({"metadata": {"name": key}, "data": {"text": text}}));
    let draft = store.draft(&resource(), &object);
    store.commit(&resource(), key, expect, Change::Put(draft)).await
}

async fn delete(store: &Store, stored: &Stored) -> Result<Arc<Stored>, CommitError> {
    let draft = store.draft(&resource(), &stored.object());
    store
        .commit(&resource(), stored.key.clone(), Expect::Revision(stored.revision), Change::Delete(draft))
        .await
}

/// Key to revision and bytes of everything there is.
fn world(store: &Store) -> BTreeMap<String, (u64, bytes::Bytes)> {
    let view = store.list(&resource(), "");
    view.items.iter().map(|s| (s.key.to_string(), (s.revision, s.value.clone()))).collect()
}

#[tokio::test]
async fn a_reopened_store_has_all_that_was_acknowledged_and_counts_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Some(dir.path())).await.unwrap();
    assert!(matches!(open(Some(dir.path())).await, Err(OpenError::Locked(_))), "one process owns a database");
    let writes = (0..300).map(|i| {
        let store = store.clone();
        async move { put(&store, &format!("k{i:03}"), Expect::Absent, "first").await.unwrap() }
    });
    let written = futures::future::join_all(writes).await;
    for stored in written.iter().step_by(3) {
        delete(&store, stored).await.unwrap();
    }
    let (before, head) = (world(&store), store.revision());
    assert_eq!((before.len(), head), (200, 400));
    store.close().await;
    assert!(matches!(put(&store, "late", Expect::Absent, "").await, Err(CommitError::Closed)));
    drop(store);

    let store = open(Some(dir.path())).await.unwrap();
    assert_eq!((world(&store), store.revision()), (before, head));
    // The newest line of the log is a deletion; compaction removes it, and still its revision is not given again.
    store.compact(u64::MAX).await.unwrap();
    store.close().await;
    drop(store);
    let store = open(Some(dir.path())).await.unwrap();
    assert_eq!(put(&store, "next", Expect::Absent, "").await.unwrap().revision, head + 1);
    store.close().await;
}

/// What one watcher has made of the events it saw.
struct Replica {
    cursor: Cursor,
    state: BTreeMap<String, (u64, bytes::Bytes)>,
    seen: u64,
}

impl Replica {
    fn new(store: &Store, prefix: &str) -> Self {
        let view = store.list(&resource(), prefix);
        let state = view.items.iter().map(|s| (s.key.to_string(), (s.revision, s.value.clone()))).collect();
        Replica { cursor: store.watch(&resource(), prefix, view.revision), state, seen: view.revision }
    }

    /// Applies one batch of what is there, checking order and the state before each event.
    async fn step(&mut self) -> bool {
        let events = self.cursor.poll().await.unwrap();
        for event in &events {
            assert!(event.revision > self.seen, "events come once, in order");
            self.seen = event.revision;
            let key = event.object.key.to_string();
            let before = self.state.get(&key).map(|(revision, _)| *revision);
            assert_eq!(event.previous.as_ref().map(|p| p.revision), before, "no event of {key} was lost");
            match event.deleted {
                true => drop(self.state.remove(&key)),
                false => drop(self.state.insert(key, (event.revision, event.object.value.clone()))),
            }
        }
        !events.is_empty()
    }
}

/// Random writes by several writers, among them ones with stale expectations, against a model of the store; watchers
/// that lag (far behind the ring, too) rebuild the same state.
#[tokio::test]
async fn random_writes_agree_with_the_model_and_with_every_watcher() {
    for seed in 0..4 {
        let store = open(None).await.unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut model: BTreeMap<String, (u64, bytes::Bytes)> = BTreeMap::new();
        let mut replicas = vec![Replica::new(&store, ""), Replica::new(&store, "a/")];
        for turn in 0..4000 {
            let key = format!("{}/{}", ["a", "b"][rng.random_range(0..2)], rng.random_range(0..40));
            let there = model.get(&key).map(|(revision, _)| *revision);
            let stale = rng.random_ratio(1, 10);
            let expect = match (there, stale) {
                (None, false) | (Some(_), true) if rng.random_bool(0.5) || there.is_none() => Expect::Absent,
                (None, _) => Expect::Revision(1 + turn),
                (Some(revision), stale) => Expect::Revision(revision - u64::from(stale)),
            };
            let matches = there.map_or(Expect::Absent, Expect::Revision) == expect;
            let outcome = match there.filter(|_| rng.random_ratio(1, 4)) {
                Some(_) => {
                    let old = store.get(&resource(), &key).unwrap();
                    let draft = store.draft(&resource(), &old.object());
                    store.commit(&resource(), key.as_str(), expect, Change::Delete(draft)).await.map(|_| None)
                }
                None => put(&store, &key, expect, &turn.to_string()).await.map(Some),
            };
            assert_eq!(
                outcome.is_ok(),
                matches,
                "seed {seed}, turn {turn}: {key} {expect:?}, there {there:?}"
            );
            match outcome {
                Ok(Some(stored)) => drop(model.insert(key, (stored.revision, stored.value.clone()))),
                Ok(None) => drop(model.remove(&key)),
                Err(CommitError::Conflict(found)) => {
                    assert_eq!(found.map(|f| f.revision), there, "a conflict shows what is there");
                }
                Err(other) => panic!("{other}"),
            }
            if rng.random_ratio(1, 50) && replicas.len() < 12 {
                replicas.push(Replica::new(&store, ["", "a/", "b/1"][rng.random_range(0..3)]));
            }
            // The first two replicas read only at the end: they have fallen out of the ring by then.
            if replicas.len() > 2 && rng.random_ratio(1, 5) {
                let at = rng.random_range(2..replicas.len());
                replicas[at].step().await;
            }
        }
        assert_eq!(world(&store), model);
        for (at, replica) in replicas.iter_mut().enumerate() {
            while replica.step().await {}
            let prefix = if at == 1 { "a/" } else { "" };
            let expected: BTreeMap<_, _> = model
                .iter()
                .filter(|(k, _)| k.starts_with(prefix))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            if at < 2 {
                assert_eq!(replica.state, expected, "seed {seed}, replica {at}");
            }
            assert!(replica.state.iter().all(|(k, v)| model.get(k) == Some(v)), "seed {seed}, replica {at}");
        }
        store.close().await;
    }
}

#[tokio::test]
async fn a_cursor_behind_the_ring_reads_the_log_until_compaction_takes_it() {
    let store = open(None).await.unwrap();
    let mut at = put(&store, "k", Expect::Absent, "0").await.unwrap();
    let mut behind = store.watch(&resource(), "", 0);
    let mut expired = store.watch(&resource(), "", 0);
    for i in 1..3000 {
        at = put(&store, "k", Expect::Revision(at.revision), &i.to_string()).await.unwrap();
    }
    let mut revisions = vec![];
    loop {
        let events = behind.poll().await.unwrap();
        if events.is_empty() {
            break;
        }
        revisions.extend(events.iter().map(|e| e.revision));
    }
    assert_eq!(
        revisions,
        (1..=3000).collect::<Vec<u64>>(),
        "the log and the ring join without gap or overlap"
    );
    let page = store.list_at(&resource(), "", "", 1000, 10).await.unwrap();
    assert_eq!(page.items[0].revision, 1000, "a list of the past shows the past");
    store.compact(2500).await.unwrap();
    assert!(matches!(expired.poll().await, Err(Expired::Compacted { compacted: 2500 })));
    assert!(matches!(store.list_at(&resource(), "", "", 1000, 10).await, Err(Expired::Compacted { .. })));
    assert_eq!(store.list_at(&resource(), "", "", 2500, 10).await.unwrap().items[0].revision, 2500);
    assert_eq!(
        store.get(&resource(), "k").unwrap().revision,
        3000,
        "compaction takes only what is superseded"
    );
    store.close().await;
}

/// The name of the variable that makes this test program a writer (see `a_killed_server_loses_no_acknowledged_write`).
const WRITER: &str = "CORACLE_TEST_STORE";

/// The child: writes for ever and says so, line by line, once each write is acknowledged.
#[tokio::test]
async fn writer_process() {
    use std::io::Write;
    let Some(dir) = std::env::var_os(WRITER) else { return };
    let store = open(Some(Path::new(&dir))).await.unwrap();
    let writers = (0..8).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 0.. {
                let key = format!("w{w}/{i}");
                let stored = put(&store, &key, Expect::Absent, "text").await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "\nack {} {key}", stored.revision).unwrap();
                out.flush().unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn a_killed_server_loses_no_acknowledged_write() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut head = 0;
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::writer_process", "--nocapture", "--test-threads=1"])
            .env(WRITER, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acks = lines.map_while(Result::ok).filter_map(|l| {
            let (revision, key) = l.strip_prefix("ack ")?.split_once(' ')?;
            Some((revision.parse::<u64>().ok()?, format!("{round}:{key}")))
        });
        let mut revisions = vec![];
        for (revision, key) in acks {
            assert!(revision > head, "a revision was used again after a kill");
            revisions.push(revision);
            acknowledged.insert(key, revision);
            if revisions.len() == 200 {
                // SIGKILL: nothing is flushed, nothing is closed.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(revisions.len() >= 200, "the writer did not run");
        let store = open(Some(dir.path())).await.unwrap();
        let there = world(&store);
        for (key, revision) in &acknowledged {
            let (of, key) = key.split_once(':').unwrap();
            if of == round.to_string() {
                assert_eq!(
                    there.get(key).map(|(r, _)| *r),
                    Some(*revision),
                    "round {round}: {key} was acknowledged"
                );
            }
        }
        head = store.revision();
        assert!(head >= *revisions.iter().max().unwrap());
        // The next round writes the same keys anew.
        for stored in store.list(&resource(), "").items {
            head = delete(&store, &stored).await.unwrap().revision;
        }
        store.close().await;
    }
}
