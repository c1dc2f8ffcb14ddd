//! Hostile query parameters: understood or refused.

use super::inner::Deletion;
use super::select::Selection;
use super::{list, list_options, options};
use crate::flow_control;
use crate::request::RequestInfo;
use crate::resource::Resource;

/// Everything that a query may say.
pub(crate) fn parameters(info: &RequestInfo, resource: &Resource) {
    let _ = (list_options::check(info, false), list_options::check(info, true));
    if let Ok(selection) = Selection::parse(info, resource) {
        assert!(!selection.is_everything() || info.name.is_empty() || info.verb == "get");
    }
    if let Some(token) = info.param("continue") {
        list::hostile_token(&token);
    }
    for name in ["limit", "timeoutSeconds"] {
        let _ = list_options::number(info, name);
    }
    let _ = list::parse_revision(&info.param("resourceVersion").unwrap_or_default());
    let _ = Deletion::parse(None, |name| info.param(name));
    options::bad_manager("fieldManager", &info.param("fieldManager").unwrap_or_default());
    let width = flow_control::width(info, || 1000);
    assert!(width > 0);
}
