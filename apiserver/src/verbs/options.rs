//! The query parameters of writes: `CreateOptions`, `UpdateOptions`, `PatchOptions`.

use coracle_api::Gvk;
use http::header;
use serde_json::json;

use super::serve::Request;
use crate::field::{Cause, FieldError};
use crate::limits::MANAGER_BYTES;
use crate::patch::PatchKind;
use crate::status::{Result, Status};

/// What `fieldValidation` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Validation {
    Ignore,
    Warn,
    Strict,
}

// === impl Request ===

impl Request<'_> {
    /// Everything wrong with the parameters of a write.
    pub(super) fn check_options(&self) -> Result<()> {
        let mut errors = vec![];
        let (kind, applies) = match self.info.verb.as_str() {
            "update" => ("UpdateOptions", None),
            "patch" => ("PatchOptions", Some(self.patch_kind()? == PatchKind::Apply)),
            _ => ("CreateOptions", None),
        };
        let manager = self.info.param("fieldManager").unwrap_or_default();
        match applies {
            Some(true) if manager.is_empty() => {
                errors.push(FieldError::required("fieldManager", "is required for apply patch"));
            }
            Some(false) if self.info.param("force").is_some_and(|f| !f.is_empty()) => {
                errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
            }
            _ => {}
        }
        errors.extend(bad_manager("fieldManager", &manager));
        let dry_run = self.info.all("dryRun");
        if dry_run.iter().any(|stage| stage != "All") {
            errors.push(FieldError::not_supported("dryRun", &json!(dry_run), &["All"]));
        }
        let validation = self.info.param("fieldValidation").unwrap_or_default();
        if !matches!(&*validation, "" | "Ignore" | "Strict" | "Warn") {
            let words = ["", "Ignore", "Strict", "Warn"];
            errors.push(FieldError::not_supported("fieldValidation", &json!(validation), &words));
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&Gvk::new("meta.k8s.io", "v1", kind), "", &errors))
    }

    pub(super) fn dry_run(&self) -> Result<bool> {
        Ok(self.info.param("dryRun").is_some_and(|asked| asked == "All"))
    }

    pub(super) fn validation(&self) -> Result<Validation> {
        Ok(match self.info.param("fieldValidation").as_deref() {
            Some("Strict") => Validation::Strict,
            Some("Ignore") => Validation::Ignore,
            _ => Validation::Warn,
        })
    }

    pub(super) fn patch_kind(&self) -> Result<PatchKind> {
        let content_type = self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        match PatchKind::from_content_type(content_type.unwrap_or_default())? {
            PatchKind::Strategic if !self.resource.typed => Err(Status::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )),
            kind => Ok(kind),
        }
    }

    /// Whose fields a write sets: who the client says it is, else the program that its user agent begins with.
    pub(super) fn manager(&self) -> String {
        let named = self.info.param("fieldManager").filter(|m| !m.is_empty());
        named.unwrap_or_else(|| {
            let agent = self.headers.get(header::USER_AGENT).map(|v| String::from_utf8_lossy(v.as_bytes()));
            let agent = agent.as_deref().unwrap_or_default();
            let mut manager = String::new();
            for c in agent.split('/').next().unwrap_or_default().chars().filter(|c| is_printed(*c)) {
                if manager.len() + c.len_utf8() > MANAGER_BYTES {
                    break;
                }
                manager.push(c);
            }
            manager
        })
    }
}

/// What is wrong with the name of a field manager. One that is too long is not looked at: each cause has the whole name.
pub(super) fn bad_manager(field: &str, manager: &str) -> Vec<FieldError> {
    if manager.len() > MANAGER_BYTES {
        return vec![FieldError::too_long(field, MANAGER_BYTES)];
    }
    let mut errors = vec![];
    for (at, c) in manager.char_indices().filter(|(_, c)| !is_printed(*c)) {
        errors.push(FieldError {
            field: field.to_owned(),
            cause: Cause::Invalid,
            value: quoted(manager),
            detail: format!("invalid character U+{:04X} (at position {at})", u32::from(c)),
        });
    }
    errors
}

/// As Go quotes what cannot be printed.
fn quoted(text: &str) -> String {
    let mut out = "\"".to_owned();
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_control() && c.is_ascii() && !matches!(c, '\n' | '\r' | '\t') => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c => out.extend(c.escape_debug()),
        }
    }
    out.push('"');
    out
}

/// Go's `unicode.IsPrint`, but for the rarer characters that only format.
fn is_printed(c: char) -> bool {
    !c.is_control()
        && (c == ' ' || !c.is_whitespace())
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{feff}' | '\u{fffd}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_manager_has_no_more_causes_than_a_name_may_have_characters() {
        for (name, causes) in [("kubectl", 0), ("a\u{1}b\u{2}", 2)] {
            assert_eq!(bad_manager("fieldManager", name).len(), causes, "{name:?}");
        }
        assert_eq!(bad_manager("fieldManager", &"\u{1}".repeat(MANAGER_BYTES)).len(), MANAGER_BYTES);
        assert_eq!(bad_manager("fieldManager", &"\u{1}".repeat(1 << 20)).len(), 1);
    }
}
