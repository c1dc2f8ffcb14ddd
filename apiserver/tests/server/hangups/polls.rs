//! Hang-ups at every await point: the future of a request is dropped at its n-th poll, for each n until it is answered.

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::Poll;

use axum::body::Body;
use futures::FutureExt;
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{BUDGETS, Hook, LIMITED, MAPS, PODS, SERVICES, World, hooks, in_pieces, map, service, whole};
use crate::cluster::{read, request};

/// A future's value, unless it is still pending at its n-th poll: then it is dropped.
async fn within<T>(n: usize, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), n);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => {
            left -= 1;
            if left == 0 { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}

impl World {
    /// The tenant's request: answered, or hung up on at its n-th poll.
    async fn hang_up(&self, n: usize, request: Request<Body>) -> Option<(u16, Value)> {
        let tenant = self.tenant.clone();
        within(n, async move { read(tenant.oneshot(request).await.unwrap()).await }).await
    }
}

/// The most polls that any request here takes; more is a request that never ends.
const MOST: usize = 200;

/// One kind of request, tried with a hang-up at each of its polls.
struct Case {
    what: &'static str,
    /// What is there before.
    before: fn() -> Vec<(&'static str, Value)>,
    request: fn() -> Request<Body>,
    path: &'static str,
    /// What its collection is without the request, and with it.
    either: [&'static [(&'static str, &'static str)]; 2],
}

const NONE: &[(&str, &str)] = &[];

fn labelled(mut service: Value) -> Value {
    service["metadata"]["labels"] = json!({"hook": "change"});
    service
}

fn one() -> Vec<(&'static str, Value)> {
    vec![(SERVICES, labelled(service("s", "NodePort", &[1, 2])))]
}

const CASES: &[Case] = &[
    Case {
        what: "create",
        before: Vec::new,
        request: || in_pieces("POST", SERVICES, &service("s", "NodePort", &[1, 2, 3])),
        path: SERVICES,
        either: [NONE, &[("s", "NodePort 1 2 3")]],
    },
    Case {
        what: "create, asked of webhooks",
        before: Vec::new,
        request: || in_pieces("POST", SERVICES, &labelled(service("s", "NodePort", &[1, 2, 3]))),
        path: SERVICES,
        either: [NONE, &[("s", "NodePort 1 2 3")]],
    },
    Case {
        what: "create under a quota",
        before: Vec::new,
        request: || in_pieces("POST", LIMITED, &labelled(service("s", "NodePort", &[1, 2]))),
        path: LIMITED,
        either: [NONE, &[("s", "NodePort 1 2")]],
    },
    Case {
        what: "update under a quota",
        before: || vec![(LIMITED, service("s", "ClusterIP", &[1]))],
        request: || {
            in_pieces("PUT", &format!("{LIMITED}/s"), &labelled(service("s", "NodePort", &[1, 2, 3])))
        },
        path: LIMITED,
        either: [&[("s", "ClusterIP 1")], &[("s", "NodePort 1 2 3")]],
    },
    Case {
        what: "update that takes and gives up",
        before: one,
        request: || {
            in_pieces("PUT", &format!("{SERVICES}/s"), &labelled(service("s", "NodePort", &[2, 3, 4])))
        },
        path: SERVICES,
        either: [&[("s", "NodePort 1 2")], &[("s", "NodePort 2 3 4")]],
    },
    Case {
        what: "patch that gives up",
        before: one,
        request: || {
            let spec = json!({"spec": {"type": "ClusterIP", "ports": [{"name": "p9", "port": 9}]}});
            in_pieces("PATCH", &format!("{SERVICES}/s"), &spec)
        },
        path: SERVICES,
        either: [&[("s", "NodePort 1 2")], &[("s", "ClusterIP 9")]],
    },
    Case {
        what: "apply that creates",
        before: Vec::new,
        request: || {
            let path = format!("{SERVICES}/s?fieldManager=m");
            let mut request = in_pieces("PATCH", &path, &labelled(service("s", "NodePort", &[1, 2])));
            let media = "application/apply-patch+yaml".parse().unwrap();
            request.headers_mut().insert("content-type", media);
            request
        },
        path: SERVICES,
        either: [NONE, &[("s", "NodePort 1 2")]],
    },
    Case {
        what: "delete",
        before: one,
        request: || {
            in_pieces(
                "DELETE",
                &format!("{SERVICES}/s"),
                &json!({"kind": "DeleteOptions", "apiVersion": "v1"}),
            )
        },
        path: SERVICES,
        either: [&[("s", "NodePort 1 2")], NONE],
    },
    Case {
        what: "dry run of a create",
        before: Vec::new,
        request: || in_pieces("POST", &format!("{SERVICES}?dryRun=All"), &service("s", "NodePort", &[1, 2])),
        path: SERVICES,
        either: [NONE, NONE],
    },
];

#[tokio::test]
async fn at_every_await_point_of_a_write_it_has_happened_whole_or_not_at_all() {
    let mut w = World::start().await;
    let hook = Hook::start().await;
    w.tasks += 1;
    for case in CASES {
        let asks =
            matches!(case.what, w if w.contains("webhooks") || w.contains("takes") || w.contains("delete"));
        if asks {
            hook.configure(&w, "mutating", "change", "change").await;
            hook.configure(&w, "validating", "change", "now").await;
        }
        let (mut seen, mut answered) = (BTreeSet::new(), false);
        let mut hung_up = 0;
        while !answered {
            hung_up += 1;
            assert!(hung_up < MOST, "{}: no end", case.what);
            for (path, object) in (case.before)() {
                w.made("POST", path, object).await;
            }
            let before = w.counted("services").await;
            let outcome = w.hang_up(hung_up, (case.request)()).await;
            assert_eq!(w.counted("services").await, before + 1, "{}: counted once", case.what);
            answered = outcome.is_some();
            if let Some((code, answer)) = outcome {
                assert!(code < 300, "{}: {answer}", case.what);
            }
            if !asks {
                w.settle().await;
            } else {
                // Connections to webhooks wait for their next use.
                w.made("POST", MAPS, json!({"metadata": {"generateName": "settle-"}})).await;
            }
            let now = w.services(case.path).await;
            let now: Vec<(&str, &str)> =
                now.iter().map(|(k, v)| (&**k, &**v)).filter(|(k, _)| *k != "kubernetes").collect();
            let [without, with] = case.either;
            assert!(now == without || now == with, "{} at poll {hung_up}: {now:?}", case.what);
            assert!(!answered || now == with, "{}: {now:?}", case.what);
            seen.insert(now == with);
            w.nothing_is_left().await;
            if case.path == LIMITED {
                // Nobody gives back what a delete gives up, but the controller.
                w.clear(LIMITED).await;
                let used = json!({"status": {"used": {"services": "0", "services.nodeports": "0"}}});
                w.made("PATCH", &format!("{}/status", super::QUOTA), used).await;
            } else {
                w.clear(&format!("{SERVICES}?fieldSelector=metadata.name!=kubernetes")).await;
            }
        }
        assert!(hung_up > 2, "{}: answered at once", case.what);
        let both: BTreeSet<bool> = case.either.iter().map(|e| *e == case.either[1]).collect();
        assert_eq!(seen, both, "{}: both outcomes are seen", case.what);
        if asks {
            for kind in ["mutating", "validating"] {
                w.made("DELETE", &format!("{}/change", hooks(kind)), Value::Null).await;
            }
        }
    }
    w.every_port_can_be_had().await;
    w.cluster.running.stop().await;
}

#[tokio::test]
async fn a_collection_is_deleted_object_by_object_each_of_them_whole() {
    let w = World::start().await;
    let mut answered = false;
    for n in 1..MOST {
        for name in ["a", "b", "c"] {
            w.made("POST", SERVICES, service(name, "NodePort", &[1, 2])).await;
        }
        let path = format!("{SERVICES}?fieldSelector=metadata.name!=kubernetes");
        let outcome = w.hang_up(n, request("DELETE", &path, &Value::Null)).await;
        w.settle().await;
        w.nothing_is_left().await;
        w.clear(&path).await;
        if outcome.is_some() {
            answered = n > 1;
            break;
        }
    }
    assert!(answered);
    w.every_port_can_be_had().await;
    w.cluster.running.stop().await;
}

/// The disruption that it takes from a budget, the condition that it writes, and the delete are one.
#[tokio::test]
async fn an_eviction_that_has_begun_is_carried_out() {
    let w = World::start().await;
    let pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": "n",
        "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i"}]}});
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    w.made("POST", "/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}}))
        .await;
    w.made("POST", BUDGETS, budget).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let mut outcomes = BTreeSet::new();
    for n in 1..MOST {
        w.made("POST", PODS, pod.clone()).await;
        let running =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        w.made("PATCH", &format!("{PODS}/p/status"), running).await;
        let allowed = json!({"status": {"disruptionsAllowed": 1, "observedGeneration": 1, "currentHealthy": 2,
            "desiredHealthy": 1, "expectedPods": 2, "disruptedPods": null}});
        w.made("PATCH", &format!("{BUDGETS}/b/status"), allowed).await;
        let outcome = w.hang_up(n, in_pieces("POST", &format!("{PODS}/p/eviction"), &eviction)).await;
        w.settle().await;
        let left = w.cluster.get(&format!("{BUDGETS}/b")).await["status"]["disruptionsAllowed"].clone();
        let gone = w.all(PODS).await.is_empty();
        assert_eq!(left, i64::from(!gone), "at poll {n}");
        outcomes.insert(gone);
        w.clear(&format!("{PODS}?gracePeriodSeconds=0")).await;
        if let Some((code, answer)) = outcome {
            assert_eq!((code, gone), (201, true), "{answer}");
            break;
        }
    }
    assert_eq!(outcomes, [false, true].into());
    w.cluster.running.stop().await;
}

