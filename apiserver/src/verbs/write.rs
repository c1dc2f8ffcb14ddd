//! Create and update: the one way of every write into the store.

use std::sync::Arc;

use bytes::Bytes;
use coracle_api::Object;
use jiff::Timestamp;
use serde_json::Value;

use super::apply::authorize_create;
use super::commit::{Along, put, remove};
use super::{commit, metadata, tracking, versions};
use crate::Server;
use crate::admission::{Attributes, Operation, warned};
use crate::authn::User;
use crate::codec::ordered::Ordered;
use crate::field::FieldError;
use crate::patch::apply;
use crate::resource::{Resource, SubresourceHandler, WriteContext};
use crate::status::{Result, Status};
use crate::store::{Stored, Write};

/// Where and for whom a write happens.
pub struct Ask<'a> {
    pub user: &'a User,
    pub resource: &'a Resource,
    /// `""`, `status`, or a part's name.
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub now: Timestamp,
    pub dry_run: bool,
    /// Whose fields this write sets; `None` where the object names its owners itself.
    pub manager: Option<&'a str>,
}

/// What a write left behind.
pub struct Written {
    /// The object as stored: in the stored version, unless a webhook makes versions.
    pub value: Bytes,
    pub created: bool,
    /// For `Warning` headers.
    pub warnings: Vec<String>,
}

/// Makes the new object from the old one. Called again when another writer came first.
pub type Edit<'a> = dyn FnMut(&Object) -> Result<Object> + Send + 'a;

/// What an update may do besides changing what is there.
#[derive(Clone, Copy, Default)]
pub struct UpdateRules {
    /// Whether the new object is a whole (PUT): kinds that may be are created by it, and a uid in it is a precondition. In
    /// a patch it is a field that cannot be changed.
    pub creates: bool,
    /// Whether what is not there is created, whatever its kind: server-side apply.
    pub applies: bool,
}

/// How often a generated name is made anew.
const NAME_ATTEMPTS: usize = 8;

// === impl Ask ===

impl Ask<'_> {
    /// The key of an object of this resource.
    pub fn key(&self, name: &str) -> String {
        key(self.resource, self.namespace, name)
    }

    fn attributes<'b>(&'b self, operation: Operation, name: &'b str) -> Attributes<'b> {
        Attributes {
            user: self.user,
            operation,
            resource: self.resource,
            subresource: self.subresource,
            namespace: self.namespace,
            name,
            dry_run: self.dry_run,
        }
    }

    pub(super) fn context(&self) -> WriteContext<'_> {
        WriteContext {
            user: self.user,
            resource: self.resource,
            subresource: self.subresource,
            now: self.now,
            dry_run: self.dry_run,
            labelled: true,
        }
    }

    pub(super) fn delete_attributes(&self) -> Attributes<'_> {
        self.attributes(Operation::Delete, self.name)
    }
}

/// `namespace/name`, or `name` where the kind is cluster-wide.
pub fn key(resource: &Resource, namespace: &str, name: &str) -> String {
    if resource.namespaced() { format!("{namespace}/{name}") } else { name.to_owned() }
}

/// Creates an object that has been decoded, normalised and pruned.
pub async fn create(server: &Server, ask: &Ask<'_>, new: Object) -> Result<Written> {
    if !new.name().is_empty() || new.generate_name().is_empty() {
        return create_once(server, ask, new).await;
    }
    for _ in 1..NAME_ATTEMPTS {
        match create_once(server, ask, new.clone()).await {
            Err(taken) if taken.0.reason == "AlreadyExists" => {}
            answer => return answer,
        }
    }
    create_once(server, ask, new).await
}

