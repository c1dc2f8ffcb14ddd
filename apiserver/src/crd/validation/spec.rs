//! Names, versions, columns, subresources and conversion of a definition.

use std::collections::HashSet;

use coracle_api::Object;
use serde_json::Value;

use super::{invalid, invalid_text, openapi, text, unsupported};
use crate::field::{Cause, FieldError};
use crate::field_names::{dns1035_label, dns1123_subdomain};
use crate::resources::wrong_webhook_client;
use crate::schema::structural::Structural;

const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// How many fields of a version selectors may name.
const MAX_SELECTABLE: usize = 8;

/// A definition's spec; `old` is the definition before.
pub(super) fn validate(crd: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let nothing = Value::Null;
    let spec = crd.at(&["spec"]).unwrap_or(&nothing);
    let before = old.map(|old| old.items_at(&["spec", "versions"])).unwrap_or_default();
    match text(spec, "group") {
        "" => errors.push(FieldError::required("spec.group", "")),
        group => match dns1123_subdomain(group) {
            wrong if !wrong.is_empty() => errors.push(invalid("spec.group", group, wrong.join(","))),
            _ if !group.contains('.') => {
                errors.push(invalid("spec.group", group, "should be a domain with at least one dot"));
            }
            _ => {}
        },
    }
    match text(spec, "scope") {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(unsupported("spec.scope", other, &["Cluster", "Namespaced"])),
    }
    versions(spec, before, errors);
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"], key).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{key}"), ""));
        }
    }
    names("spec.names", &spec["names"], errors);
    shared(spec, before, errors);
    conversion(spec, errors);
}

fn versions(spec: &Value, before: &[Value], errors: &mut Vec<FieldError>) {
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (i, version) in versions.iter().enumerate() {
        if !version["schema"]["openAPIV3Schema"].is_object() {
            errors.push(FieldError::required(format!("spec.versions[{i}].schema.openAPIV3Schema"), ""));
        }
    }
    for (i, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        let wrong = dns1035_label(text(version, "name"));
        if !wrong.is_empty() {
            errors.push(invalid(format!("{at}.name"), text(version, "name"), wrong.join(",")));
        }
        deprecation(&at, version, errors);
        let parts_at = |key: &str| (!is_shared(versions, key)).then(|| at.clone());
        parts(parts_at, version, before, has_status(version), errors);
    }
    let mut seen: Vec<&Value> = vec![];
    let shown = || if spec["versions"].is_null() { "null".to_owned() } else { upstream_versions(versions) };
    if versions.iter().any(|v| {
        seen.contains(&&v["name"]) || {
            seen.push(&v["name"]);
            false
        }
    }) {
        errors.push(invalid_text("spec.versions", shown(), "must contain unique version names"));
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(invalid_text("spec.versions", shown(), why));
    }
    // Upstream's own type names the first once more.
    if let Some(first) = versions.first().map(|v| text(v, "name")).filter(|name| !name.is_empty()) {
        let wrong = dns1035_label(first);
        if !wrong.is_empty() {
            errors.push(invalid("spec.version", first, wrong.join(",")));
        }
    }
}

/// Upstream shows its internal type, whose names are in capitals.
fn upstream_versions(versions: &[Value]) -> String {
    let own = |v: &Value, key: &str| if is_shared(versions, key) { Value::Null } else { v[key].clone() };
    let one = |v: &Value| {
        let flag = |key: &str| v[key] == true;
        let warning = v.get("deprecationWarning").filter(|w| !w.is_null());
        format!(
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{},\"Subresources\":{},\"AdditionalPrinterColumns\":{},\"SelectableFields\":{}}}",
            v["name"],
            flag("served"),
            flag("storage"),
            flag("deprecated"),
            warning.unwrap_or(&Value::Null),
            own(v, "schema"),
            own(v, "subresources"),
            own(v, "additionalPrinterColumns"),
            own(v, "selectableFields"),
        )
    };
    format!("[{}]", versions.iter().map(one).collect::<Vec<_>>().join(","))
}

/// Whether all versions say the same: upstream looks at that once, under the name of its internal type.
fn is_shared(versions: &[Value], key: &str) -> bool {
    versions.windows(2).all(|two| two[0][key] == two[1][key])
}

fn has_status(version: &Value) -> bool {
    version["subresources"]["status"].is_object()
}

