//! The rules of `metadata` that hold for every kind: what the server fills in, and what a client may write.

use std::collections::HashSet;

use coracle_api::Object;
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};

use super::options::bad_manager;
use crate::field::{Cause, FieldError};
use crate::field_names;
use crate::limits::{ANNOTATION_BYTES, SUBRESOURCE_BYTES, TOLD_BYTES};
use crate::resource::{Resource, WriteContext};

/// Finalizers whose names need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// The wire form of a time in metadata.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Makes the metadata of a new object the server's.
pub fn fill(new: &mut Object, resource: &Resource, uid: String, now: Timestamp) {
    for field in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"]
    {
        new.remove(&["metadata", field]);
    }
    new.set(&["metadata", "uid"], uid);
    new.set(&["metadata", "creationTimestamp"], time(now));
    if resource.generation {
        new.set(&["metadata", "generation"], 1);
    }
}

/// Upstream's: the prefix, cut to leave room, and five of these characters.
pub fn generated_name(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    let mut end = prefix.len().min(58);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let tail = (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    prefix[..end].chars().chain(tail).collect()
}

/// Makes the server's part of an updated object's metadata what it was, whatever the client says of it; what is the
/// client's to repeat is filled where it is absent, and judged by [`validate_update`].
pub fn carry_over(new: &mut Object, old: &Object) {
    if new.uid().is_empty() {
        copy(new, old, "uid");
    }
    if !old.str_at(&["metadata", "creationTimestamp"]).is_empty() {
        copy(new, old, "creationTimestamp");
    }
    if old.is_being_deleted() {
        copy(new, old, "deletionTimestamp");
    }
    if new.at(&["metadata", "deletionGracePeriodSeconds"]).is_none() {
        copy(new, old, "deletionGracePeriodSeconds");
    }
    copy(new, old, "generation");
    copy(new, old, "selfLink");
}

fn copy(new: &mut Object, old: &Object, field: &str) {
    match old.at(&["metadata", field]) {
        Some(value) => new.set(&["metadata", field], value.clone()),
        None => {
            new.remove(&["metadata", field]);
        }
    }
}

/// Everything wrong with the metadata of a new object, in upstream's order.
pub fn validate(new: &Object, resource: &Resource) -> Vec<FieldError> {
    validate_named(new, resource, |name| resource.strategy.validate_name(name, new))
}

fn validate_named(new: &Object, resource: &Resource, rule: impl Fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let mut errors = vec![];
    let mut names = |field: &str, name: &str, check: Vec<String>| {
        let path = format!("metadata.{field}");
        errors.extend(check.into_iter().map(|why| FieldError::invalid(&*path, &json!(name), why)));
    };
    // A prefix may end in a dash; what will follow it is a letter or digit.
    let prefix = new.generate_name();
    if !prefix.is_empty() {
        let masked = prefix.strip_suffix('-').map_or(prefix.to_owned(), |p| format!("{p}a"));
        names("generateName", prefix, rule(&masked));
    }
    match new.name() {
        "" => errors.push(FieldError::required("metadata.name", "name or generateName is required")),
        name => names("name", name, rule(name)),
    }
    if resource.namespaced() {
        match new.namespace() {
            "" => errors.push(FieldError::required("metadata.namespace", "")),
            namespace => {
                let check = field_names::dns1123_label(namespace);
                errors.extend(
                    check
                        .into_iter()
                        .map(|why| FieldError::invalid("metadata.namespace", &json!(namespace), why)),
                );
            }
        }
    } else if !new.namespace().is_empty() {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    validate_maps(new, &mut errors);
    validate_owners(new.owner_references(), &mut errors);
    validate_finalizers(new, resource, &mut errors);
    validate_managers(new, &mut errors);
    errors
}

/// What is wrong with the labels, annotations and owners of an object inside another.
pub(crate) fn validate_embedded(object: &Object) -> Vec<FieldError> {
    let mut errors = vec![];
    validate_maps(object, &mut errors);
    validate_owners(object.owner_references(), &mut errors);
    errors
}

fn validate_maps(new: &Object, errors: &mut Vec<FieldError>) {
    for (key, value) in new.labels().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let bad_key = field_names::qualified_name(key).into_iter().map(|why| (json!(key), why));
        let bad_value = field_names::label_value(value).into_iter().map(|why| (json!(value), why));
        errors
            .extend(bad_key.chain(bad_value).map(|(v, why)| FieldError::invalid("metadata.labels", &v, why)));
    }
    let mut size = 0;
    for (key, value) in new.annotations().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        for why in field_names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &json!(key), why));
        }
    }
    if size > ANNOTATION_BYTES {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATION_BYTES));
    }
}

