//! Who owns the fields of what is written: the write path's side of [`crate::patch::apply`].

use coracle_api::{Gvk, Object};
use serde_json::Value;

use super::metadata;
use super::write::Ask;
use crate::Server;
use crate::patch::apply::{self, MANAGED_FIELDS, Writing};
use crate::resource::Scale;
use crate::schema::Schema;
use crate::status::{Result, Status};

/// The manager of what the server writes on its own account.
pub(super) const SERVER: &str = "kube-apiserver";

/// Takes the owners out of an object that is about to be written, as they will be after the write.
pub(super) fn owners(
    server: &Server,
    ask: &Ask<'_>,
    old: Option<&Object>,
    new: &mut Object,
) -> Option<Value> {
    match ask.manager {
        Some(manager) => {
            as_written(server, ask, (&ask.resource.schema, &ask.resource.gvk), manager, |writing| {
                apply::track(writing, old, new)
            })
        }
        None => new.remove(&MANAGED_FIELDS),
    }
}

/// Puts the owners into an object.
pub(super) fn set_owners(object: &mut Object, owners: Option<Value>) {
    match owners {
        Some(owners) => object.set(&MANAGED_FIELDS, owners),
        None => drop(object.remove(&MANAGED_FIELDS)),
    }
}

/// The live object (`None`: it does not exist) with a configuration applied, in its kind's form.
pub(super) fn applied(
    server: &Server,
    ask: &Ask<'_>,
    manager: &str,
    live: Option<&Object>,
    configuration: &Object,
    force: bool,
) -> Result<Object> {
    let (schema, gvk) = (&ask.resource.schema, &ask.resource.gvk);
    let mut new = as_written(server, ask, (schema, gvk), manager, |writing| {
        apply::apply(writing, live, configuration, force)
    })?;
    in_form(schema, gvk, &mut new)?;
    Ok(new)
}

/// What upstream says of a merged object that is none of its kind.
fn in_form(schema: &Schema, gvk: &Gvk, object: &mut Object) -> Result<()> {
    let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
    schema.restore(object).map(drop).map_err(|why| {
        let version = gvk.api_version();
        Status::new(
            500,
            "",
            format!(
                "failed to convert new object ({namespace}/{name}; {gvk}) to proper version ({version}): unable to convert \
                 unstructured object to {gvk}: {why}"
            ),
        )
    })
}

/// How a scale is written: its owners are those of the object's replicas.
pub(super) struct ScaleWrite<'a> {
    pub(super) server: &'a Server,
    pub(super) ask: &'a Ask<'a>,
    pub(super) paths: &'a Scale,
    pub(super) schema: &'a Schema,
    pub(super) manager: &'a str,
}

// === impl ScaleWrite ===

impl ScaleWrite<'_> {
    fn with<R>(&self, then: impl FnOnce(&Writing<'_>) -> R) -> R {
        let gvk = super::scale::gvk();
        as_written(self.server, self.ask, (self.schema, &gvk), self.manager, then)
    }

    /// The scale of an object with the owners of its replicas.
    pub(super) fn view(&self, object: &Object) -> Object {
        let mut view = super::scale::of(object, self.paths);
        set_owners(
            &mut view,
            apply::to_scale(object, &self.paths.spec_replicas.names(), &super::scale::gvk()),
        );
        view
    }

    /// The view with a configuration applied.
    pub(super) fn applied(&self, view: &Object, configuration: &Object, force: bool) -> Result<Object> {
        let mut new = self.with(|writing| apply::apply(writing, Some(view), configuration, force))?;
        in_form(self.schema, &super::scale::gvk(), &mut new)?;
        Ok(new)
    }

    /// Gives an updated view its owners.
    pub(super) fn track(&self, old: &Object, new: &mut Object) {
        let owners = self.with(|writing| apply::track(writing, Some(old), new));
        set_owners(new, owners);
    }

    /// Gives the object the owners that its new view has.
    pub(super) fn hand_over(&self, view: &Object, object: &mut Object) {
        let owners = view.at(&MANAGED_FIELDS);
        let gvk = &self.ask.resource.gvk;
        let owners = apply::from_scale(object, &self.paths.spec_replicas.names(), gvk, owners);
        set_owners(object, owners);
    }
}

fn as_written<R>(
    server: &Server,
    ask: &Ask<'_>,
    (schema, gvk): (&Schema, &Gvk),
    manager: &str,
    then: impl FnOnce(&Writing<'_>) -> R,
) -> R {
    let now = metadata::time(ask.now);
    let kind = &ask.resource.gvk.kind;
    let served =
        |api_version: &str| server.registry.kind(&Gvk::from_api_version(api_version, kind)).is_some();
    let resets = if *gvk == ask.resource.gvk { ask.resource.resets(ask.subresource) } else { &[] };
    then(&Writing { schema, gvk, manager, subresource: ask.subresource, now: &now, resets, served: &served })
}
