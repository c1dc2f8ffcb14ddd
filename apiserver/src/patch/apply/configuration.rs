//! Server-side apply: merges a configuration into an object and makes its manager own what it names.

use coracle_api::Object;
use serde_json::{Value, json};

use super::compare::Difference;
use super::managers::{Entry, Managers, Operation};
use super::merge::merge;
use super::owned::{fields_of, with_named_fields};
use super::place::Place;
use super::remove::without;
use super::set::{Set, contains, exclude, intersection, paths, subtract, union};
use super::track::{conflicts, disown, strip, update};
use super::validate::validate;
use super::{MANAGED_FIELDS, Writing, element, last_applied};
use crate::limits;
use crate::status::{Result, Status};

/// The owner of what was there before the first apply.
const BEFORE: &str = "before-first-apply";

/// A field that another manager owns with another value.
pub(super) struct Conflict {
    manager: String,
    identity: String,
    pub(super) path: Vec<String>,
}

/// Why a configuration was not applied.
pub(super) enum Refusal {
    /// The conflicts, and whether these are all.
    Conflicts(Vec<Conflict>, bool),
    Other(Status),
}

/// The object with the configuration applied, not yet in its kind's form. `live` is `None` where it does not exist yet.
pub fn apply(w: &Writing<'_>, live: Option<&Object>, applied: &Object, force: bool) -> Result<Object> {
    if applied.gvk() != *w.gvk {
        return Err(Status::bad_request(format!("invalid object type: {}", applied.gvk())));
    }
    let empty;
    let live = match live {
        Some(live) => live,
        None => {
            empty = w.empty();
            &empty
        }
    };
    let mut merged = match once(w, live, applied, force) {
        Ok(merged) => merged,
        Err(Refusal::Other(status)) => return Err(status),
        Err(Refusal::Conflicts(all, complete)) => {
            let open = match w.manager {
                last_applied::MANAGER if complete => last_applied::open_conflicts(w, live, all),
                _ => all,
            };
            if !open.is_empty() {
                return Err(conflict(&open));
            }
            once(w, live, applied, true).map_err(|refusal| match refusal {
                Refusal::Other(status) => status,
                Refusal::Conflicts(all, _) => conflict(&all),
            })?
        }
    };
    if w.manager == last_applied::MANAGER {
        last_applied::refresh(&mut merged, applied);
    }
    Ok(merged)
}

fn once(w: &Writing<'_>, live: &Object, applied: &Object, force: bool) -> Result<Object, Refusal> {
    let api_version = w.gvk.api_version();
    let root = Place::root(w.schema);
    let mut managers = entries(w, live)?;
    check(w, root, applied)?;
    w.forget_unserved(&mut managers, &api_version);

    let mut merged = merge(root, Some(&live.0), Some(&applied.0)).unwrap_or_default();
    let mut fields = fields_of(root, &applied.0);
    w.resets.iter().for_each(|path| exclude(&mut fields, path));
    let (mine, last) = take_over(w, &mut managers, fields);
    if let Some(last) = last.filter(|last| !last.is_empty()) {
        merged = prune(root, &merged, &last, &managers);
    }

    let mut difference = Difference::between(root, &live.0, &merged);
    difference.exclude(w.resets);
    let contested = conflicts(&managers, Some(mine), &difference);
    if !force && !contested.is_empty() {
        let mut room = limits::TOLD_BYTES;
        let all = Conflict::all(&managers, &contested, &mut room);
        return Err(Refusal::Conflicts(all, room > 0));
    }
    if live.0 != merged {
        managers.0[mine].time = Some(w.now.to_owned());
    }
    strip(&mut managers.0[mine].fields);
    disown(&mut managers, Some(mine), &difference);

    let mut merged = Object(merged);
    match managers.write() {
        Some(list) => merged.set(&MANAGED_FIELDS, list),
        None => drop(merged.remove(&MANAGED_FIELDS)),
    }
    Ok(merged)
}