/// Drops owners that are named twice in the very same words; answers the warning for it. `later`: admission put them in.
pub(crate) fn drop_repeated_owners(object: &mut Object, later: bool) -> Option<String> {
    let owners = object.owner_references();
    let mut seen = std::collections::HashSet::new();
    let repeated: Vec<usize> = (0..owners.len()).filter(|i| !seen.insert(owners[*i].to_string())).collect();
    if repeated.is_empty() {
        return None;
    }
    let uids = repeated.iter().map(|i| owners[*i]["uid"].as_str().unwrap_or_default());
    let when = if later { " after mutating admission happens" } else { "" };
    let warning = format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and \
         may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        uids.collect::<Vec<_>>().join(", ")
    );
    if let Some(owners) = object.entry(&["metadata", "ownerReferences"]).as_array_mut() {
        seen.clear();
        owners.retain(|owner| seen.insert(owner.to_string()));
    }
    Some(warning)
}

fn validate_owners(owners: &[Value], errors: &mut Vec<FieldError>) {
    const PATH: &str = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    // Each of these errors shows all owners.
    let mut room = TOLD_BYTES;
    for owner in owners {
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        let (_, version) = coracle_api::gvk::split_api_version(text("apiVersion"));
        // With more than one slash there is no version, as upstream reads it.
        if version.is_empty() || version.contains('/') {
            let why = "version must not be empty";
            errors.push(FieldError::invalid(format!("{PATH}.apiVersion"), &json!(text("apiVersion")), why));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(FieldError::invalid(format!("{PATH}.{field}"), &json!(""), "must not be empty"));
            }
        }
        let kind = coracle_api::Gvk::from_api_version(text("apiVersion"), text("kind"));
        if coracle_api::names::NEVER_OWNERS.contains(&(text("apiVersion"), text("kind"))) {
            errors.push(FieldError::invalid(
                PATH,
                owner,
                format!("{kind} is disallowed from being an owner"),
            ));
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(_) if room == 0 => {}
                Some(first) => {
                    let error = FieldError::invalid(
                        PATH,
                        &json!(owners),
                        format!(
                            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                        ),
                    );
                    room = room.saturating_sub(error.value.len());
                    errors.push(error);
                }
                None => controller = Some(this),
            }
        }
    }
}

fn validate_finalizers(new: &Object, resource: &Resource, errors: &mut Vec<FieldError>) {
    for finalizer in new.finalizers() {
        for why in field_names::qualified_name(finalizer) {
            errors.push(FieldError::invalid("metadata.finalizers", &json!(finalizer), why));
        }
    }
    for (i, finalizer) in new.finalizers().enumerate() {
        if !resource.free_finalizers && !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer)
        {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(format!("metadata.finalizers[{i}]"), &json!(finalizer), why));
        }
    }
    let has = |name: &str| new.finalizers().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        let all = json!(new.finalizers().collect::<Vec<_>>());
        errors.push(FieldError::invalid("metadata.finalizers", &all, why));
    }
}

