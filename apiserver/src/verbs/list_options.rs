//! `ListOptions`: the parameters of lists, watches and deletes of collections, judged as upstream judges them, all at once.

use coracle_api::Gvk;
use serde_json::json;

use crate::field::FieldError;
use crate::request::RequestInfo;
use crate::status::{Result, Status};

const MATCH: &str = "resourceVersionMatch";
const EXACT: &str = "Exact";
const NOT_OLDER: &str = "NotOlderThan";

/// What is wrong with the parameters: a number that is none is a 400, what contradicts itself a 422.
pub(super) fn check(info: &RequestInfo, watch: bool) -> Result<()> {
    number(info, "timeoutSeconds")?;
    number(info, "limit")?;
    let errors = if watch { watch_errors(info) } else { list_errors(info) };
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&Gvk::new("meta.k8s.io", "v1", "ListOptions"), "", &errors))
}

/// A whole number; `None` where the parameter is absent or empty.
pub(super) fn number(info: &RequestInfo, name: &str) -> Result<Option<i64>> {
    let Some(text) = info.param(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|e: std::num::ParseIntError| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let why = match e.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
    })
}

const NO_CONTINUE: &str = "resourceVersionMatch is forbidden when continue is provided";

fn list_errors(info: &RequestInfo) -> Vec<FieldError> {
    let text = |name: &str| info.param(name).unwrap_or_default();
    let (rule, revision) = (text(MATCH), text("resourceVersion"));
    let mut errors = vec![];
    let mut forbid = |field: &str, why: &str| errors.push(FieldError::forbidden(field, why));
    if !rule.is_empty() {
        if revision.is_empty() {
            forbid(MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !text("continue").is_empty() {
            forbid(MATCH, NO_CONTINUE);
        }
        if rule == EXACT && revision == "0" {
            forbid(MATCH, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        if !matches!(&*rule, EXACT | NOT_OLDER) {
            errors.push(unsupported(&rule, &[EXACT, NOT_OLDER, ""]));
        }
    }
    if info.param("sendInitialEvents").is_some() {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    errors
}

fn watch_errors(info: &RequestInfo) -> Vec<FieldError> {
    let rule = info.param(MATCH).unwrap_or_default();
    let streams = info.param("sendInitialEvents").is_some();
    let continues = info.param("continue").is_some_and(|c| !c.is_empty());
    let mut errors = vec![];
    let mut forbid = |why: &str| errors.push(FieldError::forbidden(MATCH, why));
    if streams && rule != NOT_OLDER {
        forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if rule.is_empty() {
        // Such a watch gets initial events, which upstream turns on with a rule of its own.
        let from_any = matches!(&*info.param("resourceVersion").unwrap_or_default(), "" | "0");
        if continues && !streams && from_any {
            forbid(NO_CONTINUE);
        }
        return errors;
    }
    if !streams {
        forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
    }
    if rule != NOT_OLDER {
        errors.push(unsupported(&rule, &[NOT_OLDER]));
    }
    if continues {
        errors.push(FieldError::forbidden(MATCH, NO_CONTINUE));
    }
    errors
}

/// Upstream lists these values as they stand.
fn unsupported(rule: &str, values: &[&str]) -> FieldError {
    let mut error = FieldError::not_supported(MATCH, &json!(rule), &[]);
    let shown: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
    error.detail = format!("supported values: {}", shown.join(", "));
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;

    fn refused(query: &str) -> (u16, String) {
        let info = request::parse(&http::Method::GET, "/api/v1/pods", query);
        match check(&info, info.verb == "watch") {
            Ok(()) => (200, String::new()),
            Err(refused) => (refused.code(), refused.0.message),
        }
    }

    #[test]
    fn parameters_are_judged_as_upstream_judges_them() {
        let invalid = |why: &str| (422, format!("ListOptions.meta.k8s.io \"\" is invalid: {why}"));
        let forbidden = |why: &str| invalid(&format!("resourceVersionMatch: Forbidden: {why}"));
        let fine = (200, String::new());
        let table = [
            ("limit=10&timeoutSeconds=5", fine.clone()),
            ("limit=&timeoutSeconds=", fine.clone()),
            ("limit=x", (400, "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned())),
            ("timeoutSeconds=1.5", (400, "strconv.ParseInt: parsing \"1.5\": invalid syntax".to_owned())),
            ("watch=1&timeoutSeconds=x", (400, "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned())),
            (
                "limit=9223372036854775808",
                (400, "strconv.ParseInt: parsing \"9223372036854775808\": value out of range".to_owned()),
            ),
            (
                "resourceVersionMatch=Exact",
                forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"),
            ),
            (
                "resourceVersionMatch=Exact&resourceVersion=0",
                forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""),
            ),
            (
                "resourceVersionMatch=Odd&resourceVersion=1",
                invalid(
                    "resourceVersionMatch: Unsupported value: \"Odd\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
                ),
            ),
            (
                "sendInitialEvents=true",
                invalid("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
            ),
            (
                "watch=1&sendInitialEvents=true",
                forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
            ),
            (
                "watch=1&resourceVersionMatch=NotOlderThan",
                forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
            ),
            ("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", fine.clone()),
            ("watch=1&continue=x", forbidden(NO_CONTINUE)),
            ("watch=1&continue=x&resourceVersion=5", fine.clone()),
            ("allowWatchBookmarks=odd", fine),
        ];
        for (query, wanted) in table {
            assert_eq!(refused(query), wanted, "{query}");
        }
    }
}
