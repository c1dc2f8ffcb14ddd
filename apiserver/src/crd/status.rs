//! What a definition's status says: which names it has, and whether it is served. Pure: from a definition and the names
//! that others have to its conditions.

use std::collections::HashSet;

use coracle_api::{Object, conditions};
use serde_json::{Map, Value, json};

const APPROVAL: &str = "api-approved.kubernetes.io";

/// The names that other definitions of the same group have.
#[derive(Debug, Default)]
pub(super) struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

// === impl Taken ===

impl Taken {
    /// Adds the accepted names of a definition.
    pub(super) fn add(&mut self, accepted: &Value) {
        let text = |key: &str| accepted[key].as_str().unwrap_or_default().to_owned();
        let short = accepted["shortNames"].as_array().into_iter().flatten();
        self.resources.extend(short.filter_map(Value::as_str).map(str::to_owned));
        self.resources.extend([text("plural"), text("singular")]);
        self.kinds.extend([text("kind"), text("listKind")]);
        self.resources.remove("");
        self.kinds.remove("");
    }
}

/// Brings the status of a definition up to date.
pub(super) fn settle(crd: &mut Object, taken: &Taken, now: &str) {
    let (accepted, conflict) = names(crd, taken);
    crd.set(&["status", "acceptedNames"], accepted);
    let accepted = conflict.is_none();
    let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
    set(crd, "NamesAccepted", accepted, reason, &message, now);
    let established = conditions::is_true(crd.items_at(&["status", "conditions"]), "Established");
    if accepted && !established {
        set(crd, "Established", true, "InitialNamesAccepted", "the initial names have been accepted", now);
    } else if !established {
        set(crd, "Established", false, "NotAccepted", "not all names are accepted", now);
    }
    if let Some((well, reason, message)) = approval(crd) {
        set(crd, "KubernetesAPIApprovalPolicyConformant", well, reason, &message, now);
    }
}

/// Sets one condition; its transition time stays unless its status changes.
pub(super) fn set(crd: &mut Object, kind: &str, on: bool, reason: &str, message: &str, now: &str) {
    let list = crd.entry(&["status", "conditions"]);
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        let status = if on { "True" } else { "False" };
        conditions::set(
            list,
            json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message}),
        );
    }
}

/// The names that are accepted, each for itself, and the last conflict.
fn names(crd: &Object, taken: &Taken) -> (Value, Option<(&'static str, String)>) {
    let nothing = json!({});
    let asked = crd.at(&["spec", "names"]).unwrap_or(&nothing);
    let had = crd.at(&["status", "acceptedNames"]).unwrap_or(&nothing);
    let mut names: Map<String, Value> = had.as_object().cloned().unwrap_or_default();
    let mut conflict = None;
    let text = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    let in_use = |name: &str| format!("{name:?} is already in use");
    let mut one = |key: &str, taken: &HashSet<String>, reason: &'static str| {
        let name = text(asked, key);
        if name != text(had, key) && taken.contains(&name) {
            conflict = Some((reason, in_use(&name)));
        } else {
            names.insert(key.to_owned(), name.into());
        }
    };
    one("plural", &taken.resources, "PluralConflict");
    one("singular", &taken.resources, "SingularConflict");
    let list = |of: &Value| -> Vec<String> {
        let names = of["shortNames"].as_array().into_iter().flatten();
        names.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (wanted, ours) = (list(asked), list(had));
    let refused: Vec<String> = wanted
        .iter()
        .filter(|n| !ours.contains(n) && taken.resources.contains(*n))
        .map(|n| in_use(n))
        .collect();
    let short = match refused.as_slice() {
        [] => Some(wanted),
        _ => None,
    };
    one("kind", &taken.kinds, "KindConflict");
    one("listKind", &taken.kinds, "ListKindConflict");
    if conflict.is_none() && !refused.is_empty() {
        let all = refused.join(", ");
        let message = if refused.len() == 1 { all } else { format!("[{all}]") };
        conflict = Some(("ShortNamesConflict", message));
    }
    if let Some(short) = short {
        put(&mut names, "shortNames", json!(short));
    }
    put(&mut names, "categories", asked["categories"].clone());
    (Value::Object(names), conflict)
}

/// Lists that are empty are left out.
fn put(names: &mut Map<String, Value>, key: &str, list: Value) {
    match list.as_array().is_some_and(|l| !l.is_empty()) {
        true => drop(names.insert(key.to_owned(), list)),
        false => drop(names.remove(key)),
    }
}

/// Whether a definition in a group of the Kubernetes community says who approved it. Others need not.
fn approval(crd: &Object) -> Option<(bool, &'static str, String)> {
    if !is_protected(crd.str_at(&["spec", "group"])) {
        return None;
    }
    let found = crd.annotation(APPROVAL).unwrap_or_default();
    Some(match approve(found) {
        Approval::Missing => (false, "MissingAnnotation", missing()),
        Approval::Bypassed => (false, "UnapprovedAnnotation", format!("not approved: {found:?}")),
        Approval::Approved => (true, "ApprovedAnnotation", format!("approved in {found}")),
        Approval::Invalid => (false, "InvalidAnnotation", invalid()),
    })
}

/// What the approval annotation of a definition amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

pub(crate) fn approve(annotation: &str) -> Approval {
    match annotation {
        "" => Approval::Missing,
        bypass if bypass.starts_with("unapproved") => Approval::Bypassed,
        url if url.parse::<http::Uri>().is_ok_and(|u| u.host().is_some() && u.scheme().is_some()) => {
            Approval::Approved
        }
        _ => Approval::Invalid,
    }
}

pub(crate) fn missing() -> String {
    format!(
        "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
    )
}

pub(crate) fn invalid() -> String {
    format!(
        "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
    )
}

pub(crate) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|g| group == *g || group.ends_with(&format!(".{g}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd() -> Object {
        Object(json!({"spec": {"group": "a.io", "names": {"plural": "foos", "singular": "foo", "kind": "Foo",
            "listKind": "FooList", "shortNames": ["fo"]}}}))
    }

    fn condition(crd: &Object, kind: &str) -> (String, String, String) {
        let found =
            conditions::find(crd.items_at(&["status", "conditions"]), kind).cloned().unwrap_or_default();
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    #[test]
    fn free_names_are_accepted_and_taken_ones_are_not() {
        let now = "2026-11-21T12:00:00Z";
        let mut free = crd();
        settle(&mut free, &Taken::default(), now);
        assert_eq!(free.at(&["status", "acceptedNames"]), free.at(&["spec", "names"]));
        assert_eq!(condition(&free, "NamesAccepted").1, "NoConflicts");
        assert_eq!(condition(&free, "Established").0, "True");
        for (theirs, reason, name) in [
            (json!({"plural": "foos"}), "PluralConflict", "foos"),
            (json!({"shortNames": ["fo"]}), "ShortNamesConflict", "fo"),
            (json!({"kind": "FooList"}), "ListKindConflict", "FooList"),
        ] {
            let mut taken = Taken::default();
            taken.add(&theirs);
            let mut late = crd();
            settle(&mut late, &taken, now);
            let wanted = ("False".into(), reason.into(), format!("{name:?} is already in use"));
            assert_eq!(condition(&late, "NamesAccepted"), wanted);
            assert_eq!(condition(&late, "Established").1, "NotAccepted");
        }
    }
}