async fn create_once(server: &Server, ask: &Ask<'_>, mut new: Object) -> Result<Written> {
    let resource = ask.resource;
    match_namespace(&mut new, ask)?;
    let revision = new.remove(&["metadata", "resourceVersion"]).filter(|r| r != "");
    let labelled = new.labels().is_some_and(|labels| !labels.is_empty());
    resource.strategy.default(&mut new);
    if new.name().is_empty() && !new.generate_name().is_empty() {
        let name = metadata::generated_name(new.generate_name());
        new.set(&["metadata", "name"], name);
    }
    resource.admit_new(new.name())?;
    let owners = tracking::owners(server, ask, None, &mut new);
    metadata::fill(&mut new, resource, uuid::Uuid::new_v4().to_string(), ask.now);
    tracking::set_owners(&mut new, owners);
    let name = new.name().to_owned();
    let attributes = ask.attributes(Operation::Create, &name);
    let mut warnings = server.access.admission.mutate(server, &attributes, &mut new, None).await?;
    if let Some(status) = &resource.first_status {
        new.set(&["status"], status.clone());
    }
    let context = WriteContext { labelled, ..ask.context() };
    resource.strategy.prepare(&context, &mut new, None);
    let errors = validate(&context, &new, None);
    if !errors.is_empty() {
        return Err(Status::invalid(&resource.stored_kind(), new.name(), &errors).with_warnings(warnings));
    }
    warnings.extend(resource.strategy.warnings(&new, None));
    let judged = server.access.admission.validate(server, &attributes, Some(&new), None).await;
    let told = warned(judged, &mut warnings)?;
    warnings.extend(told);
    if revision.is_some() && !ask.dry_run {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let charges = server.access.admission.charge(server, &attributes, &new, None).await;
    let charges = warned(charges, &mut warnings)?;
    let hold = resource.strategy.reserve(server, &mut new, None, ask.dry_run)?;
    if ask.dry_run {
        drop(hold);
        versions::to_stored(server, resource, &new).await?;
        if let Some(revision) = revision {
            new.set(&["metadata", "resourceVersion"], revision);
        }
        if server.store.get(&resource.storage, &ask.key(new.name())).is_some() {
            return Err(Status::already_exists(&resource.gvr, new.name()));
        }
        return Ok(Written { value: unsaved(&new), created: true, warnings });
    }
    let along = Along { hold, charges, what: Some(&attributes) };
    let committed = put(server, ask, &ask.key(new.name()), None, &mut new, along).await;
    let taken = || Status::already_exists(&resource.gvr, new.name());
    let stored = committed.map_err(|e| e.status().unwrap_or_else(taken))?;
    let stored = versions::served(server, resource, stored).await?;
    Ok(Written { value: stored.value.clone(), created: true, warnings })
}

/// Everything wrong with an object.
fn validate(cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
    let strategy = &*cx.resource.strategy;
    let own = if strategy.validates(cx.subresource) { strategy.validate(cx, new, old) } else { vec![] };
    match old {
        None if strategy.validates_metadata() && !own.is_empty() => own,
        None => [metadata::validate(new, cx.resource), own].concat(),
        Some(old) => {
            let mut errors = metadata::validate_update(new, old, cx);
            errors.extend(own);
            errors
        }
    }
}

/// The object's namespace is the request's; a contradiction is an error.
fn match_namespace(new: &mut Object, ask: &Ask<'_>) -> Result<()> {
    let namespace = if ask.resource.namespaced() { ask.namespace } else { "" };
    match new.namespace() {
        "" if namespace.is_empty() => {}
        "" => new.set(&["metadata", "namespace"], namespace),
        same if same == namespace => {}
        // What is of the whole cluster forgets a namespace that its author gave it.
        _ if !ask.resource.namespaced() => {
            new.remove(&["metadata", "namespace"]);
        }
        _ => {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// Updates an object: reads, edits, checks and writes until nobody else wrote in between.
pub async fn update(
    server: &Server,
    ask: &Ask<'_>,
    rules: UpdateRules,
    edit: &mut Edit<'_>,
) -> Result<Written> {
    let key = ask.key(ask.name);
    loop {
        let Some(stored) = server.store.get(&ask.resource.storage, &key) else {
            return absent(server, ask, rules, edit).await;
        };
        match update_once(server, ask, &key, &stored, rules, edit).await? {
            Some(written) => return Ok(written),
            None => tracing::trace!(key, "another writer came first"),
        }
    }
}

async fn absent(server: &Server, ask: &Ask<'_>, rules: UpdateRules, edit: &mut Edit<'_>) -> Result<Written> {
    let missing = || Status::not_found(&ask.resource.gvr, ask.name);
    let creates = rules.applies || (rules.creates && ask.resource.create_on_update);
    if !(creates && ask.subresource.is_empty()) {
        return Err(missing());
    }
    let mut new = edit(&Object::default())?;
    match_name(&new, ask)?;
    if !new.uid().is_empty() {
        let why = match rules.applies {
            true => format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                new.uid()
            ),
            false => format!("Precondition failed: UID in precondition: {}, UID in object meta: ", new.uid()),
        };
        return Err(Status::conflict(&ask.resource.gvr, ask.name, &why));
    }
    if new.remove(&["metadata", "resourceVersion"]).is_some_and(|r| r != "") && !rules.applies {
        return Err(missing());
    }
    new.set(&["metadata", "name"], ask.name);
    authorize_create(server, ask)?;
    create(server, ask, new).await
}

/// What an update makes of an object.
struct Next {
    /// As it is stored, in the version that is served.
    present: Arc<Stored>,
    old: Object,
    new: Object,
    /// Whether nothing keeps it any more.
    ends: bool,
    warnings: Vec<String>,
}

/// One try. `None`: somebody else wrote meanwhile.
async fn update_once(
    server: &Server,
    ask: &Ask<'_>,
    key: &str,
    stored: &Arc<Stored>,
    rules: UpdateRules,
    edit: &mut Edit<'_>,
) -> Result<Option<Written>> {
    let resource = ask.resource;
    let Next { present, old, mut new, ends, mut warnings } = next(server, ask, stored, rules, edit).await?;
    let attributes = ask.attributes(Operation::Update, ask.name);
    let charges = server.access.admission.charge(server, &attributes, &new, Some(&old)).await;
    let charges = warned(charges, &mut warnings)?;
    if new == old && !ends {
        return Ok(Some(Written { value: present.value.clone(), created: false, warnings }));
    }
    let hold =
        if ends { None } else { resource.strategy.reserve(server, &mut new, Some(&old), ask.dry_run)? };
    if ask.dry_run {
        drop(hold);
        versions::to_stored(server, resource, &new).await?;
        return Ok(Some(Written { value: unsaved(&new), created: false, warnings }));
    }
    let along = Along { hold, charges, what: Some(&attributes) };
    let committed = match ends {
        true => remove(server, resource, key, (stored, &old), &new).await,
        false => put(server, ask, key, Some((stored, &old)), &mut new, along).await,
    };
    match committed {
        Ok(stored) => {
            let stored = versions::served(server, resource, stored).await?;
            Ok(Some(Written { value: stored.value.clone(), created: false, warnings }))
        }
        Err(e) => e.status().map_or(Ok(None), Err),
    }
}

/// The write that an update of what is there would be, not made; `None` where it would change nothing.
pub(super) async fn stage(server: &Server, ask: &Ask<'_>, edit: &mut Edit<'_>) -> Result<Option<Write>> {
    let key = ask.key(ask.name);
    let stored = server.store.get(&ask.resource.storage, &key);
    let stored = stored.ok_or_else(|| Status::not_found(&ask.resource.gvr, ask.name))?;
    let Next { old, mut new, .. } = next(server, ask, &stored, UpdateRules::default(), edit).await?;
    if new == old {
        return Ok(None);
    }
    let write = commit::write(server, ask, &key, Some((&stored, &old)), &mut new).await;
    write.map(Some).map_err(|e| e.status().unwrap_or_else(|| Status::modified(&ask.resource.gvr, ask.name)))
}

/// The new object, changed, checked and admitted.
async fn next(
    server: &Server,
    ask: &Ask<'_>,
    stored: &Arc<Stored>,
    rules: UpdateRules,
    edit: &mut Edit<'_>,
) -> Result<Next> {
    let resource = ask.resource;
    let present = versions::served(server, resource, stored.clone()).await?;
    let old = converted(resource, present.object());
    let mut new = edit(&old)?;
    match_name(&new, ask)?;
    match_namespace(&mut new, ask)?;
    if rules.creates && !rules.applies {
        check_uid(&new, &old, ask)?;
    }
    check_revision(&mut new, &old, ask)?;
    resource.strategy.default(&mut new);
    let owners = tracking::owners(server, ask, Some(&old), &mut new);
    isolate(&mut new, &old, ask);
    metadata::carry_over(&mut new, &old);
    tracking::set_owners(&mut new, owners);
    let attributes = ask.attributes(Operation::Update, ask.name);
    let mut warnings = server.access.admission.mutate(server, &attributes, &mut new, Some(&old)).await?;
    // What is the server's is not a webhook's, either.
    metadata::carry_over(&mut new, &old);
    let context = ask.context();
    resource.strategy.prepare(&context, &mut new, Some(&old));
    count_generation(&mut new, &old, ask);
    let errors = validate(&context, &new, Some(&old));
    if !errors.is_empty() {
        return Err(Status::invalid(&resource.stored_kind(), ask.name, &errors).with_warnings(warnings));
    }
    if ask.subresource.is_empty() {
        warnings.extend(resource.strategy.warnings(&new, Some(&old)));
    }
    let judged = server.access.admission.validate(server, &attributes, Some(&new), Some(&old)).await;
    let told = warned(judged, &mut warnings)?;
    warnings.extend(told);
    let ends = new.is_being_deleted()
        && new.deletion_grace_period_seconds().unwrap_or(0) == 0
        && new.finalizers().next().is_none()
        && !resource.strategy.held(&new);
    apply::settle_times(&mut new, &old);
    Ok(Next { present, old, new, ends, warnings })
}

fn match_name(new: &Object, ask: &Ask<'_>) -> Result<()> {
    if new.name().is_empty() { Ok(()) } else { check_name(new, ask.name) }
}

/// What replaces an object must name it.
pub fn check_name(new: &Object, asked: &str) -> Result<()> {
    match new.name() {
        same if same == asked => Ok(()),
        "" => Err(Status::bad_request(format!(
            "the name of the object ({asked} based on URL) was undeterminable: name must be provided"
        ))),
        other => Err(Status::bad_request(format!(
            "the name of the object ({other}) does not match the name on the URL ({asked})"
        ))),
    }
}

/// A new object that names its uid must be of the same object.
fn check_uid(new: &Object, old: &Object, ask: &Ask<'_>) -> Result<()> {
    if new.uid().is_empty() || new.uid() == old.uid() {
        return Ok(());
    }
    let (given, uid) = (new.uid(), old.uid());
    let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
    Err(Status::conflict(&ask.resource.gvr, ask.name, &why))
}

/// Optimistic concurrency: a new object that names its revision must have been made from the old one.
fn check_revision(new: &mut Object, old: &Object, ask: &Ask<'_>) -> Result<()> {
    let gvr = &ask.resource.gvr;
    match new.str_at(&["metadata", "resourceVersion"]) {
        "" | "0" if ask.resource.conditional_update => {
            let error = crate::field::FieldError::invalid(
                "metadata.resourceVersion",
                &serde_json::json!(0),
                "must be specified for an update",
            );
            let mut error = error;
            error.value = "0x0".to_owned();
            return Err(Status::invalid(&ask.resource.gvk, ask.name, &[error]));
        }
        "" | "0" => {}
        given => match given.parse::<u64>() {
            Ok(revision) if revision == old.revision() => {}
            Ok(_) => return Err(Status::modified(gvr, ask.name)),
            Err(_) => {
                return Err(Status::bad_request(format!(
                    "resourceVersion: Invalid value: {given:?}: strconv.ParseUint: parsing {given:?}: invalid syntax"
                )));
            }
        },
    }
    let revision = old.str_at(&["metadata", "resourceVersion"]).to_owned();
    new.set(&["metadata", "resourceVersion"], revision);
    if new.name().is_empty() {
        new.set(&["metadata", "name"], ask.name);
    }
    Ok(())
}

/// Which part of an object an endpoint may write: `/status` all of status, and labels, annotations and finalizers;
/// the main endpoint all but status; a named part what its kind says.
fn isolate(new: &mut Object, old: &Object, ask: &Ask<'_>) {
    let resource = ask.resource;
    match ask.subresource {
        "" if resource.status => match old.at(&["status"]) {
            Some(status) => new.set(&["status"], status.clone()),
            None => {
                new.remove(&["status"]);
            }
        },
        "" => {}
        "status" => {
            let written = std::mem::replace(new, old.clone());
            let resets = resource.resets("status");
            // A uid is not written, but one of another object is told of.
            if !written.uid().is_empty() {
                new.set(&["metadata", "uid"], written.uid());
            }
            let parts = [
                &["status"][..],
                &["metadata", "labels"],
                &["metadata", "annotations"],
                &["metadata", "finalizers"],
            ];
            for path in parts.into_iter().filter(|path| !resets.iter().any(|r| path.starts_with(r))) {
                match written.at(path) {
                    Some(value) => new.set(path, value.clone()),
                    None => {
                        new.remove(path);
                    }
                }
            }
        }
        part => {
            let known =
                resource.subresource(part).is_some_and(|s| matches!(s.handler, SubresourceHandler::Part));
            if known {
                resource.strategy.isolate(part, new, old);
            }
        }
    }
}

/// A change of anything but metadata and status is a new generation. A binding says where, not what: it is none.
fn count_generation(new: &mut Object, old: &Object, ask: &Ask<'_>) {
    if !ask.resource.generation || ask.subresource == "binding" {
        return;
    }
    // A custom resource without the endpoint has a status that is a part of it like any other.
    let apart = ask.resource.typed || ask.resource.status;
    let counted = |o: &Object| -> Vec<(String, Value)> {
        let fields = o.0.as_object().into_iter().flatten();
        fields
            .filter(|(k, _)| !matches!(k.as_str(), "metadata" | "apiVersion" | "kind"))
            .filter(|(k, _)| *k != "status" || !apart)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    if counted(new) != counted(old) {
        new.set(&["metadata", "generation"], old.generation() + 1);
    }
}

/// A stored object in the version a resource serves.
pub fn converted(resource: &Resource, mut object: Object) -> Object {
    if let Some(conversion) = &resource.conversion {
        conversion.read(&mut object);
    }
    object
}

pub(super) fn unsaved(object: &Object) -> Bytes {
    Ordered::of(&object.0).bytes().into()
}

#[cfg(test)]
mod tests;
