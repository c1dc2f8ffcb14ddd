//! The `scale` subresource: one view of every kind that has replicas.

use coracle_api::{Gvk, Object};
use serde_json::{Map, Value, json};

use super::serve::Request;
use super::tracking::ScaleWrite;
use super::write::{self, Ask, UpdateRules, converted};
use crate::patch::{self, PatchKind};
use crate::resource::{Resource, Scale};
use crate::schema::{Noticed, Schema};
use crate::status::{Result, Status};

/// A change of a scale, as its request's body says it.
enum Change {
    Put(Object, Vec<String>),
    Patch(PatchKind),
    Apply(Object, Noticed),
}

/// The kind of the view.
pub fn gvk() -> Gvk {
    Gvk::new("autoscaling", "v1", "Scale")
}

/// The `Scale` of an object.
pub fn of(object: &Object, paths: &Scale) -> Object {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", field]) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut spec = json!({});
    if let Some(replicas) = paths.spec_replicas.of(object).and_then(Value::as_i64).filter(|r| *r != 0) {
        spec["replicas"] = replicas.into();
    }
    let selector = paths.selector.of(object).filter(|_| !paths.selector.is_empty());
    let mut status =
        json!({"replicas": paths.status_replicas.of(object).and_then(Value::as_i64).unwrap_or(0)});
    if let Some(selector) = selector.map(selector_text).filter(|s| !s.is_empty()) {
        status["selector"] = selector.into();
    }
    Object(
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}),
    )
}

/// A custom object that says nothing of its replicas has no scale.
pub fn check(object: &Object, paths: &Scale, resource: &Resource) -> Result<()> {
    if resource.typed || paths.spec_replicas.of(object).is_some() {
        return Ok(());
    }
    let path = paths.spec_replicas.names().iter().map(|name| format!(".{name}")).collect::<String>();
    Err(Status::internal(format!("the spec replicas field {path:?} does not exist")))
}

/// Writes the replicas of a `Scale` into the object it is a view of.
pub fn apply(scale: &Object, object: &mut Object, paths: &Scale, resource: &Resource) -> Result<()> {
    let replicas = scale.i64_at(&["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let error = crate::field::FieldError::invalid(
            "spec.replicas",
            &json!(replicas),
            "must be greater than or equal to 0",
        );
        return Err(Status::invalid(&gvk(), object.name(), &[error]));
    }
    let given = scale.str_at(&["metadata", "resourceVersion"]);
    if !given.is_empty() && given != object.str_at(&["metadata", "resourceVersion"]) {
        return Err(Status::modified(&resource.gvr, object.name()));
    }
    paths.spec_replicas.set(object, replicas);
    Ok(())
}

/// A `LabelSelector`, a plain map of labels, or a text as it is.
fn selector_text(selector: &Value) -> String {
    if let Value::String(text) = selector {
        return text.clone();
    }
    let labelled = selector.get("matchLabels").or_else(|| selector.get("matchExpressions")).is_some();
    let equal = if labelled { selector.get("matchLabels") } else { Some(selector) };
    let mut parts: Vec<(String, String)> = vec![];
    for (key, value) in equal.and_then(Value::as_object).into_iter().flatten() {
        parts.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = e.get("key").and_then(Value::as_str).unwrap_or_default();
        let values = e.get("values").and_then(Value::as_array).into_iter().flatten();
        let mut values: Vec<&str> = values.filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match e.get("operator").and_then(Value::as_str).unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts.push((key.to_owned(), text));
    }
    parts.sort();
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

// === impl Request ===

impl Request<'_> {
    /// Writes a scale; answers the object it is a view of, and warnings.
    pub(super) async fn write_scale(&self, paths: &Scale) -> Result<(Object, Vec<String>)> {
        let change = match self.info.verb.as_str() {
            "update" => {
                let (view, warnings) = self.decode(&gvk())?;
                Change::Put(view, warnings)
            }
            _ => match self.patch_kind()? {
                PatchKind::Apply => {
                    let (configuration, noticed) = self.configuration()?;
                    Change::Apply(configuration, noticed)
                }
                kind => Change::Patch(kind),
            },
        };
        let schema = Schema::builtin(&gvk()).ok_or_else(|| Status::internal("no schema of Scale"))?;
        // Admission sees the subresource; the write itself is one of the main object.
        let (manager, ask) = (self.manager(), Ask { subresource: "scale", ..self.ask(self.dry_run()?) });
        let scale = ScaleWrite { server: self.server, ask: &ask, paths, schema: &schema, manager: &manager };
        let mut warnings = vec![];
        let mut edit = |old: &Object| {
            check(old, paths, &self.resource)?;
            let before = scale.view(old);
            let mut view = match &change {
                Change::Put(view, noticed) => {
                    warnings.clone_from(noticed);
                    view.clone()
                }
                Change::Patch(kind) => {
                    let patched = patch::apply_normalized(*kind, &before, &self.body, &schema)?;
                    warnings = self.judge_patched(&patched)?;
                    patched.object
                }
                Change::Apply(configuration, noticed) => {
                    warnings = self.judge_duplicates(noticed)?;
                    scale.applied(&before, configuration, self.force())?
                }
            };
            if !matches!(change, Change::Apply(..)) {
                scale.track(&before, &mut view);
            }
            let mut new = old.clone();
            apply(&view, &mut new, paths, &self.resource)?;
            scale.hand_over(&view, &mut new);
            Ok(new)
        };
        let written = write::update(self.server, &ask, UpdateRules::default(), &mut edit).await?;
        let object = serde_json::from_slice(&written.value).map_err(Status::internal)?;
        Ok((converted(&self.resource, Object(object)), warnings))
    }
}
