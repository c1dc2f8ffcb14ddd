//! ConfigMaps, Secrets and ServiceAccounts: data by key, of which some may never change.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::Object;
use serde_json::{Map, Value, json};

use super::super::columns::{AGE, NAME, NAME_AND_AGE, path, rule, size};
use super::super::validation::Errors;
use super::field;
use crate::field::FieldError;
use crate::field_names::config_map_key;
use crate::resource::{NAMESPACED, Row, Strategy, Subresource, SubresourceHandler, WriteContext};

/// The largest sum of values.
const MAX_BYTES: usize = 1024 * 1024;
const SERVICE_ACCOUNT: &str = "kubernetes.io/service-account.name";

pub(super) const CONFIG_MAP: Row = Row {
    kind: "ConfigMap",
    metadata_looks: [2, 1],
    plural: "configmaps",
    short: &["cm"],
    columns: &[NAME, rule("Data", |o, _| json!(size(o, &["data"]) + size(o, &["binaryData"]))), AGE],
    strategy: &ConfigMaps,
    ..NAMESPACED
};

pub(super) const SECRET: Row = Row {
    kind: "Secret",
    metadata_looks: [2, 1],
    plural: "secrets",
    fields: &[field("type", &["type"])],
    columns: &[NAME, path("Type", &["type"]), rule("Data", |o, _| json!(size(o, &["data"]))), AGE],
    strategy: &Secrets,
    ..NAMESPACED
};

pub(super) const SERVICE_ACCOUNT_ROW: Row = Row {
    kind: "ServiceAccount",
    metadata_looks: [2, 1],
    plural: "serviceaccounts",
    short: &["sa"],
    subresources: &[Subresource {
        name: "token",
        kind: ("authentication.k8s.io", "v1", "TokenRequest"),
        verbs: &["create"],
        handler: SubresourceHandler::Call(&crate::resources::authentication::RequestToken),
    }],
    columns: NAME_AND_AGE,
    returns_deleted: true,
    ..NAMESPACED
};

struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if let Some(old) = old {
            immutable(new, old, &["data", "binaryData"], &mut errors);
        }
        let (data, binary) = (map(new, "data"), map(new, "binaryData"));
        let mut total = 0;
        for (key, value) in data.into_iter().flatten() {
            let at = format!("data[{key}]");
            errors.all_invalid(at.clone(), &**key, config_map_key(key));
            if binary.is_some_and(|b| b.contains_key(key)) {
                errors.invalid(at, &**key, "duplicate of key present in binaryData");
            }
            total += value.as_str().map_or(0, str::len);
        }
        for (key, value) in binary.into_iter().flatten() {
            errors.all_invalid(format!("binaryData[{key}]"), &**key, config_map_key(key));
            total += decoded_len(value);
        }
        if total > MAX_BYTES {
            errors.0.push(FieldError::too_long("[]", MAX_BYTES));
        }
        errors.0
    }
}

struct Secrets;

impl Strategy for Secrets {
    fn default(&self, new: &mut Object) {
        if new.str_at(&["type"]).is_empty() {
            new.set(&["type"], "Opaque");
        }
        let Some(Value::Object(plain)) = new.remove(&["stringData"]) else { return };
        for (key, value) in plain {
            let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
            new.set(&["data", &key], encoded);
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, new: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if let Some(old) = old {
            errors.immutable("type", new.at(&["type"]), old.at(&["type"]));
            immutable(new, old, &["data"], &mut errors);
        }
        let data = map(new, "data");
        let mut total = 0;
        for (key, value) in data.into_iter().flatten() {
            errors.all_invalid(format!("data[{key}]"), &**key, config_map_key(key));
            total += decoded_len(value);
        }
        if total > MAX_BYTES {
            errors.0.push(FieldError::too_long("data", MAX_BYTES));
        }
        of_type(new, data, &mut errors);
        errors.0
    }
}

/// What each well-known type must hold.
fn of_type(secret: &Object, data: Option<&Map<String, Value>>, errors: &mut Errors) {
    let value = |key: &str| data.and_then(|d| d.get(key));
    let require = |keys: &[&str], errors: &mut Errors| {
        for key in keys.iter().filter(|key| value(key).is_none()) {
            errors.required(format!("data[{key}]"), "");
        }
    };
    match secret.str_at(&["type"]) {
        "kubernetes.io/service-account-token" => {
            if secret.annotation(SERVICE_ACCOUNT).unwrap_or_default().is_empty() {
                errors.required(format!("metadata.annotations[{SERVICE_ACCOUNT}]"), "");
            }
        }
        "kubernetes.io/dockercfg" => well_formed(".dockercfg", value(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => {
            well_formed(".dockerconfigjson", value(".dockerconfigjson"), errors);
        }
        "kubernetes.io/basic-auth" => {
            if value("username").is_none() && value("password").is_none() {
                require(&["username", "password"], errors);
            }
        }
        "kubernetes.io/ssh-auth" => {
            if value("ssh-privatekey").is_none_or(|v| v == "") {
                errors.required("data[ssh-privatekey]", "");
            }
        }
        "kubernetes.io/tls" => require(&["tls.crt", "tls.key"], errors),
        _ => {}
    }
}

/// A registry configuration must be JSON; its content is never shown.
fn well_formed(key: &str, value: Option<&Value>, errors: &mut Errors) {
    let at = format!("data[{key}]");
    let Some(value) = value else {
        errors.required(at, "");
        return;
    };
    let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
    if let Err(e) = serde_json::from_slice::<Map<String, Value>>(&bytes) {
        let detail = crate::codec::json_error(&bytes).map_or_else(|| e.to_string(), |e| e.to_string());
        errors.invalid(at, "<secret contents redacted>", detail);
    }
}

fn immutable(new: &Object, old: &Object, fields: &[&str], errors: &mut Errors) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if old.bool_at(&["immutable"]) != Some(true) {
        return;
    }
    if new.bool_at(&["immutable"]) != Some(true) {
        errors.forbidden("immutable", WHY);
    }
    for field in fields.iter().filter(|f| new.at(&[f]) != old.at(&[f])) {
        errors.forbidden(*field, WHY);
    }
}

fn map<'a>(o: &'a Object, key: &str) -> Option<&'a Map<String, Value>> {
    o.at(&[key]).and_then(Value::as_object)
}

/// The length of what base64 text stands for.
fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(2)
}