/// What the versions have in common.
fn shared(spec: &Value, before: &[Value], errors: &mut Vec<FieldError>) {
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(first) = versions.first() else { return };
    let status = versions.iter().any(has_status);
    parts(|key| is_shared(versions, key).then(|| "spec".to_owned()), first, before, status, errors);
}

/// The parts of a version that are to be looked at, as far as `at` says under which path.
fn parts(
    at: impl Fn(&str) -> Option<String>,
    version: &Value,
    before: &[Value],
    status: bool,
    errors: &mut Vec<FieldError>,
) {
    let schema = &version["schema"]["openAPIV3Schema"];
    if let Some(at) = at("schema").filter(|_| schema.is_object()) {
        let name = if at == "spec" { "validation" } else { "schema" };
        let known =
            before.iter().any(|old| old["name"] == version["name"] && old["schema"] == version["schema"]);
        openapi::validate(&format!("{at}.{name}.openAPIV3Schema"), schema, status, known, errors);
    }
    if let Some(at) = at("subresources") {
        subresources(&format!("{at}.subresources"), &version["subresources"], errors);
    }
    if let Some(at) = at("additionalPrinterColumns") {
        let columns = version["additionalPrinterColumns"].as_array();
        for (i, column) in columns.into_iter().flatten().enumerate() {
            self::column(&format!("{at}.additionalPrinterColumns[{i}]"), column, errors);
        }
    }
    if let Some(at) = at("selectableFields") {
        let at = format!("{at}.selectableFields");
        let fields = version["selectableFields"].as_array().map(Vec::as_slice).unwrap_or_default();
        if version["schema"].is_object() {
            selectable(&at, fields, &Structural::parse(schema), errors);
        } else if !fields.is_empty() {
            errors.push(invalid(at, "", "may only be set when validations.schema is included"));
        }
    }
}

fn deprecation(at: &str, version: &Value, errors: &mut Vec<FieldError>) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let mut wrong = |why: String| errors.push(invalid(format!("{at}.deprecationWarning"), warning, why));
    if version["deprecated"] != true {
        return wrong("can only be set for deprecated versions".into());
    }
    if warning.len() > 256 {
        wrong("must be <= 256 characters long".into());
    }
    if warning.is_empty() {
        wrong("must not be an empty string".into());
    }
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        ));
    }
}

fn subresources(at: &str, subresources: &Value, errors: &mut Vec<FieldError>) {
    let scale = &subresources["scale"];
    if !scale.is_object() {
        return;
    }
    for (key, prefix) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (at, path) = (format!("{at}.scale.{key}"), text(scale, key));
        match path {
            "" => errors.push(FieldError::required(at, "")),
            path if !path.starts_with('.') => errors.push(simple(at, path)),
            path if !path.starts_with(prefix) => {
                let why = format!("should be a json path under {}", prefix.trim_end_matches('.'));
                errors.push(invalid(at, path, why));
            }
            _ => {}
        }
    }
    let (at, path) = (format!("{at}.scale.labelSelectorPath"), text(scale, "labelSelectorPath"));
    match path {
        "" => {}
        path if !path.starts_with('.') => errors.push(simple(at, path)),
        path if !path.starts_with(".spec.") && !path.starts_with(".status.") => {
            errors.push(invalid(at, path, "should be a json path under either .spec or .status"));
        }
        _ => {}
    }
}

fn simple(at: String, path: &str) -> FieldError {
    invalid(at, path, "must be a simple json path starting with .")
}

fn column(at: &str, column: &Value, errors: &mut Vec<FieldError>) {
    if text(column, "name").is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    let why = format!("must be one of {}", COLUMN_TYPES.join(","));
    match text(column, "type") {
        "" => errors.push(FieldError::required(format!("{at}.type"), why)),
        kind if !COLUMN_TYPES.contains(&kind) => errors.push(invalid(format!("{at}.type"), kind, why)),
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let why = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.push(invalid(format!("{at}.format"), format, why));
    }
    match text(column, "jsonPath") {
        "" => errors.push(FieldError::required(format!("{at}.JSONPath"), "")),
        path if !path.starts_with('.') => errors.push(simple(format!("{at}.JSONPath"), path)),
        _ => {}
    }
}

