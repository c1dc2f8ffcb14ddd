//! What is wrong with what is done to a running container: lifecycle hooks and probes.

use serde_json::Value;

use super::super::validation::Errors;
use super::validation::items;
use crate::field_names::{port_name, port_number};

pub(super) fn lifecycle(at: &str, c: &Value, grace: &Value, errors: &mut Errors) {
    for key in ["postStart", "preStop"] {
        let hook = &c["lifecycle"][key];
        if hook.is_object() {
            let kinds = ["exec", "httpGet", "tcpSocket", "sleep"];
            handler(&format!("{at}.lifecycle.{key}"), hook, &kinds, grace, errors);
        }
    }
}

pub(super) fn probes(at: &str, c: &Value, errors: &mut Errors) {
    const NUMBERS: [&str; 5] =
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &c[key];
        if !probe.is_object() {
            continue;
        }
        let at = format!("{at}.{key}");
        handler(&at, probe, &["exec", "httpGet", "tcpSocket", "grpc"], &Value::Null, errors);
        for number in NUMBERS {
            errors.non_negative(format!("{at}.{number}"), probe[number].as_i64());
        }
        let grace = &probe["terminationGracePeriodSeconds"];
        let at_grace = format!("{at}.terminationGracePeriodSeconds");
        if grace.as_i64().is_some_and(|s| s <= 0) {
            errors.invalid(&*at_grace, grace.clone(), "must be greater than 0");
        }
        let once = probe["successThreshold"].as_i64() == Some(1);
        if key == "readinessProbe" && !grace.is_null() {
            errors.invalid(at_grace, grace.clone(), "must not be set for readinessProbes");
        } else if key != "readinessProbe" && !once {
            errors.invalid(format!("{at}.successThreshold"), probe["successThreshold"].clone(), "must be 1");
        }
    }
}

/// Exactly one of the kinds of action.
fn handler(at: &str, h: &Value, kinds: &[&str], grace: &Value, errors: &mut Errors) {
    let mut given = 0;
    for kind in kinds.iter().filter(|k| h[**k].is_object()) {
        given += 1;
        let at = format!("{at}.{kind}");
        if given > 1 {
            errors.forbidden(at, "may not specify more than 1 handler type");
        } else {
            action(&at, kind, &h[*kind], grace, errors);
        }
    }
    if given == 0 {
        errors.required(at, "must specify a handler type");
    }
}

fn action(at: &str, kind: &str, action: &Value, grace: &Value, errors: &mut Errors) {
    match kind {
        "exec" if items(action, "command").next().is_none() => {
            errors.required(format!("{at}.command"), "");
        }
        "httpGet" => {
            if action["path"].as_str().unwrap_or_default().is_empty() {
                errors.required(format!("{at}.path"), "");
            }
            port(&format!("{at}.port"), &action["port"], errors);
            let scheme = action["scheme"].as_str().unwrap_or_default();
            errors.supported(format!("{at}.scheme"), scheme, &["HTTP", "HTTPS"]);
            for header in items(action, "httpHeaders") {
                let name = header["name"].as_str().unwrap_or_default();
                if !is_header_name(name) {
                    let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
                    errors.invalid(format!("{at}.httpHeaders"), name, detail);
                }
            }
        }
        "tcpSocket" => port(&format!("{at}.port"), &action["port"], errors),
        "grpc" => {
            let n = action["port"].as_i64().unwrap_or(0);
            errors.all_invalid(format!("{at}.port"), n, port_number(n));
        }
        "sleep" => {
            let seconds = action["seconds"].as_i64().unwrap_or(0);
            if let Some(grace) = grace.as_i64()
                && !(0..=grace).contains(&seconds)
            {
                let detail =
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.invalid(at, seconds, detail);
            }
        }
        _ => {}
    }
}

fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn port(at: &str, value: &Value, errors: &mut Errors) {
    match value {
        Value::String(name) => errors.all_invalid(at, &**name, port_name(name)),
        number => {
            let n = number.as_i64().unwrap_or(0);
            errors.all_invalid(at, n, port_number(n));
        }
    }
}