/// The entries of the live object; where there are none, all its fields belong to who came before.
fn entries(w: &Writing<'_>, live: &Object) -> Result<Managers, Refusal> {
    let list = live.at(&MANAGED_FIELDS).cloned();
    let mut managers = Managers::read(list, true).map_err(|why| {
        Refusal::Other(Status::new(500, "", format!("failed to decode managed fields: {why}")))
    })?;
    if managers.0.is_empty() {
        update(w, BEFORE, &mut managers, &w.empty().0, &live.0);
    }
    Ok(managers)
}

fn check(w: &Writing<'_>, root: Place<'_>, applied: &Object) -> Result<(), Refusal> {
    if applied.at(&MANAGED_FIELDS).is_some_and(Value::is_array) {
        return Err(Refusal::Other(Status::bad_request("metadata.managedFields must be nil")));
    }
    match validate(root, &applied.0) {
        None => Ok(()),
        Some(why) => {
            let (namespace, name) = (applied.namespace(), applied.name());
            let why = format!("failed to create typed patch object ({namespace}/{name}; {}): {why}", w.gvk);
            Err(Refusal::Other(Status::new(500, "", why)))
        }
    }
}

/// Gives the manager's entry the fields it names now; answers its place, and what it named last time.
fn take_over(w: &Writing<'_>, managers: &mut Managers, fields: Set) -> (usize, Option<Set>) {
    let api_version = w.gvk.api_version();
    let writer = w.writer(Operation::Apply, &api_version);
    if let Some(at) = managers.position(writer) {
        let entry = &mut managers.0[at];
        entry.api_version = api_version.clone();
        return (at, Some(std::mem::replace(&mut entry.fields, fields)));
    }
    managers.0.push(Entry {
        manager: writer.manager.to_owned(),
        operation: Operation::Apply,
        subresource: w.subresource.to_owned(),
        api_version,
        time: None,
        fields,
    });
    (managers.0.len() - 1, None)
}

/// Takes out what the manager applied last time and does not apply now, unless somebody else owns it.
fn prune(root: Place<'_>, merged: &Value, last: &Set, managers: &Managers) -> Value {
    let named = |set: &Set| with_named_fields(root, set);
    let last = named(last);
    let mut owned = Set::new();
    managers.0.iter().for_each(|e| union(&mut owned, &e.fields));
    let all = named(&fields_of(root, merged));

    // Without all that was applied last time; then what is owned comes back.
    let pruned = without(root, merged, &last);
    let mut gone = all.clone();
    subtract(&mut gone, &named(&fields_of(root, &pruned)));
    subtract(&mut gone, &named(&owned));
    let pruned = without(root, merged, &gone);

    // What hung below it and was never applied by this manager stays.
    let mut gone = all;
    subtract(&mut gone, &named(&fields_of(root, &pruned)));
    without(root, merged, &intersection(&gone, &last))
}

// === impl Conflict ===

impl Conflict {
    fn all(managers: &Managers, contested: &[(usize, Set)], room: &mut usize) -> Vec<Conflict> {
        let of = |(at, fields): &(usize, Set)| {
            let entry = &managers.0[*at];
            let conflict = |path| Conflict { manager: entry.shown(), identity: entry.identity(), path };
            paths(fields, room).into_iter().map(conflict).collect::<Vec<_>>()
        };
        let mut all: Vec<Conflict> = contested.iter().flat_map(of).collect();
        all.sort_by(|a, b| a.identity.cmp(&b.identity));
        all
    }

    /// Whether a set has the path.
    pub(super) fn is_in(&self, set: &Set) -> bool {
        contains(set, &self.path)
    }
}

/// The 409 that names every field and who owns it.
fn conflict(all: &[Conflict]) -> Status {
    let causes: Vec<Value> = all
        .iter()
        .map(|c| {
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", c.manager),
                   "field": element::shown(&c.path)})
        })
        .collect();
    let message = match all {
        [one] => {
            format!(
                "Apply failed with 1 conflict: conflict with {}: {}",
                one.manager,
                element::shown(&one.path)
            )
        }
        many => {
            let mut lines: Vec<String> = vec![];
            let mut before = "";
            for c in many {
                if before != c.identity {
                    lines.push(format!("conflicts with {}:", c.manager));
                    before = &c.identity;
                }
                lines.push(format!("- {}", element::shown(&c.path)));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let mut status = Status::new(409, "Conflict", message);
    status.0.details = Some(json!({"causes": causes}));
    status
}