/// Large requests are worked on apart, some at once: those whose clients have gone leave their places.
#[tokio::test]
async fn large_requests_that_are_abandoned_leave_their_places() {
    let w = World::start().await;
    let mut large = map("large");
    large["data"]["a"] = "x".repeat(100_000).into();
    for n in 1..=3 {
        for _ in 0..20 {
            let _ = w.hang_up(n, request("POST", MAPS, &large)).await;
        }
    }
    let path = format!("{MAPS}/large");
    let answer = tokio::time::timeout(super::PATIENCE, w.cluster.send("PUT", &path, large)).await;
    assert!(matches!(answer.expect("a place").0, 200 | 404));
    w.settle().await;
    w.made("POST", SERVICES, service("s", "ClusterIP", &[1])).await;
    w.nothing_is_left().await;
    w.cluster.running.stop().await;
}

#[tokio::test]
async fn a_watch_is_held_until_it_is_dropped_wherever_that_is() {
    let w = World::start().await;
    w.made("POST", SERVICES, service("s", "NodePort", &[1])).await;
    let open = "apiserver_longrunning_requests";
    for n in 1..12 {
        let (before, mut changes) = (w.counted("services").await, 0);
        let watch = request("GET", &format!("{SERVICES}?watch=1&resourceVersion=0"), &Value::Null);
        let changing = async {
            loop {
                changes += 1;
                let label = json!({"metadata": {"labels": {"n": changes.to_string()}}});
                w.made("PATCH", &format!("{SERVICES}/s"), label).await;
            }
        };
        tokio::select! {
            outcome = w.hang_up(n, watch) => assert_eq!(outcome, None, "a watch lasts"),
            () = changing => unreachable!("it goes on"),
        }
        assert_eq!(w.counted("services").await, before + 1 + changes);
        w.settle().await;
        w.nothing_is_left().await;
    }
    let watch = request("GET", &format!("{SERVICES}?watch=1"), &Value::Null);
    let watch = w.tenant.clone().oneshot(watch).await.unwrap();
    assert_eq!(w.metric(open).await.into_values().collect::<Vec<_>>(), [1]);
    drop(watch);
    w.nothing_is_left().await;
    w.cluster.running.stop().await;
}

