//! What volumes are made of, in pods and in persistent volumes: the rules of each source that both know.

use super::located::Located;
use super::validation::Errors;
use crate::field::FieldError;
use crate::field_names::{dns1123_label, dns1123_subdomain};

type Rule = fn(&Located<'_>, &mut Errors);

/// Sources that are alike in pods and persistent volumes.
pub(super) const SHARED: &[(&str, Rule)] = &[
    ("gcePersistentDisk", |s, e| disk(s, "pdName", e)),
    ("awsElasticBlockStore", |s, e| disk(s, "volumeID", e)),
    ("flocker", flocker),
    ("nfs", nfs),
    ("quobyte", quobyte),
    ("fc", fibre_channel),
    ("vsphereVolume", |s, e| need(s, &["volumePath"], e)),
    ("photonPersistentDisk", |s, e| need(s, &["pdID"], e)),
    ("portworxVolume", |s, e| need(s, &["volumeID"], e)),
    ("azureDisk", azure_disk),
    ("hostPath", host_path),
];

/// The rule of a source that pods and volumes have alike.
pub(super) fn shared(kind: &str) -> Option<Rule> {
    SHARED.iter().find(|(name, _)| *name == kind).map(|(_, rule)| *rule)
}

/// Texts that may not be empty.
pub(super) fn need(at: &Located<'_>, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        at.at(field).required(errors);
    }
}

/// A list that may not be empty.
pub(super) fn need_some(at: &Located<'_>, field: &str, errors: &mut Errors) {
    let list = at.at(field);
    if list.is_empty() {
        list.missing("", errors);
    }
}

fn disk(at: &Located<'_>, id: &str, errors: &mut Errors) {
    need(at, &[id], errors);
    let partition = at.at("partition");
    if partition.number().is_some_and(|n| !(0..=255).contains(&n)) {
        // Upstream takes zero all the same.
        partition.wrong("must be between 1 and 255, inclusive", errors);
    }
}

fn flocker(at: &Located<'_>, errors: &mut Errors) {
    let (name, id) = (at.at("datasetName"), at.at("datasetUUID"));
    match (name.text().is_empty(), id.text().is_empty()) {
        (true, true) => at.missing("one of datasetName and datasetUUID is required", errors),
        (false, false) => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            errors.invalid(at.path(), "resource", why);
        }
        _ => {}
    }
    if name.text().contains('/') {
        name.wrong("must not contain '/'", errors);
    }
}

fn nfs(at: &Located<'_>, errors: &mut Errors) {
    need(at, &["server", "path"], errors);
    if !at.at("path").text().starts_with('/') {
        errors.invalid(at.at("path").path(), at.at("path").text(), "must be an absolute path");
    }
}

fn quobyte(at: &Located<'_>, errors: &mut Errors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, tenant) = (at.at("registry"), at.at("tenant"));
    if registry.text().is_empty() {
        registry.missing(PAIRS, errors);
    } else if tenant.text().len() >= 65 {
        tenant.missing("must be a UUID and may not exceed a length of 64 characters", errors);
    } else {
        for _ in registry.text().split(',').filter(|pair| !is_host_and_port(pair)) {
            registry.wrong(PAIRS, errors);
        }
    }
    need(at, &["volume"], errors);
}

/// As Go's `net.SplitHostPort` takes it.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) => !inner.contains(['[', ']']) && !port.contains(['[', ']']),
        None => !host.contains([':', '[', ']']) && !port.contains(['[', ']']),
    }
}

fn fibre_channel(at: &Located<'_>, errors: &mut Errors) {
    let (names, ids, lun) = (at.at("targetWWNs"), at.at("wwids"), at.at("lun"));
    match (names.is_empty(), ids.is_empty()) {
        (true, true) => names.missing("must specify either targetWWNs or wwids, but not both", errors),
        (false, false) => {
            names.wrong("targetWWNs and wwids can not be specified simultaneously", errors);
        }
        _ => {}
    }
    if !names.is_empty() {
        match lun.number() {
            None => lun.missing("lun is required if targetWWNs is specified", errors),
            Some(0..=255) => {}
            Some(_) => lun.wrong("must be between 0 and 255, inclusive", errors),
        }
    }
}

fn azure_disk(at: &Located<'_>, errors: &mut Errors) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    need(at, &["diskName", "diskURI"], errors);
    at.at("cachingMode").one_of(&["None", "ReadOnly", "ReadWrite"], errors);
    at.at("kind").one_of(&["Dedicated", "Managed", "Shared"], errors);
    let (kind, uri) = (at.at("kind"), at.at("diskURI"));
    let (begins, form) = match kind.text() {
        "Managed" => ("/subscriptions/", MANAGED),
        _ => ("https://", BLOB),
    };
    if kind.is_set() && !uri.text().starts_with(begins) {
        errors.unsupported_text(uri.path(), format!("{:?}", uri.text()), &[form]);
    }
}

