//! What is wrong with where a container has its volumes: as files below a path, or as block devices.

use std::collections::HashSet;

use serde_json::Value;

use super::super::located::Located;
use super::super::validation::Errors;
use super::containers::relative_path;
use super::validation::items;
use super::volumes::VolumeNames;

/// Mounts, then devices; `volumes` are those of the pod that are in order.
pub(super) fn mounts(at: &str, container: &Value, spec: &Value, volumes: &VolumeNames, errors: &mut Errors) {
    let at = Located::placed(at, container);
    let (mounts, devices) = (at.at("volumeMounts"), at.at("volumeDevices"));
    let mut paths = HashSet::new();
    for mount in mounts.each() {
        let [name, path] = ["name", "mountPath"].map(|field| mount.at(field));
        found(&name, volumes, errors);
        path.required(errors);
        if !paths.insert(path.text()) {
            path.wrong("must be unique", errors);
        }
        if devices.each().any(|device| device.at("name").text() == name.text()) {
            name.wrong("must not already exist in volumeDevices", errors);
        }
        if devices.each().any(|device| device.at("devicePath").text() == path.text()) {
            path.wrong("must not already exist as a path in volumeDevices", errors);
        }
        // Upstream names the list, not the element, from here on.
        let within = |field: &str| mount.at(field).called(&format!("{}.{field}", mounts.path()));
        let [sub, expression] = ["subPath", "subPathExpr"].map(within);
        relative_path(sub.path(), sub.text(), errors);
        if !sub.text().is_empty() && !expression.text().is_empty() {
            mount.at("subPathExpr").wrong("subPathExpr and subPath are mutually exclusive", errors);
        }
        relative_path(expression.path(), expression.text(), errors);
        propagation(&mount, within, container, errors);
    }
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for device in devices.each() {
        let [name, path] = ["name", "devicePath"].map(|field| device.at(field));
        if name.text().is_empty() {
            name.missing("", errors);
        }
        if names.contains(name.text()) {
            name.wrong("must be unique", errors);
        }
        if !volumes.contains(name.text()) {
            errors.not_found(name.path(), name.text());
        } else if !is_claimed(spec, name.text()) {
            let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            name.wrong(why, errors);
        }
        path.required(errors);
        if paths.contains(path.text()) {
            path.wrong("must be unique", errors);
        }
        if path.text().split('/').any(|part| part == "..") {
            path.wrong("can not contain backsteps ('..')", errors);
        } else {
            paths.insert(path.text());
        }
        if mounts.each().any(|mount| mount.at("name").text() == name.text()) {
            name.wrong("must not already exist in volumeMounts", errors);
        }
        if mounts.each().any(|mount| mount.at("mountPath").text() == path.text()) {
            path.wrong("must not already exist as a path in volumeMounts", errors);
        }
        if !name.text().is_empty() {
            names.insert(name.text());
        }
    }
}

fn found(name: &Located<'_>, volumes: &VolumeNames, errors: &mut Errors) {
    name.required(errors);
    if !volumes.contains(name.text()) {
        errors.not_found(name.path(), name.text());
    }
}

/// Whether a volume of the pod comes from a claim, which alone can be a device.
fn is_claimed(spec: &Value, name: &str) -> bool {
    let of_claim = |v: &Value| v["persistentVolumeClaim"].is_object() || v["ephemeral"].is_object();
    items(spec, "volumes").any(|v| v["name"] == name && of_claim(v))
}

fn propagation<'a>(
    mount: &Located<'a>,
    within: impl Fn(&str) -> Located<'a>,
    container: &Value,
    errors: &mut Errors,
) {
    let [mode, read_only] = ["mountPropagation", "recursiveReadOnly"].map(within);
    mode.one_of(&["Bidirectional", "HostToContainer", "None"], errors);
    if mode.text() == "Bidirectional" && container["securityContext"]["privileged"] != true {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        mode.forbidden(why, errors);
    }
    read_only.one_of(&["Disabled", "Enabled", "IfPossible"], errors);
    if matches!(read_only.text(), "Enabled" | "IfPossible") {
        if !mount.at("readOnly").is_true() {
            read_only.forbidden("may only be specified when readOnly is true", errors);
        }
        if mode.is_set() && mode.text() != "None" {
            let why = "may only be specified when mountPropagation is None or not specified";
            read_only.forbidden(why, errors);
        }
    }
}
