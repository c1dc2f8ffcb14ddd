//! What `kubectl get pods` shows: readiness, the one word that best says how the pod is, and restarts.

use coracle_api::{Object, conditions, pod, resources::is_sidecar, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::columns::{AGE, NAME, or, rule, wide};
use crate::resource::Column;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    rule("Ready", |o, _| {
        let s = Summary::of(o);
        json!(format!("{}/{}", s.ready, s.total))
    }),
    rule("Status", |o, _| json!(Summary::of(o).word)),
    rule("Restarts", |o, now| json!(Summary::of(o).restarts_text(now))),
    AGE,
    wide(rule("IP", |o, _| match o.items_at(&["status", "podIPs"]).first() {
        Some(ip) => ip["ip"].clone(),
        None => json!("<none>"),
    })),
    wide(rule("Node", |o, _| or(o, &["spec", "nodeName"], "<none>"))),
    wide(rule("Nominated Node", |o, _| or(o, &["status", "nominatedNodeName"], "<none>"))),
    wide(rule("Readiness Gates", |o, _| readiness_gates(o))),
];

/// The state of a pod in one line.
#[derive(Default)]
struct Summary {
    ready: usize,
    total: usize,
    word: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Restarts and when the last one ended, added up over containers.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

// === impl Restarts ===

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += status["restartCount"].as_i64().unwrap_or(0);
        self.last = self.last.max(time::parse(&status["lastState"]["terminated"]["finishedAt"]));
    }
}

// === impl Summary ===

impl Summary {
    fn of(o: &Object) -> Self {
        let phase = o.str_at(&["status", "phase"]);
        let all = o.items_at(&["status", "conditions"]);
        let gated = conditions::find(all, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated");
        let mut s = Summary { word: phase.to_owned(), ..Summary::default() };
        if !o.str_at(&["status", "reason"]).is_empty() {
            o.str_at(&["status", "reason"]).clone_into(&mut s.word);
        }
        if gated {
            "SchedulingGated".clone_into(&mut s.word);
        }
        let init = o.items_at(&["spec", "initContainers"]);
        let sidecars = init.iter().filter(|c| is_sidecar(c["restartPolicy"].as_str())).count();
        s.total = o.items_at(&["spec", "containers"]).len() + sidecars;
        let (initializing, of_init, of_sidecars) = s.initialize(o, init.len());
        s.count(of_init);
        if !initializing || conditions::is_true(all, "Initialized") {
            s.run(o, of_sidecars);
        }
        if o.is_being_deleted() {
            if o.str_at(&["status", "reason"]) == "NodeLost" {
                "Unknown".clone_into(&mut s.word);
            } else if !pod::is_terminal(o) {
                "Terminating".clone_into(&mut s.word);
            }
        }
        s
    }

    fn count(&mut self, restarts: Restarts) {
        self.restarts = restarts.count;
        self.last_restart = restarts.last;
    }

    /// Looks at init containers up to the first that is not done. Answers whether one holds the pod, and the restarts of
    /// all that were looked at and of the sidecars among them.
    fn initialize(&mut self, o: &Object, init_count: usize) -> (bool, Restarts, Restarts) {
        let (mut all, mut sidecars) = (Restarts::default(), Restarts::default());
        for (i, status) in o.items_at(&["status", "initContainerStatuses"]).iter().enumerate() {
            all.add(status);
            let sidecar = pod::is_sidecar(o, status["name"].as_str().unwrap_or_default());
            if sidecar {
                sidecars.add(status);
            }
            let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
            if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
                continue;
            }
            if sidecar && status["started"] == true {
                self.ready += usize::from(status["ready"] == true);
                continue;
            }
            let why = waiting["reason"].as_str().unwrap_or_default();
            self.word = if terminated.is_object() {
                format!("Init:{}", end_of(terminated))
            } else if !why.is_empty() && why != "PodInitializing" {
                format!("Init:{why}")
            } else {
                format!("Init:{i}/{init_count}")
            };
            return (true, all, sidecars);
        }
        (false, all, sidecars)
    }

    /// Looks at the containers, the first one last: its word wins.
    fn run(&mut self, o: &Object, mut restarts: Restarts) {
        let (mut running, mut error) = (false, None);
        for status in o.items_at(&["status", "containerStatuses"]).iter().rev() {
            restarts.add(status);
            let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
            let why = waiting["reason"].as_str().unwrap_or_default();
            if !why.is_empty() {
                why.clone_into(&mut self.word);
            } else if terminated.is_object() {
                self.word = end_of(terminated);
                if terminated["exitCode"].as_i64().unwrap_or(0) != 0 {
                    error = Some(self.word.clone());
                }
            } else if status["ready"] == true && status["state"]["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        self.count(restarts);
        if self.word == "Completed" {
            match (running && pod::is_ready(o), error, running) {
                (true, ..) => "Running".clone_into(&mut self.word),
                (false, Some(error), _) => self.word = error,
                (false, None, true) => "NotReady".clone_into(&mut self.word),
                (false, None, false) => {}
            }
        }
    }

    fn restarts_text(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(last) if self.restarts != 0 => {
                format!("{} ({} ago)", self.restarts, time::since(Some(last), now))
            }
            _ => self.restarts.to_string(),
        }
    }
}

/// The reason of a terminated state, or its signal or exit code.
fn end_of(terminated: &Value) -> String {
    let reason = terminated["reason"].as_str().unwrap_or_default();
    match terminated["signal"].as_i64().unwrap_or(0) {
        _ if !reason.is_empty() => reason.to_owned(),
        0 => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}

fn readiness_gates(o: &Object) -> Value {
    let gates = o.items_at(&["spec", "readinessGates"]);
    let all = o.items_at(&["status", "conditions"]);
    let open = gates
        .iter()
        .filter(|g| conditions::is_true(all, g["conditionType"].as_str().unwrap_or_default()))
        .count();
    match gates.len() {
        0 => json!("<none>"),
        n => json!(format!("{open}/{n}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_restarts_read_as_upstreams() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let c = json!([{"name": "a"}]);
        for (object, ready, word, restarts) in [
            (json!({"spec": {"containers": c}, "status": {"phase": "Pending"}}), "0/1", "Pending", "0"),
            (
                json!({"spec": {"containers": c}, "status": {"phase": "Running", "containerStatuses": [
                    {"name": "a", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                     "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:05:00Z"}}}]}}),
                "0/1",
                "CrashLoopBackOff",
                "3 (5m ago)",
            ),
            (
                json!({"spec": {"containers": c, "initContainers": [{"name": "i"}, {"name": "j"}]},
                       "status": {"phase": "Pending", "initContainerStatuses": [
                           {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}}),
                "0/1",
                "Init:1/2",
                "0",
            ),
            (
                json!({"spec": {"containers": c}, "status": {"phase": "Succeeded", "containerStatuses": [
                    {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}}),
                "0/1",
                "Completed",
                "0",
            ),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": c},
                       "status": {"phase": "Running", "containerStatuses": [
                           {"name": "a", "ready": true, "state": {"running": {}}}]}}),
                "1/1",
                "Terminating",
                "0",
            ),
            (
                json!({"spec": {"containers": c}, "status": {"phase": "Failed", "containerStatuses": [
                    {"name": "a", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}}),
                "0/1",
                "OOMKilled",
                "0",
            ),
        ] {
            let s = Summary::of(&Object(object));
            assert_eq!((format!("{}/{}", s.ready, s.total).as_str(), s.word.as_str()), (ready, word));
            assert_eq!(s.restarts_text(now), restarts, "{word}");
        }
    }
}
