//! What watchers, and those who list, may make the server hold: little at once, for some time, and so many.

use std::time::Duration;

use axum::body::Body;
use coracle_apiserver::Config;
use coracle_apiserver::authn::User;
use http::header::ACCEPT;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::cluster::{Cluster, read, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const INITIAL: &str =
    "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

/// What goes out at once, and one object more.
const PIECE: usize = (64 << 10) + 8192;

async fn open(c: &Cluster, query: &str) -> Body {
    let answer = c.answer(request("GET", &format!("{MAPS}?{query}"), &Value::Null)).await;
    assert_eq!(answer.status(), 200, "{query}");
    answer.into_body()
}

async fn piece(body: &mut Body) -> Option<Result<Vec<u8>, axum::Error>> {
    Some(body.frame().await?.map(|frame| frame.into_data().unwrap().to_vec()))
}

/// Maps of about 4 KB each.
async fn fill(c: &Cluster, count: usize) {
    for n in 0..count {
        let map = json!({"metadata": {"name": format!("n{n:02}")}, "data": {"k": "v".repeat(4000)}});
        assert_eq!(c.send("POST", MAPS, map).await.0, 201);
    }
}

#[tokio::test]
async fn initial_events_are_made_as_they_are_read() {
    let c = Cluster::start().await;
    fill(&c, 60).await;
    for query in [INITIAL, "watch=1&resourceVersion=0&timeoutSeconds=1"] {
        let mut body = open(&c, query).await;
        let (mut pieces, mut text) = (0, vec![]);
        while text.iter().filter(|b| **b == b'\n').count() < 60 {
            let piece = piece(&mut body).await.unwrap().unwrap();
            assert!(piece.len() < PIECE, "{query}: a piece of {}", piece.len());
            text.extend(piece);
            pieces += 1;
        }
        assert!(pieces > 2, "{query}: {pieces} pieces");
    }
    c.running.stop().await;
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_given_little_at_once() {
    let c = Cluster::start().await;
    fill(&c, 1).await;
    let from = c.running.server.store.revision();
    let mut body = open(&c, &format!("watch=1&resourceVersion={from}")).await;
    let one = format!("{MAPS}/n00");
    for n in 0..16 {
        let large = json!({"data": {"k": n.to_string().repeat(200_000)}});
        assert_eq!(c.send("PATCH", &one, large).await.0, 200);
    }
    let mut lines = 0;
    while lines < 16 {
        let piece = piece(&mut body).await.unwrap().unwrap();
        assert!(piece.len() < 1 << 20, "a piece of {}", piece.len());
        lines += piece.iter().filter(|b| **b == b'\n').count();
    }
    c.running.stop().await;
}

#[tokio::test]
async fn a_watch_of_metadata_shows_what_a_read_of_it_does() {
    let c = Cluster::start().await;
    fill(&c, 1).await;
    let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let ask = async |path: String| {
        let mut ask = request("GET", &path, &Value::Null);
        ask.headers_mut().insert(ACCEPT, partial.parse().unwrap());
        c.answer(ask).await
    };
    let mut events = ask(format!("{MAPS}?watch=1&resourceVersion=0")).await.into_body();
    let (_, read) = read(ask(format!("{MAPS}/n00")).await).await;
    assert_eq!(read["kind"], "PartialObjectMetadata");
    assert_eq!(read["data"], Value::Null);
    let next = async |events: &mut Body| -> Value {
        serde_json::from_slice(&piece(events).await.unwrap().unwrap()).unwrap()
    };
    assert_eq!(next(&mut events).await, json!({"type": "ADDED", "object": read}));
    assert_eq!(c.send("DELETE", &format!("{MAPS}/n00"), Value::Null).await.0, 200);
    let deleted = next(&mut events).await;
    assert_eq!(
        (&deleted["type"], &deleted["object"]["kind"]),
        (&"DELETED".into(), &read["kind"]),
        "{deleted}"
    );
    assert_eq!(deleted["object"]["metadata"]["name"], "n00");
    c.running.stop().await;
}

/// Moves the clock, which stands only meanwhile.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn what_is_read_too_slowly_ends() {
    let c = Cluster::start().await;
    fill(&c, 60).await;
    let mut list = open(&c, "").await;
    assert!(piece(&mut list).await.unwrap().is_ok());
    let mut watch = open(&c, INITIAL).await;
    assert!(piece(&mut watch).await.unwrap().is_ok());
    pass(Duration::from_secs(61)).await;
    let broken = piece(&mut list).await.unwrap().unwrap_err();
    assert_eq!(broken.to_string(), "the list was not read in time");
    assert!(piece(&mut watch).await.unwrap().is_ok(), "initial events have longer");
    pass(Duration::from_secs(240)).await;
    let last: Value = serde_json::from_slice(&piece(&mut watch).await.unwrap().unwrap()).unwrap();
    assert_eq!((&last["type"], &last["object"]["code"]), (&json!("ERROR"), &json!(410)), "{last}");
    assert!(piece(&mut watch).await.is_none());
    c.running.stop().await;
}

#[tokio::test]
async fn a_user_has_so_many_watches_and_sessions() {
    let config = Config { max_watches_per_user: 2, max_sessions_per_user: 0, ..Config::default() };
    let c = Cluster::start_with(config, User::component("admin", &["system:masters"])).await;
    let binding = json!({"metadata": {"name": "all"}, "subjects": [{"kind": "Group", "name": "team",
        "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "ClusterRole", "name": "cluster-admin",
        "apiGroup": "rbac.authorization.k8s.io"}});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(c.send("POST", bindings, binding).await.0, 201);
    let ask = async |user: &str, path: &str| -> Response<Body> {
        let api = c.running.router(User::component(user, &["team"]));
        let request = Request::get(path).body(Body::empty()).unwrap();
        api.oneshot(request).await.unwrap()
    };
    let path = format!("{MAPS}?watch=1&resourceVersion=0");
    let (first, _second) = (ask("u", &path).await, ask("u", &path).await);
    assert_eq!(first.status(), 200);
    let refused = ask("u", &path).await;
    assert_eq!(refused.headers()["retry-after"], "5");
    let (code, refused) = read(refused).await;
    let why = "too many watches of \"u\": no more than 2 at once (--max-watches-per-user)";
    assert_eq!(
        (code, &refused["reason"], &refused["message"]),
        (429, &json!("TooManyRequests"), &json!(why))
    );
    assert_eq!(ask("v", &path).await.status(), 200, "others have theirs");
    assert_eq!(ask("u", MAPS).await.status(), 200, "and what does not last is not counted");
    drop(first);
    assert_eq!(ask("u", &path).await.status(), 200, "one that has ended makes room");
    for _ in 0..4 {
        let watch = c.answer(request("GET", &path, &Value::Null)).await;
        assert_eq!(watch.status(), 200, "who is exempt is not counted");
    }
    let (code, refused) = read(ask("u", "/api/v1/namespaces/default/pods/p/log").await).await;
    assert_eq!((code, &refused["reason"]), (429, &json!("TooManyRequests")), "{refused}");
    c.running.stop().await;
}
