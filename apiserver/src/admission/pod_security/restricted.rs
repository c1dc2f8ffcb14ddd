//! The checks that only the restricted level has.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{
    Breach, Subject, added_beyond, breach, forbidden, is_seccomp_profile, named, plural, quoted, setters,
    unmasked_proc,
};

pub(super) fn privilege_escalation(pod: &Subject<'_>, version: u32) -> Option<Breach> {
    if version >= 25 && pod.is_windows() {
        return None;
    }
    let names = pod.bad(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&names));
    breach("allowPrivilegeEscalation != false", detail)
}

pub(super) fn capabilities(pod: &Subject<'_>, version: u32) -> Option<Breach> {
    if version >= 25 && pod.is_windows() {
        return None;
    }
    let keeps = pod.bad(|c| {
        let dropped = c["securityContext"]["capabilities"]["drop"].as_array();
        !dropped.is_some_and(|d| d.iter().any(|capability| capability == "ALL"))
    });
    let mut details = vec![];
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps)));
    }
    details.extend(added_beyond(pod, &["NET_BIND_SERVICE"]));
    if details.is_empty() { None } else { breach("unrestricted capabilities", details.join("; ")) }
}

/// Whatever users the pod runs as.
pub(super) fn proc_mount(pod: &Subject<'_>, _: u32) -> Option<Breach> {
    unmasked_proc(pod)
}

pub(super) fn volumes(pod: &Subject<'_>, _: u32) -> Option<Breach> {
    const ALLOWED: &[&str] = &[
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let (mut names, mut kinds) = (vec![], BTreeSet::new());
    for volume in pod.spec["volumes"].as_array().into_iter().flatten() {
        let sources = volume.as_object().into_iter().flatten();
        let mut sources =
            sources.filter(|(key, v)| *key != "name" && !v.is_null()).map(|(key, _)| key.as_str());
        let kind = sources.next().unwrap_or("unknown");
        if !ALLOWED.contains(&kind) {
            names.push(volume["name"].as_str().unwrap_or_default());
            kinds.insert(kind);
        }
    }
    if names.is_empty() {
        return None;
    }
    let (volumes, uses) = (plural("volume", "volumes", names.len()), plural("uses", "use", names.len()));
    let types = plural("restricted volume type", "restricted volume types", kinds.len());
    breach(
        "restricted volume types",
        format!("{volumes} {} {uses} {types} {}", quoted(&names), quoted(&kinds)),
    )
}

pub(super) fn run_as_non_root(pod: &Subject<'_>, version: u32) -> Option<Breach> {
    const REASON: &str = "runAsNonRoot != true";
    if version >= 35 && pod.has_own_users() {
        return None;
    }
    let whole = &pod.spec["securityContext"]["runAsNonRoot"];
    let of = |c: &Value| c["securityContext"]["runAsNonRoot"].as_bool();
    let explicit = pod.bad(|c| of(c) == Some(false));
    if let Some(who) = setters(*whole == false, &explicit) {
        return breach(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let implicit = pod.bad(|c| of(c).is_none() && *whole != true);
    if implicit.is_empty() {
        return None;
    }
    breach(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&implicit)))
}

pub(super) fn run_as_user(pod: &Subject<'_>, version: u32) -> Option<Breach> {
    if version >= 35 && pod.has_own_users() {
        return None;
    }
    let is_root = |context: &Value| context["runAsUser"] == 0;
    let names = pod.bad(|c| is_root(&c["securityContext"]));
    let who = setters(is_root(&pod.spec["securityContext"]), &names)?;
    breach("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub(super) fn seccomp(pod: &Subject<'_>, version: u32) -> Option<Breach> {
    if version >= 25 && pod.is_windows() {
        return None;
    }
    let (whole, names, values) = forbidden(pod, "/seccompProfile/type", is_seccomp_profile);
    if let Some(who) = setters(whole, &names) {
        let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values));
        return breach("seccompProfile", detail);
    }
    let unset = |context: &Value| context["seccompProfile"].is_null();
    let implicit = pod.bad(|c| unset(&c["securityContext"]) && unset(&pod.spec["securityContext"]));
    if implicit.is_empty() {
        return None;
    }
    let who = named(&implicit);
    breach(
        "seccompProfile",
        format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        ),
    )
}
