//! Priority: a pod's priority is its class's, never its own word.

use coracle_api::Object;
use serde_json::Value;

use super::{Attributes, Operation, gvr};
use crate::Server;
use crate::cluster::Cluster;
use crate::status::Result;

const GROUP: &str = "scheduling.k8s.io";

pub(super) fn mutate(
    cluster: &dyn Cluster,
    what: &Attributes<'_>,
    pod: &mut Object,
    old: Option<&Object>,
) -> Result<()> {
    if !what.is("", "pods") {
        return Ok(());
    }
    if what.operation == Operation::Update {
        // Both fields are immutable; a client that leaves them out means what is there.
        for field in ["priority", "preemptionPolicy"] {
            if pod.at(&["spec", field]).is_none()
                && let Some(before) = old.and_then(|o| o.at(&["spec", field]))
            {
                pod.set(&["spec", field], before.clone());
            }
        }
        return Ok(());
    }
    let name = pod.str_at(&["spec", "priorityClassName"]).to_owned();
    let classes = gvr(GROUP, "v1", "priorityclasses");
    let class = match name.as_str() {
        "" => default_class(cluster),
        name => match cluster.get(&classes, "", name) {
            Some(class) => Some(class),
            None => return Err(what.refuse(format!("no PriorityClass with name {name} was found"))),
        },
    };
    let (priority, policy) = class.as_ref().map_or((0, "PreemptLowerPriority"), |class| {
        let policy = class.str_at(&["preemptionPolicy"]);
        (
            class.i64_at(&["value"]).unwrap_or(0),
            if policy.is_empty() { "PreemptLowerPriority" } else { policy },
        )
    });
    if let Some(class) = class.as_ref().filter(|_| name.is_empty()) {
        pod.set(&["spec", "priorityClassName"], class.name());
    }
    if let Some(given) = pod.i64_at(&["spec", "priority"]).filter(|given| *given != priority) {
        return Err(what.refuse(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        )));
    }
    if let Some(given) =
        pod.at(&["spec", "preemptionPolicy"]).and_then(Value::as_str).filter(|given| *given != policy)
    {
        return Err(what.refuse(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        )));
    }
    pod.set(&["spec", "priority"], priority);
    pod.set(&["spec", "preemptionPolicy"], policy);
    Ok(())
}

/// At most one class is everybody's.
pub(super) fn validate(
    server: &Server,
    what: &Attributes<'_>,
    new: Option<&Object>,
    _old: Option<&Object>,
) -> Result<()> {
    let Some(new) = new.filter(|_| what.is(GROUP, "priorityclasses")) else { return Ok(()) };
    if new.bool_at(&["globalDefault"]) != Some(true) {
        return Ok(());
    }
    match default_class(server).filter(|d| d.name() != new.name()) {
        Some(other) => Err(what.refuse(format!(
            "PriorityClass {} is already marked as default. Only one default can exist",
            other.name()
        ))),
        None => Ok(()),
    }
}

/// The class of pods that name none: of several (they can only race into being) the lowest.
fn default_class(cluster: &dyn Cluster) -> Option<Object> {
    let classes = cluster.list(&gvr(GROUP, "v1", "priorityclasses"), "");
    let defaults = classes.into_iter().filter(|c| c.bool_at(&["globalDefault"]) == Some(true));
    defaults.min_by_key(|c| c.i64_at(&["value"]).unwrap_or(0))
}
