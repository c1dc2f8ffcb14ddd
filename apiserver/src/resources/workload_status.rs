//! The counts in the status of workloads: none below zero, and none that contradicts another.

use super::located::Located;
use super::validation::Errors;

/// The counts of one kind, and of which pairs the first may not be larger than the second.
pub(super) struct Counts {
    pub all: &'static [&'static str],
    pub pairs: &'static [(&'static str, &'static str)],
    /// What is said where more are available than ready.
    pub ready: &'static str,
}

const READY: &str = "cannot be greater than readyReplicas";

pub(super) static DEPLOYMENT: Counts = Counts {
    all: &[
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ],
    pairs: &[
        ("updatedReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ],
    ready: READY,
};

pub(super) static REPLICA_SET: Counts = Counts {
    all: &[
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ],
    pairs: &[
        ("fullyLabeledReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ],
    ready: READY,
};

pub(super) static CONTROLLER: Counts = Counts {
    all: &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"],
    ..REPLICA_SET
};

pub(super) static STATEFUL_SET: Counts = Counts {
    all: &[
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ],
    pairs: &[
        ("readyReplicas", "replicas"),
        ("currentReplicas", "replicas"),
        ("updatedReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ],
    ready: "cannot be greater than status.readyReplicas",
};

pub(super) static DAEMON_SET: Counts = Counts {
    all: &[
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ],
    pairs: &[],
    ready: "",
};

// === impl Counts ===

impl Counts {
    pub(super) fn check(&self, new: &Located<'_>, old: Option<&Located<'_>>, errors: &mut Errors) {
        let status = new.at("status");
        for count in self.all {
            status.at(count).not_negative(errors);
        }
        let number = |of: &Located<'_>, field: &str| of.at(field).number().unwrap_or(0);
        for (part, whole) in self.pairs {
            if number(&status, part) > number(&status, whole) {
                let why = match *whole {
                    "replicas" => "cannot be greater than status.replicas",
                    _ => self.ready,
                };
                errors.invalid(status.at(part).path(), number(&status, part), why);
            }
        }
        let Some(before) = old.filter(|_| self.all.contains(&"collisionCount")).map(|o| o.at("status"))
        else {
            return;
        };
        let (is, was) = (status.at("collisionCount"), before.at("collisionCount"));
        if was.number().is_some_and(|was| is.number().is_none_or(|is| is < was)) {
            errors.invalid(is.path(), is.number().unwrap_or(0), "cannot be decremented");
        }
    }
}
