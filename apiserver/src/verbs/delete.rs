//! Delete: grace, preconditions, propagation, and the moment an object is gone.

use std::sync::Arc;

use coracle_api::{Gvk, Gvr, Object, query};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::commit::{Along, put, remove};
use super::inner::Deletion;
use super::metadata;
use super::versions;
use super::write::{Ask, converted, unsaved};
use crate::Server;
use crate::field::FieldError;
use crate::status::{Result, Status};
use crate::store::Stored;

/// What is answered to a delete.
pub struct Deleted {
    /// The object as it stands, or a `Status`.
    pub body: Value,
    /// Whether the object is gone already.
    pub gone: bool,
    pub warnings: Vec<String>,
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

// === impl Deletion ===

impl Deletion {
    /// Reads `DeleteOptions` from a body; query parameters fill in what is absent.
    pub fn parse(body: Option<&Object>, param: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let empty = Object::default();
        let o = body.unwrap_or(&empty);
        let text = |path: &[&str]| Some(o.str_at(path).to_owned()).filter(|s| !s.is_empty());
        let number = |name: &str| -> Result<Option<i64>> {
            param(name).map(|v| v.parse().map_err(|_| bad_number(&v))).transpose()
        };
        let orphan =
            o.bool_at(&["orphanDependents"]).or_else(|| param("orphanDependents").map(|v| query::flag(&v)));
        let propagation = text(&["propagationPolicy"]).or_else(|| param("propagationPolicy"));
        if orphan.is_some() && propagation.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let value = json!(propagation.unwrap_or_default());
            return Err(invalid_options(FieldError::invalid("propagationPolicy", &value, why)));
        }
        if let Some(p) =
            propagation.as_deref().filter(|p| !matches!(*p, "Orphan" | "Background" | "Foreground"))
        {
            let mut error = FieldError::not_supported("propagationPolicy", &json!(p), &[]);
            error.detail = "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"".to_owned();
            return Err(invalid_options(error));
        }
        let dry_run = match (o.items_at(&["dryRun"]), param("dryRun")) {
            ([], None) => false,
            ([], Some(asked)) => all_dry(&json!([asked]))?,
            (asked, _) => all_dry(&json!(asked))?,
        };
        Ok(Deletion {
            grace_period_seconds: o.i64_at(&["gracePeriodSeconds"]).or(number("gracePeriodSeconds")?),
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
            cascades_asked: orphan == Some(false),
            propagation: propagation.or(orphan.map(|o| if o { "Orphan" } else { "Background" }.to_owned())),
            dry_run,
        })
    }

    /// Whether the client has said what becomes of dependents.
    pub fn says_propagation(&self) -> bool {
        self.propagation.is_some()
    }

    /// The finalizers an object gets for the garbage collector, from those it has.
    fn finalizers(&self, old: &Object, default_orphan: bool) -> Vec<String> {
        let has = |name: &str| old.finalizers().any(|f| f == name);
        let (orphan, foreground) = match self.propagation.as_deref() {
            Some("Orphan") => (true, false),
            Some("Foreground") => (false, true),
            Some(_) => (false, false),
            None => (has(ORPHAN) || (default_orphan && !has(FOREGROUND)), has(FOREGROUND)),
        };
        let kept = old.finalizers().filter(|f| !matches!(*f, ORPHAN | FOREGROUND));
        let added =
            [(orphan, ORPHAN), (foreground, FOREGROUND)].into_iter().filter(|(on, _)| *on).map(|(_, f)| f);
        kept.chain(added).map(str::to_owned).collect()
    }
}

fn bad_number(value: &str) -> Status {
    Status::bad_request(format!("strconv.ParseInt: parsing {value:?}: invalid syntax"))
}

/// `dryRun` is nothing or all.
fn all_dry(asked: &Value) -> Result<bool> {
    match asked.as_array().is_some_and(|a| a.iter().all(|v| v == "All")) {
        true => Ok(true),
        false => Err(invalid_options(FieldError::not_supported("dryRun", asked, &["All"]))),
    }
}

fn invalid_options(error: FieldError) -> Status {
    Status::invalid(&Gvk::new("meta.k8s.io", "v1", "DeleteOptions"), "", &[error])
}

/// What a delete does to an object it has found.
enum Step {
    /// Nothing: its deletion is under way already.
    Pending,
    /// It is marked and stays until its agent or its finalizers are done.
    Mark(Object),
    /// It goes; this is its last state.
    Remove(Object),
}

/// Deletes one object; tried again when another writer came first and the client has set no conditions.
pub async fn delete(server: &Server, ask: &Ask<'_>, how: &Deletion) -> Result<Deleted> {
    let key = ask.key(ask.name);
    loop {
        let missing = || Status::not_found(&ask.resource.gvr, ask.name);
        let stored = server.store.get(&ask.resource.storage, &key).ok_or_else(missing)?;
        let present = versions::served(server, ask.resource, stored.clone()).await?;
        let old = converted(ask.resource, present.object());
        check_preconditions(ask, how, &old)?;
        let attributes = ask.delete_attributes();
        let warnings = server.access.admission.validate(server, &attributes, None, Some(&old)).await?;
        let step = plan(ask, how, &old);
        if let Some((body, gone)) = perform(server, ask, how, &key, &stored, &old, step).await? {
            return Ok(Deleted { body, gone, warnings });
        }
    }
}

