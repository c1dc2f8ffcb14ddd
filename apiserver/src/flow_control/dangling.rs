//! Says of every FlowSchema whether the priority level that it names is there: its condition `Dangling`. As upstream, the
//! API server says so itself, whoever runs the controllers.

use std::sync::Arc;

use coracle_api::{Gvr, Object};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::schemas::{KINDS, level_of};
use crate::{Server, bootstrap};

const DANGLING: &str = "Dangling";

/// Keeps the conditions true until the server stops.
pub async fn run(server: Arc<Server>, stop: CancellationToken) {
    loop {
        let seen = server.store.revision();
        let [mut schemas, mut levels] = KINDS.map(|storage| server.store.watch(&storage.into(), "", seen));
        settle(&server).await;
        tokio::select! {
            () = stop.cancelled() => return,
            // Whatever changed, and also a cursor that fell behind: all schemas are looked at again.
            _ = schemas.next() => {}
            _ = levels.next() => {}
        }
    }
}

async fn settle(server: &Arc<Server>) {
    let user = bootstrap::system();
    let [schemas, levels] = super::objects(&**server);
    for schema in &schemas {
        let exists = levels.iter().any(|level| level.name() == level_of(schema));
        let now = Timestamp::now();
        if outdated(schema, exists, now).is_none() {
            continue;
        }
        // The object may be another by now; what is written is about that one.
        let change = |object: &mut Object| {
            if let Some(conditions) = outdated(object, exists, now) {
                object.set(&["status", "conditions"], conditions);
            }
            Ok(())
        };
        let gvr = Gvr::new("flowcontrol.apiserver.k8s.io", "v1", "flowschemas");
        if let Err(e) = server.modify(&user, &gvr, "status", "", schema.name(), false, &change).await {
            tracing::debug!(schema = schema.name(), error = %e, "cannot say whether a flow schema dangles");
        }
    }
}

/// The conditions that a schema should have; `None` where it has them.
fn outdated(schema: &Object, exists: bool, now: Timestamp) -> Option<Value> {
    let (status, reason, rest) = match exists {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let level = level_of(schema);
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {rest}");
    let there = schema.items_at(&["status", "conditions"]);
    let old = there.iter().find(|c| c["type"] == DANGLING);
    if old.is_some_and(|c| c["status"] == status && c["message"] == message) {
        return None;
    }
    let since = old.filter(|c| c["status"] == status).map(|c| c["lastTransitionTime"].clone());
    let since = since.filter(|at| !at.is_null()).unwrap_or_else(|| json!(coracle_api::time::seconds(now)));
    let dangling = json!({"type": DANGLING, "status": status, "lastTransitionTime": since, "reason": reason,
        "message": message});
    let others = there.iter().filter(|c| c["type"] != DANGLING).cloned();
    Some(others.chain([dangling]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of upstream's flow-control configuration consumer.
    #[test]
    fn a_schema_dangles_while_its_level_is_not_there() {
        let mut schema = Object(json!({"metadata": {"name": "s"},
            "spec": {"priorityLevelConfiguration": {"name": "l"}}, "status": {"conditions": [{"type": "Other"}]}}));
        let now = Timestamp::UNIX_EPOCH;
        for (exists, status, end) in [
            (false, "True", "named \"l\" but there is no such object"),
            (true, "False", "named \"l\" and it exists"),
        ] {
            let conditions = outdated(&schema, exists, now).unwrap();
            assert_eq!((&conditions[0]["type"], &conditions[1]["status"]), (&json!("Other"), &json!(status)));
            assert!(conditions[1]["message"].as_str().unwrap().ends_with(end), "{conditions}");
            schema.set(&["status", "conditions"], conditions);
            assert_eq!(outdated(&schema, exists, now), None);
        }
    }
}
