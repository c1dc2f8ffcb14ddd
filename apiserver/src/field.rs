//! Field errors: what is wrong with an object, and where. Upstream's `field.ErrorList`.

use std::fmt;

/// The `reason` of a `StatusCause`, with upstream's spelling on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

/// One thing wrong with one field. `detail` is upstream's text without the field and cause in front
/// (`Invalid value: "x": must be ...` is built by [`fmt::Display`] from `cause`, `value` and `detail`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// `spec.containers[0].name`
    pub field: String,
    pub cause: Cause,
    /// The bad value as upstream prints it (a string is quoted, an object is JSON); empty where the cause shows none.
    pub value: String,
    pub detail: String,
}

// === impl Cause ===

impl Cause {
    /// `FieldValueInvalid` ...: the machine-readable reason in `status.details.causes[].reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Cause::NotFound => "FieldValueNotFound",
            Cause::Required => "FieldValueRequired",
            Cause::Duplicate => "FieldValueDuplicate",
            Cause::Invalid => "FieldValueInvalid",
            Cause::NotSupported => "FieldValueNotSupported",
            Cause::Forbidden => "FieldValueForbidden",
            Cause::TooLong => "FieldValueTooLong",
            Cause::TooMany => "FieldValueTooMany",
            Cause::TypeInvalid => "FieldValueTypeInvalid",
            Cause::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Cause::NotFound => "Not found",
            Cause::Required => "Required value",
            Cause::Duplicate => "Duplicate value",
            Cause::Invalid => "Invalid value",
            Cause::NotSupported => "Unsupported value",
            Cause::Forbidden => "Forbidden",
            Cause::TooLong => "Too long",
            Cause::TooMany => "Too many",
            Cause::TypeInvalid => "Invalid value",
            Cause::Internal => "Internal error",
        }
    }
}

// === impl FieldError ===

impl FieldError {
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        FieldError {
            field: field.into(),
            cause: Cause::Required,
            value: String::new(),
            detail: detail.into(),
        }
    }

    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        FieldError {
            field: field.into(),
            cause: Cause::Forbidden,
            value: String::new(),
            detail: detail.into(),
        }
    }

    /// `value` is shown as Go's `%#v`-like form upstream uses: strings quoted, numbers plain, objects as JSON.
    pub fn invalid(field: impl Into<String>, value: &serde_json::Value, detail: impl Into<String>) -> Self {
        FieldError {
            field: field.into(),
            cause: Cause::Invalid,
            value: value.to_string(),
            detail: detail.into(),
        }
    }

    pub fn duplicate(field: impl Into<String>, value: &serde_json::Value) -> Self {
        FieldError {
            field: field.into(),
            cause: Cause::Duplicate,
            value: value.to_string(),
            detail: String::new(),
        }
    }

    pub fn not_found(field: impl Into<String>, value: &serde_json::Value) -> Self {
        FieldError {
            field: field.into(),
            cause: Cause::NotFound,
            value: value.to_string(),
            detail: String::new(),
        }
    }

    /// `Unsupported value: "x": supported values: "a", "b"` (sorted as upstream does).
    pub fn not_supported(field: impl Into<String>, value: &serde_json::Value, supported: &[&str]) -> Self {
        let mut names: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        names.sort();
        let detail = format!("supported values: {}", names.join(", "));
        FieldError { field: field.into(), cause: Cause::NotSupported, value: value.to_string(), detail }
    }

    /// `Too long: may not be more than N bytes`
    pub fn too_long(field: impl Into<String>, max_bytes: usize) -> Self {
        let detail = format!("may not be more than {max_bytes} bytes");
        FieldError { field: field.into(), cause: Cause::TooLong, value: String::new(), detail }
    }

    /// `Too many: N: must have at most M items`
    pub fn too_many(field: impl Into<String>, count: usize, most: usize) -> Self {
        let detail = format!("must have at most {most} items");
        FieldError { field: field.into(), cause: Cause::TooMany, value: count.to_string(), detail }
    }

    /// The `message` of a `StatusCause`: everything but the field.
    pub fn body(&self) -> String {
        let mut s = self.cause.text().to_owned();
        for part in [&self.value, &self.detail] {
            if !part.is_empty() {
                s.push_str(": ");
                s.push_str(part);
            }
        }
        s
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}