/// What a client wrote into `managedFields`; what cannot be read there at all was replaced before.
fn validate_managers(new: &Object, errors: &mut Vec<FieldError>) {
    for (i, entry) in new.items_at(&crate::patch::apply::MANAGED_FIELDS).iter().enumerate() {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let path = format!("metadata.managedFields[{i}]");
        errors.extend(bad_manager(&format!("{path}.manager"), text("manager")));
        if text("subresource").len() > SUBRESOURCE_BYTES {
            errors.push(FieldError::too_long(format!("{path}.subresource"), SUBRESOURCE_BYTES));
        }
    }
}

/// Everything wrong with the metadata of an update, as often as upstream tells it.
pub fn validate_update(new: &Object, old: &Object, cx: &WriteContext<'_>) -> Vec<FieldError> {
    // A name that is there once was good, and only has to be one.
    let whole = validate_named(new, cx.resource, field_names::path_segment);
    let mut change = validate_change(new, old);
    let again = ["labels", "annotations", "ownerReferences", "managedFields"];
    let is_told_again = |e: &&FieldError| {
        let field = e.field.strip_prefix("metadata.").unwrap_or_default();
        again.iter().any(|part| {
            field.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    change.extend(whole.iter().filter(is_told_again).cloned());
    let mut told = vec![&whole, &change];
    let [of_object, of_status] = cx.resource.metadata_looks;
    let looks = if cx.subresource == "status" { of_status } else { of_object };
    // As at a new object, the kind's own rule for names holds again.
    let rule = || cx.resource.strategy.validate_name(new.name(), new);
    let broken = if looks > 1 { rule() } else { vec![] };
    let name = json!(new.name());
    let named: Vec<FieldError> =
        broken.into_iter().map(|why| FieldError::invalid("metadata.name", &name, why)).collect();
    match looks {
        0 => {}
        1 => told.push(&change),
        _ => told.extend([&named, &whole, &change]),
    }
    told.into_iter().flatten().cloned().collect()
}

/// What a change of metadata may not be.
fn validate_change(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = vec![];
    if old.is_being_deleted() {
        let before: HashSet<&str> = old.finalizers().collect();
        let mut extra: Vec<&str> = new.finalizers().filter(|f| !before.contains(f)).collect();
        extra.sort_unstable();
        if !extra.is_empty() {
            let list = extra.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ");
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
                ),
            ));
        }
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        let (now, before) = (new.at(&["metadata", field]), old.at(&["metadata", field]));
        if now != before {
            let value = match now {
                Some(value) => value.to_string(),
                None => "null".to_owned(),
            };
            errors.push(FieldError {
                field: format!("metadata.{field}"),
                cause: Cause::Invalid,
                value,
                detail: "field is immutable".to_owned(),
            });
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_that_are_named_twice_alike_are_kept_once() {
        let owner = |uid: &str, name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid});
        let of = |owners: &[&Value]| Object(json!({"metadata": {"ownerReferences": owners}}));
        let (a, b, other) = (owner("1", "a"), owner("2", "b"), owner("1", "c"));
        let cases: [(&[&Value], &[&Value], &str); 4] = [
            (&[&a, &b], &[&a, &b], ""),
            (&[&a, &other], &[&a, &other], ""),
            (&[&a, &b, &a], &[&a, &b], "observed: 1"),
            (&[&b, &a, &b, &a, &a], &[&b, &a], "observed: 2, 1, 1"),
        ];
        for (before, after, expected) in cases {
            let mut object = of(before);
            let warning = drop_repeated_owners(&mut object, false).unwrap_or_default();
            assert_eq!(object, of(after));
            assert!(warning.ends_with(expected) && warning.is_empty() == expected.is_empty(), "{warning}");
        }
    }

    #[test]
    fn an_owner_has_a_version_that_can_be_read() {
        for (version, fine) in
            [("v1", true), ("apps/v1", true), ("a/b/c", false), ("apps/", false), ("", false)]
        {
            let mut errors = vec![];
            validate_owners(
                &[json!({"apiVersion": version, "kind": "K", "name": "n", "uid": "u"})],
                &mut errors,
            );
            assert_eq!(errors.is_empty(), fine, "{version}");
        }
    }
}
