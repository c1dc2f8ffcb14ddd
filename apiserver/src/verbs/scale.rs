//! The `scale` subresource: one view of every kind that has replicas.

use coracle_api::selector::LabelSelector;
use coracle_api::{Gvk, Object};
use serde_json::{Map, Value, json};

use super::answer::Style;
use super::serve::Request;
use super::tracking::ScaleWrite;
use super::write::{self, Ask, UpdateRules, converted};
use crate::codec::{Form, partial_metadata, table};
use crate::patch::{self, PatchKind};
use crate::resource::{Cell, Column, Resource, Scale, Shown, TableColumn};
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
    match labelled {
        true => LabelSelector::of_json(selector),
        false => LabelSelector::of_json(&json!({"matchLabels": selector})),
    }
    .to_string()
}

/// The columns of a scale's table. Of custom kinds upstream tells an absent number from 0, and the type of the age.
fn columns(typed: bool) -> [TableColumn; 4] {
    let column = |name, kind, cell| TableColumn::from(&Column { name, kind, format: "", priority: 0, cell });
    let name = Cell::Path(&["metadata", "name"]);
    let mut columns = [
        TableColumn { format: "name".into(), ..column("Name", "string", name) },
        column(
            "Desired",
            "integer",
            Cell::Compute(|o, _| o.i64_at(&["spec", "replicas"]).unwrap_or(0).into()),
        ),
        column(
            "Available",
            "integer",
            Cell::Compute(|o, _| o.i64_at(&["status", "replicas"]).unwrap_or(0).into()),
        ),
        column("Age", if typed { "string" } else { "date" }, Cell::Age),
    ];
    if !typed {
        columns[1].cell = Shown::Row(Cell::Compute(|o, _| o.i64_at(&["spec", "replicas"]).into()));
    }
    columns
}

/// A path of the scale leads through what has no fields, or to something of another type.
fn unreadable(why: String) -> Status {
    Status::new(500, "", why)
}

// === impl Request ===

impl Request<'_> {
    /// The answer to a request for a scale: the view of an object, in the form that the client asks for.
    pub(super) fn shown_scale(&self, style: &Style, object: &Object, paths: &Scale) -> Result<Value> {
        if let Some(path) = self.resource.strategy.missing_replicas(object).map_err(unreadable)? {
            return Err(Status::internal(format!("the spec replicas field {path:?} does not exist")));
        }
        let view = of(object, paths);
        Ok(match style.accepted.form {
            Form::Object => view.0,
            Form::Metadata | Form::MetadataList => partial_metadata(&view).0,
            Form::Table => {
                let metadata = json!({"resourceVersion": view.str_at(&["metadata", "resourceVersion"])});
                table(&columns(self.resource.typed), [&view], style.include, &metadata, true, style.now)
            }
        })
    }

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
            let missing = self.resource.strategy.missing_replicas(old).map_err(unreadable)?;
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
            if let (Some(path), None) = (missing, view.at(&["spec", "replicas"]))
                && !matches!(change, Change::Put(..))
            {
                return Err(Status::bad_request(format!("the spec replicas field {path:?} cannot be empty")));
            }
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