fn selectable(at: &str, fields: &[Value], schema: &Structural, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (i, field) in fields.iter().enumerate() {
        let (at, path) = (format!("{at}[{i}].jsonPath"), text(field, "jsonPath"));
        if path.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        let names = path.strip_prefix('.').map(|p| p.split('.').collect::<Vec<_>>());
        let found = names.as_ref().and_then(|names| names.iter().try_fold(schema, |s, name| s.field(name)));
        let Some(found) = found else {
            let why = match path.starts_with(['.', '[']) {
                true => "does not refer to a valid field".to_owned(),
                false => format!("expected [ or . but got: {path}"),
            };
            errors.push(invalid(at, path, format!("is an invalid path: {why}")));
            continue;
        };
        if names.is_some_and(|n| n.first() == Some(&"metadata")) {
            errors.push(invalid(&*at, path, "must not point to fields in metadata"));
        }
        if !matches!(&*found.kind, "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(invalid(&*at, path, why));
        }
        if !seen.insert(path) {
            errors.push(FieldError::duplicate(at, &path.into()));
        }
    }
    if seen.len() > MAX_SELECTABLE {
        let detail = format!("must have at most {MAX_SELECTABLE} items");
        errors.push(FieldError {
            field: at.into(),
            cause: Cause::TooMany,
            value: seen.len().to_string(),
            detail,
        });
    }
}

/// The names of a definition, or those that its status says it has.
pub(super) fn names(at: &str, names: &Value, errors: &mut Vec<FieldError>) {
    for key in ["plural", "singular"] {
        label(&format!("{at}.{key}"), text(names, key), errors);
    }
    for key in ["kind", "listKind"] {
        let name = text(names, key);
        let wrong = dns1035_label(&name.to_lowercase());
        if !name.is_empty() && !wrong.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(invalid(format!("{at}.{key}"), name, why));
        }
    }
    let each = |key: &str, errors: &mut Vec<FieldError>| {
        for (i, name) in names[key].as_array().into_iter().flatten().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let wrong = dns1035_label(name);
            if !wrong.is_empty() {
                errors.push(invalid(format!("{at}.{key}[{i}]"), name, wrong.join(",")));
            }
        }
    };
    each("shortNames", errors);
    let (kind, list_kind) = (text(names, "kind"), text(names, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        errors.push(invalid(format!("{at}.listKind"), list_kind, "kind and listKind may not be the same"));
    }
    each("categories", errors);
}

fn label(at: &str, name: &str, errors: &mut Vec<FieldError>) {
    let wrong = dns1035_label(name);
    if !name.is_empty() && !wrong.is_empty() {
        errors.push(invalid(at, name, wrong.join(",")));
    }
}

/// Upstream names the fields as its internal type does.
fn conversion(spec: &Value, errors: &mut Vec<FieldError>) {
    const AT: &str = "spec.conversion";
    let conversion = &spec["conversion"];
    let webhook = &conversion["webhook"];
    match text(conversion, "strategy") {
        "" => errors.push(FieldError::required(format!("{AT}.strategy"), "")),
        "None" | "Webhook" => {}
        other => errors.push(unsupported(format!("{AT}.strategy"), other, &["None", "Webhook"])),
    }
    let reviews = webhook["conversionReviewVersions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let client = &webhook["clientConfig"];
    let at = format!("{AT}.webhookClientConfig");
    if text(conversion, "strategy") != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if client.is_object() {
            errors.push(FieldError::forbidden(at, why));
        }
        if !reviews.is_empty() {
            errors.push(FieldError::forbidden(format!("{AT}.conversionReviewVersions"), why));
        }
        return;
    }
    match client.is_object() {
        false => errors.push(FieldError::required(at, "required when strategy is set to Webhook")),
        true => errors.extend(wrong_webhook_client(&at, client)),
    }
    review_versions(&format!("{AT}.conversionReviewVersions"), reviews, errors);
}

fn review_versions(at: &str, versions: &[Value], errors: &mut Vec<FieldError>) {
    if versions.is_empty() {
        return errors.push(FieldError::required(at, ""));
    }
    let mut seen = HashSet::new();
    for (i, version) in versions.iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if !seen.insert(name) {
            errors.push(invalid(format!("{at}[{i}]"), name, "duplicate version"));
            continue;
        }
        for why in dns1035_label(name) {
            errors.push(invalid(format!("{at}[{i}]"), name, why));
        }
    }
    if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
        errors.push(invalid(at, versions.to_vec(), "must include at least one of v1, v1beta1"));
    }
}
