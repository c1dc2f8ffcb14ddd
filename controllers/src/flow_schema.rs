//! Says of every FlowSchema whether the priority level that it names exists: its condition `Dangling`.
//!
//! Upstream's API server says so itself, from its priority and fairness.

use std::sync::Arc;

use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::Config;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer};

struct Controller {
    schemas: Arc<Cache<FlowSchema>>,
    levels: Arc<Cache<PriorityLevelConfiguration>>,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let schemas = runtime.cache::<FlowSchema>();
    let levels = runtime.cache::<PriorityLevelConfiguration>();
    let queue = Queue::default();
    let changed = queue.clone();
    schemas.on_change(move |_, new| {
        if let Some(schema) = new {
            changed.add(Key::of(&**schema));
        }
    });
    let (all, changed) = (Arc::downgrade(&schemas), queue.clone());
    levels.on_change(move |old, new| {
        // Only whether it exists matters.
        let (Some(level), None) = (old.or(new), old.and(new)) else { return };
        let Some(all) = all.upgrade() else { return };
        for schema in all.list().iter().filter(|s| level_of(s) == level.metadata.name.as_deref()) {
            changed.add(Key::of(&**schema));
        }
    });
    runtime.work("flow-schema-status-controller", queue, 1, Controller { schemas, levels });
}

fn level_of(schema: &FlowSchema) -> Option<&str> {
    Some(&schema.spec.as_ref()?.priority_level_configuration.name)
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(schema) = self.schemas.get(key) else { return Ok(Next::Done) };
        let Some(level) = level_of(&schema) else { return Ok(Next::Done) };
        let exists = self.levels.get(&Key::cluster(level)).is_some();
        if let Some(status) = outdated(&schema, level, exists, Timestamp::now()) {
            api.merge_status::<FlowSchema>(key, json!({"status": status})).await?;
        }
        Ok(Next::Done)
    }
}

/// The status that is missing; None if the present one tells the truth.
fn outdated(schema: &FlowSchema, level: &str, exists: bool, now: Timestamp) -> Option<serde_json::Value> {
    let (status, reason, rest) = match exists {
        true => ("False", "Found", "it exists"),
        false => ("True", "NotFound", "there is no such object"),
    };
    let join = if exists { "and" } else { "but" };
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {join} {rest}"
    );
    let there = schema.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let old = there.iter().find(|c| c.type_.as_deref() == Some("Dangling"));
    let same =
        old.is_some_and(|c| c.status.as_deref() == Some(status) && c.message.as_deref() == Some(&message));
    if same {
        return None;
    }
    let since = old
        .filter(|c| c.status.as_deref() == Some(status))
        .and_then(|c| c.last_transition_time.clone())
        .unwrap_or(Time(now));
    let dangling = json!({"type": "Dangling", "status": status, "lastTransitionTime": since,
        "reason": reason, "message": message});
    let others = there.iter().filter(|c| c.type_.as_deref() != Some("Dangling")).map(|c| json!(c));
    Some(json!({"conditions": others.chain([dangling]).collect::<Vec<_>>()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of upstream's flow-control configuration consumer.
    #[test]
    fn a_schema_dangles_while_its_level_is_not_there() {
        let mut schema: FlowSchema = serde_json::from_value(json!({"metadata": {"name": "s"},
            "spec": {"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 1}}))
        .unwrap();
        let now = Timestamp::UNIX_EPOCH;
        for (exists, status, end) in [
            (false, "True", "named \"l\" but there is no such object"),
            (true, "False", "named \"l\" and it exists"),
        ] {
            let missing = outdated(&schema, "l", exists, now).unwrap();
            let condition = &missing["conditions"][0];
            assert_eq!(condition["status"], status);
            assert!(condition["message"].as_str().unwrap().ends_with(end), "{condition}");
            schema.status = serde_json::from_value(missing).unwrap();
            assert_eq!(outdated(&schema, "l", exists, now), None);
        }
    }
}