/// `None`: somebody else wrote meanwhile.
async fn perform(
    server: &Server,
    ask: &Ask<'_>,
    how: &Deletion,
    key: &str,
    stored: &Arc<Stored>,
    old: &Object,
    step: Step,
) -> Result<Option<(Value, bool)>> {
    let done = |value: &[u8]| -> Result<Value> { serde_json::from_slice(value).map_err(Status::internal) };
    let outcome = match step {
        Step::Pending => return Ok(Some((answer(ask, old), false))),
        Step::Mark(new) if how.dry_run || new == *old => return Ok(Some((new.0, false))),
        Step::Remove(last) if how.dry_run => {
            let last = Object(done(&unsaved(&last))?);
            return Ok(Some((answer(ask, &last), true)));
        }
        Step::Mark(mut new) => {
            let along = Along::default();
            put(server, ask, key, Some((stored, old)), &mut new, along).await.map(|s| (s, false))
        }
        Step::Remove(last) => {
            remove(server, ask.resource, key, (stored, old), &last).await.map(|s| (s, true))
        }
    };
    match outcome {
        Ok((stored, gone)) => {
            let stored = versions::served(server, ask.resource, stored).await?;
            let object = converted(ask.resource, Object(done(&stored.value)?));
            Ok(Some((if gone { answer(ask, &object) } else { object.0 }, gone)))
        }
        Err(e) => e.status().map_or(Ok(None), Err),
    }
}

/// Upstream's decision, on one object, in one place.
fn plan(ask: &Ask<'_>, how: &Deletion, old: &Object) -> Step {
    let strategy = &*ask.resource.strategy;
    let mut new = old.clone();
    let mut graceful = None;
    if strategy.grace_period(old, how.grace_period_seconds).is_some()
        || old.deletion_grace_period_seconds().is_some_and(|g| g > 0)
    {
        match (old.deletion_timestamp(), old.deletion_grace_period_seconds().unwrap_or(0)) {
            (None, _) => {
                let seconds = strategy.grace_period(old, how.grace_period_seconds).unwrap_or(0).max(0);
                mark(&mut new, ask.now, seconds);
                graceful = Some(seconds);
            }
            // A grace period of 0 was left behind by a delete that did not finish.
            (Some(_), 0) => {}
            // Only a shorter grace period may follow.
            (Some(at), before) => match how.grace_period_seconds {
                Some(seconds) if seconds < before => {
                    let shorter = SignedDuration::from_secs(before - seconds.max(0));
                    let at: jiff::Timestamp = at.parse().unwrap_or(ask.now);
                    new.set(&["metadata", "deletionTimestamp"], metadata::time(at - shorter));
                    new.set(&["metadata", "deletionGracePeriodSeconds"], seconds.max(0));
                    graceful = Some(seconds.max(0));
                }
                _ => return Step::Pending,
            },
        }
    }
    let finalizers = how.finalizers(old, strategy.default_orphan());
    if !finalizers.iter().map(String::as_str).eq(old.finalizers()) {
        new.set(&["metadata", "finalizers"], json!(finalizers));
    }
    let kept = !finalizers.is_empty() || strategy.held(old);
    if graceful.is_none() && kept {
        if !old.is_being_deleted() {
            mark(&mut new, ask.now, 0);
        } else {
            new.set(&["metadata", "deletionGracePeriodSeconds"], 0);
        }
    }
    if new.is_being_deleted() {
        strategy.terminate(&mut new);
    }
    match graceful {
        Some(seconds) if seconds > 0 => Step::Mark(new),
        _ if kept => Step::Mark(new),
        _ => Step::Remove(new),
    }
}

/// The first delete of an object: it has `seconds` from now on, and its generation counts.
fn mark(new: &mut Object, now: jiff::Timestamp, seconds: i64) {
    let until = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
    new.set(&["metadata", "deletionTimestamp"], metadata::time(until));
    new.set(&["metadata", "deletionGracePeriodSeconds"], seconds);
    if new.generation() > 0 {
        let next = new.generation() + 1;
        new.set(&["metadata", "generation"], next);
    }
}

fn check_preconditions(ask: &Ask<'_>, how: &Deletion, old: &Object) -> Result<()> {
    let revision = old.str_at(&["metadata", "resourceVersion"]);
    let checks = [
        ("UID", how.uid.as_deref(), old.uid(), "deleted and then recreated"),
        ("ResourceVersion", how.resource_version.as_deref(), revision, "modified"),
    ];
    for (what, wanted, found, fate) in checks {
        if let Some(wanted) = wanted.filter(|w| *w != found) {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). \
                 The object might have been {fate}"
            );
            // Upstream names the kind where others name the resource.
            let kind = &ask.resource.gvk;
            return Err(Status::conflict(
                &Gvr::new(&*kind.group, &*kind.version, &*kind.kind),
                ask.name,
                &why,
            ));
        }
    }
    Ok(())
}

/// The object where its kind answers that; a success `Status` with its identity otherwise.
fn answer(ask: &Ask<'_>, object: &Object) -> Value {
    if ask.resource.returns_deleted {
        return object.0.clone();
    }
    let gvr = &ask.resource.gvr;
    let mut details = json!({"name": object.name(), "kind": gvr.resource, "uid": object.uid()});
    if !gvr.group.is_empty() {
        details["group"] = gvr.group.clone().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests;
