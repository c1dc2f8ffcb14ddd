//! What names may look like: upstream's DNS-1123, DNS-1035, qualified-name and label-value rules, in upstream's words.

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

/// `a lowercase RFC 1123 subdomain must consist of ...`; empty where the name is fine.
pub fn dns1123_subdomain(name: &str) -> Vec<String> {
    limited(name, 253, name.split('.').all(is_label), SUBDOMAIN)
}

pub fn dns1123_label(name: &str) -> Vec<String> {
    let mut errors = vec![];
    if name.len() > 63 {
        errors.push(too_long(63));
    }
    if !is_label(name) {
        // Upstream tells a dotted name apart: it would do as a subdomain.
        errors.push(match name.split('.').all(is_label) && name.contains('.') {
            true => "must not contain dots".to_owned(),
            false => LABEL.to_owned(),
        });
    }
    errors
}

pub fn dns1035_label(name: &str) -> Vec<String> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    limited(name, 63, starts_well && is_label(name), LABEL_1035)
}

pub fn wildcard_dns1123_subdomain(name: &str) -> Vec<String> {
    let rest = name.strip_prefix("*.");
    limited(name, 253, rest.is_some_and(|r| r.split('.').all(is_label)), WILDCARD)
}

/// A label, annotation or resource key: `[prefix/]name`.
pub fn qualified_name(key: &str) -> Vec<String> {
    let mut errors = vec![];
    let name = match key.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            let rule = QUALIFIED.trim_start_matches("name part ");
            return vec![format!(
                "a valid label key {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_name_part(name) {
        errors.push(QUALIFIED.to_owned());
    }
    errors
}

pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = vec![];
    if value.len() > 63 {
        errors.push("must be no more than 63 bytes".to_owned());
    }
    if !value.is_empty() && !is_name_part(value) {
        errors.push(VALUE.to_owned());
    }
    errors
}

/// A key of a `ConfigMap` or `Secret`.
pub fn config_map_key(key: &str) -> Vec<String> {
    let chars = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let mut errors = limited(key, 253, chars && !key.is_empty(), CONFIG_KEY);
    match key {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        key if key.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

pub fn env_var_name(name: &str) -> Vec<String> {
    let fine = !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    if fine { vec![] } else { vec![ENV_NAME.to_owned()] }
}

/// The name of a container port (an IANA service name).
pub fn port_name(name: &str) -> Vec<String> {
    let mut errors = vec![];
    if name.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') || name.is_empty() {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// What may stand in a URL between two slashes: the least that a name must be.
pub fn path_segment(name: &str) -> Vec<String> {
    match name {
        "." | ".." => vec![format!("may not be '{name}'")],
        _ => ['/', '%']
            .into_iter()
            .filter(|c| name.contains(*c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

/// A name as C has them.
pub fn c_identifier(name: &str) -> Vec<String> {
    const RULE: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let fine = name.bytes().all(inner) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if fine { vec![] } else { vec![RULE.to_owned()] }
}

/// A number of a TCP or UDP port.
pub fn port_number(port: i64) -> Vec<String> {
    match port {
        1..=65535 => vec![],
        _ => vec!["must be between 1 and 65535, inclusive".to_owned()],
    }
}

fn limited(text: &str, max: usize, fine: bool, rule: &str) -> Vec<String> {
    let mut errors = vec![];
    if text.len() > max {
        errors.push(too_long(max));
    }
    if !fine {
        errors.push(rule.to_owned());
    }
    errors
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_name_part(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(edge)
        && text.ends_with(edge)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
