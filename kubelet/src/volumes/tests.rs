//! Where the files of volumes are.

use std::{fs, sync::Arc};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::json;

use super::*;
use crate::{
    pods::{env::PodFacts, sources::Sources},
    testing::client,
};

fn facts() -> PodFacts {
    PodFacts {
        pod_ips: vec![],
        host_ips: vec![],
        cpu_milli: 1000,
        memory: 1 << 30,
        ephemeral_storage: 1 << 30,
    }
}

/// As upstream: what may be secret is in memory, also where an earlier version had it on the disk.
#[tokio::test]
#[cfg_attr(not(root), ignore = "needs root")]
async fn secrets_and_tokens_never_reach_the_disk() {
    let api = client(|path| {
        let list =
            |item: serde_json::Value| Some(json!({"metadata": {"resourceVersion": "1"}, "items": [item]}));
        match path {
            "/api/v1/namespaces/n/secrets" => {
                list(json!({"metadata": {"name": "s"}, "data": {"key": "aGlkZGVu"}}))
            }
            "/api/v1/namespaces/n/configmaps" => {
                list(json!({"metadata": {"name": "m"}, "data": {"key": "open"}}))
            }
            "/api/v1/namespaces/n/serviceaccounts/default/token" => Some(json!({
                "spec": {"audiences": []},
                "status": {"token": "bearer", "expirationTimestamp": "2100-01-01T00:00:00Z"}})),
            _ => None,
        }
    });
    let token = json!({"serviceAccountToken": {"path": "key"}});
    let field = json!([{"path": "key", "fieldRef": {"fieldPath": "metadata.uid"}}]);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [], "volumes": [
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "token", "projected": {"sources": [token]}},
            {"name": "mixed", "projected": {"sources": [{"secret": {"name": "s"}}]}},
            {"name": "downward", "downwardAPI": {"items": field}},
            {"name": "map", "configMap": {"name": "m"}},
        ]},
    }))
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let places = Places::of(dir.path(), &dir.path().join("logs"), &pod).unwrap();
    // An earlier version's file.
    let old = places.dir().join("volumes/projected/secret");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("key"), "on the disk").unwrap();
    let (wake, tokens) = (Arc::default(), projection::Tokens::default());
    let sources = Sources::new(api.clone());
    let facts = facts();
    let inputs = Inputs { client: &api, sources: &sources, wake: &wake, facts: &facts, tokens: &tokens };
    let is_memory = |path: &Path| statfs(path).unwrap().filesystem_type() == TMPFS_MAGIC;
    let mut seen = Vec::new();
    // Twice, for a set-up is repeated.
    for _ in 0..2 {
        let paths = mount_all(&places, &pod, &inputs).await.unwrap();
        let look = |(name, place): (String, Place)| {
            let text = fs::read_to_string(place.path.join("key")).unwrap();
            (name, is_memory(&place.path), text, place.readonly)
        };
        seen = paths.into_iter().map(look).collect();
    }
    let mounted = mounts::below(&places.dir()).unwrap().len();
    empty(&places.dir()).unwrap();
    let left = fs::read_dir(places.dir()).unwrap().count();
    clean_up(&places.dir()).unwrap();
    let want = [
        ("downward", true, "u"),
        ("map", is_memory(dir.path()), "open"),
        ("mixed", true, "hidden"),
        ("secret", true, "hidden"),
        ("token", true, "bearer"),
    ];
    assert_eq!(seen, want.map(|(name, memory, text)| (name.to_owned(), memory, text.to_owned(), true)));
    assert_eq!((mounted, left), (4, 0), "each once, and nothing is left");
}