pub(super) fn host_path(at: &Located<'_>, errors: &mut Errors) {
    const KINDS: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if at.at("path").required(errors) {
        no_steps_back(&at.at("path"), errors);
        at.at("type").one_of(&KINDS, errors);
    }
}

pub(super) fn no_steps_back(path: &Located<'_>, errors: &mut Errors) {
    if path.text().split('/').any(|part| part == "..") {
        path.wrong("must not contain '..'", errors);
    }
}

/// A target of iSCSI, and who asks for it; `volume` is the name of the persistent volume, if it is one.
pub(super) fn iscsi(at: &Located<'_>, volume: Option<&str>, errors: &mut Errors) {
    let (portal, target, initiator) = (at.at("targetPortal"), at.at("iqn"), at.at("initiatorName"));
    portal.required(errors);
    let long = |name: &str| name.len() + 1 + portal.text().len() > 64;
    if initiator.is_set() && volume.is_some_and(long) {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.invalid(format!("{}.targetportal", at.path()), portal.text(), why);
    }
    let known = |name: &str| ["iqn", "eui", "naa"].iter().any(|kind| name.starts_with(kind));
    let why = |name: &str| match volume {
        None if !known(name) => "must be valid format starting with iqn, eui, or naa",
        _ => "must be valid format",
    };
    if target.required(errors) && !is_iscsi_name(target.text()) {
        target.wrong(why(target.text()), errors);
    }
    let lun = at.at("lun");
    if lun.number().is_some_and(|n| !(0..=255).contains(&n)) {
        lun.wrong("must be between 0 and 255, inclusive", errors);
    }
    let secret = at.at("secretRef");
    if !secret.is_set() && (at.at("chapAuthDiscovery").is_true() || at.at("chapAuthSession").is_true()) {
        secret.missing("", errors);
    }
    if secret.is_set() && volume.is_some() {
        need(&secret, &["name"], errors);
    }
    if initiator.is_set() && !is_iscsi_name(initiator.text()) {
        let path = format!("{}.initiatorname", at.path());
        errors.invalid(path, initiator.text(), why(initiator.text()));
    }
}

fn is_iscsi_name(name: &str) -> bool {
    let hex = |text: &str, sizes: &[usize]| {
        sizes.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:_".contains(&b))
    };
    if let Some(rest) = name.strip_prefix("iqn.") {
        // iqn.YYYY-MM.reversed.domain[:name]
        let bytes = rest.as_bytes();
        let digits = |range: std::ops::Range<usize>| {
            bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit))
        };
        let domain = rest.get(8..).unwrap_or_default();
        let (host, own) = domain.split_once(':').map_or((domain, None), |(host, own)| (host, Some(own)));
        let labels = host
            .split('.')
            .all(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        return digits(0..4)
            && bytes.get(4) == Some(&b'-')
            && digits(5..7)
            && bytes.get(7) == Some(&b'.')
            && labels
            && own.is_none_or(|own| own.split(':').all(word));
    }
    name.strip_prefix("eui.").is_some_and(|id| hex(id, &[16]))
        || name.strip_prefix("naa.").is_some_and(|id| hex(id, &[16, 32]))
}

/// A name of a storage driver.
pub(super) fn csi_driver_name(at: &Located<'_>, errors: &mut Errors) {
    if at.required(errors) {
        if at.text().len() > 63 {
            errors.0.push(FieldError::too_long(at.path(), 63));
        }
        at.breaks(dns1123_subdomain(&at.text().to_lowercase()), errors);
    }
}

/// Options of flexible volumes: what is Kubernetes' own is not a user's to set.
pub(super) fn flex_options(at: &Located<'_>, errors: &mut Errors) {
    need(at, &["driver"], errors);
    for (key, option) in at.at("options").entries() {
        let domain = key.split_once('/').map_or(key, |(domain, _)| domain).to_lowercase();
        let dotted = format!(".{domain}");
        if dotted.ends_with(".kubernetes.io") || dotted.ends_with(".k8s.io") {
            errors.invalid(option.path(), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

/// Where a storage driver finds a secret.
pub(super) fn secret_reference(at: &Located<'_>, errors: &mut Errors) {
    if at.is_set() {
        at.at("name").required_as(dns1123_subdomain, errors);
        at.at("namespace").required_as(dns1123_label, errors);
    }
}
