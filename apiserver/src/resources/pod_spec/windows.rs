//! What a pod may say of Windows, and what it may not say there.

use serde_json::Value;

use super::super::located::Located;
use super::super::validation::Errors;
use super::validation::items;
use crate::field_names::dns1123_subdomain;

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Bytes of the contents of a credential.
const CREDENTIAL_BYTES: usize = 64 << 10;
const DOMAIN_BYTES: usize = 256;
const USER_BYTES: usize = 104;

/// `windowsOptions` of a pod or a container.
pub(super) fn options(at: &Located<'_>, errors: &mut Errors) {
    let name = at.at("gmsaCredentialSpecName");
    if name.is_set() {
        name.obeys(dns1123_subdomain, errors);
    }
    let credential = at.at("gmsaCredentialSpec");
    if credential.is_set() {
        match credential.text().len() {
            0 => credential.wrong("gmsaCredentialSpec cannot be an empty string", errors),
            n if n > CREDENTIAL_BYTES => {
                credential.wrong("gmsaCredentialSpec size must be under 64 KiB", errors);
            }
            _ => {}
        }
    }
    let user = at.at("runAsUserName");
    if user.is_set() {
        user.breaks(user_name(user.text()), errors);
    }
}

/// What is wrong with `user` or `domain\\user`.
fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".to_owned()];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".to_owned()];
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => {
            return vec!["runAsUserName cannot contain more than one backslash".to_owned()];
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut wrong = vec![];
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_BYTES) {
        wrong.push(format!("runAsUserName's Domain length must be under {DOMAIN_BYTES} characters"));
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns(domain)) {
        wrong.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    match user.len() {
        0 => wrong.push("runAsUserName's User cannot be empty".to_owned()),
        n if n > USER_BYTES => {
            wrong
                .push(format!("runAsUserName's User length must not be longer than {USER_BYTES} characters"));
        }
        _ => {}
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        wrong.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        let why = "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]";
        wrong.push(why.to_owned());
    }
    wrong
}

/// Fifteen characters that mean nothing else; the first is no dot.
fn is_net_bios(domain: &str) -> bool {
    let good = |c: char| !"\\/:*?\"<>|".contains(c);
    (1..=15).contains(&domain.chars().count()) && domain.chars().all(good) && !domain.starts_with('.')
}

/// Words of letters and digits with dashes inside, in any case, joined by dots.
fn is_dns(domain: &str) -> bool {
    dns1123_subdomain(&domain.to_ascii_lowercase()).is_empty()
}

/// Processes of the host are for pods that are all of such, on the host's network.
pub(super) fn host_processes(at: &str, spec: &Value, errors: &mut Errors) {
    let of = |context: &Value| context["windowsOptions"]["hostProcess"].as_bool();
    let of_pod = of(&spec["securityContext"]);
    let (mut all, mut host) = (0, 0);
    for list in CONTAINER_LISTS {
        for (i, container) in items(spec, list).enumerate() {
            let own = of(&container["securityContext"]);
            all += 1;
            host += usize::from(own.or(of_pod) == Some(true));
            if let (Some(pod), Some(own)) = (of_pod, own)
                && pod != own
            {
                let at = format!("{at}.{list}[{i}].securityContext.windowsOptions.hostProcess");
                let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
                errors.invalid(at, own, why);
            }
        }
    }
    if host == 0 {
        return;
    }
    if host != all {
        let why =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(at, "", why);
    }
    if spec["hostNetwork"] != true {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(format!("{at}.hostNetwork"), false, why);
    }
}

/// What a pod that says it is for Linux has nothing to say of.
pub(super) fn none_on_linux(at: &str, spec: &Value, errors: &mut Errors) {
    const WHY: &str = "windows options cannot be set for a linux pod";
    forbidden(at, spec, &[], &["windowsOptions"], &["windowsOptions"], WHY, errors);
}

/// What a pod that says it is for Windows has nothing to say of.
pub(super) fn only_windows(at: &str, spec: &Value, errors: &mut Errors) {
    const WHY: &str = "cannot be set for a windows pod";
    const BEFORE: [&str; 2] = ["appArmorProfile", "seLinuxOptions"];
    const HOST: [&str; 3] = ["hostUsers", "hostPID", "hostIPC"];
    const POD: [&str; 4] = ["seccompProfile", "fsGroup", "fsGroupChangePolicy", "sysctls"];
    const AFTER: [&str; 5] =
        ["runAsUser", "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy"];
    const CONTAINER: [&str; 10] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    forbidden(at, spec, &[], &BEFORE, &[], WHY, errors);
    forbidden(at, spec, &HOST, &POD, &[], WHY, errors);
    forbidden(at, spec, &["shareProcessNamespace"], &AFTER, &CONTAINER, WHY, errors);
}

/// Fields of a pod, of its security context and of those of its containers that are not to be there.
fn forbidden(
    at: &str,
    spec: &Value,
    pod: &[&str],
    context: &[&str],
    containers: &[&str],
    why: &str,
    errors: &mut Errors,
) {
    // What is said to be off on a host counts as not said, for those that upstream's type has no third word for.
    let set = |of: &Value, field: &str| match &of[field] {
        Value::Null => false,
        Value::Bool(on) => *on || !matches!(field, "hostPID" | "hostIPC"),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    for field in pod.iter().filter(|field| set(spec, field)) {
        errors.forbidden(format!("{at}.{field}"), why);
    }
    for field in context.iter().filter(|field| set(&spec["securityContext"], field)) {
        errors.forbidden(format!("{at}.securityContext.{field}"), why);
    }
    for list in CONTAINER_LISTS {
        for (i, container) in items(spec, list).enumerate() {
            for field in containers.iter().filter(|field| set(&container["securityContext"], field)) {
                errors.forbidden(format!("{at}.{list}[{i}].securityContext.{field}"), why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers are upstream's.
    #[test]
    fn users_have_names_that_windows_knows() {
        for (name, wanted) in [
            ("ContainerUser", ""),
            ("DOM\\u", ""),
            ("a.example.com\\u", ""),
            ("", "cannot be an empty string"),
            ("\t", "cannot contain control characters"),
            ("a\\b\\c", "more than one backslash"),
            ("..\\u", "doesn't match the NetBios nor the DNS format"),
            ("DOM\\", "User cannot be empty"),
            ("a/b", "the following characters: \"/\\:;|=,+*?<>@[]"),
            (". .", "only periods or spaces"),
            (&"x".repeat(105), "must not be longer than 104 characters"),
        ] {
            let told = user_name(name).join("; ");
            assert_eq!(told.is_empty(), wanted.is_empty(), "{name:?}: {told}");
            assert!(told.contains(wanted), "{name:?}: {told}");
        }
    }
}