/// Who waits for a seat and gives up is not seated, and keeps nobody from one.
#[tokio::test]
async fn who_waits_for_a_seat_leaves_its_queue() {
    let w = World::of(coracle_apiserver::Config { max_reads: 50, max_writes: 50, ..super::config() }).await;
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let level = json!({"metadata": {"name": "narrow"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "lendablePercent": 0, "limitResponse": {
        "type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 50}}}}});
    let schema = json!({"metadata": {"name": "narrow"}, "spec": {"matchingPrecedence": 50,
        "priorityLevelConfiguration": {"name": "narrow"}, "rules": [{
        "subjects": [{"kind": "User", "user": {"name": "tenant"}}], "resourceRules": [{"verbs": ["*"],
        "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]}]}});
    w.made("POST", &format!("{group}/prioritylevelconfigurations"), level).await;
    w.made("POST", &format!("{group}/flowschemas"), schema).await;
    let mut hook = Hook::start().await;
    hook.configure(&w, "validating", "never", "never").await;
    let mut never = service("s", "NodePort", &[1]);
    never["metadata"]["labels"] = json!({"hook": "never"});
    // This one has the level's only seat, as long as its webhook thinks.
    let mut seated = Box::pin(w.tenant.clone().oneshot(request("POST", SERVICES, &never)));
    let asked = tokio::select! {
        _ = &mut seated => panic!("the webhook does not answer"),
        asked = hook.asked.recv() => asked,
    };
    assert_eq!(asked.as_deref(), Some("s"));
    let narrow = async |name: &str| {
        let of_level = |(l, _): &(String, i64)| l.contains("priority_level=\"narrow\"");
        let metric = format!("apiserver_flowcontrol_current_{name}");
        let all = w.metric(&metric).await;
        all.into_iter().filter(of_level).map(|(_, n)| n).sum::<i64>()
    };
    assert_eq!((narrow("executing_seats").await, narrow("inqueue_requests").await), (1, 0));
    let mut waiting = vec![];
    for n in 0..20 {
        let ask = request("POST", MAPS, &map(&format!("m{n}")));
        let mut one = Box::pin(w.tenant.clone().oneshot(ask));
        assert!(one.as_mut().now_or_never().is_none(), "it waits");
        waiting.push(one);
    }
    assert_eq!(narrow("inqueue_requests").await, 20);
    // The first, the last, and those between.
    for n in [0, 18, 9] {
        drop(waiting.remove(n));
    }
    assert_eq!(narrow("inqueue_requests").await, 17);
    drop(waiting);
    assert_eq!((narrow("executing_seats").await, narrow("inqueue_requests").await), (1, 0));
    drop(seated);
    let (code, made) = read(w.tenant.clone().oneshot(request("POST", MAPS, &map("m"))).await.unwrap()).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(w.all(MAPS).await.len(), 1, "nobody of those who waited was served");
    w.nothing_is_left().await;
    w.cluster.running.stop().await;
}

#[test]
fn a_part_of_a_service_is_not_taken_for_the_whole() {
    let part = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1",
        "clusterIPs": ["10.0.0.1"], "ports": [{"port": 1}]}});
    assert!(std::panic::catch_unwind(|| whole(&part)).is_err());
}
