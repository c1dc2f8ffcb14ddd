//! Who may do what: `system:masters`, the node authorizer, RBAC; in this order, the first that allows decides.

use coracle_api::Gvr;
use coracle_api::names::{GROUP_MASTERS, GROUP_NODES};
use coracle_api::selector::FieldTerm;
use serde_json::json;

use crate::authn::User;
use crate::cluster::Cluster;
use crate::request::RequestInfo;
use crate::status::Status;

mod index;
mod node;
pub(crate) mod references;
mod rules;

pub use index::Rbac;
pub use rules::{PolicyRule, uncovered};

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    /// Nobody allowed it; the reason is for the client (mostly empty).
    Deny(String),
}

/// What is asked, by a request or an access review. Made from the parsed request in one place, here.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub verb: &'a str,
    pub is_resource: bool,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    /// What the request's field selector demands: it narrows what a node may list.
    pub fields: &'a [FieldTerm],
}

/// All authorizers in their order.
#[derive(Default)]
pub struct Authorizer {
    pub rbac: Rbac,
}

// === impl Asked ===

impl Asked<'_> {
    /// A question about a resource that says nothing yet.
    pub const RESOURCE: Asked<'static> = Asked {
        verb: "",
        is_resource: true,
        group: "",
        version: "",
        resource: "",
        subresource: "",
        namespace: "",
        name: "",
        path: "",
        fields: &[],
    };
}

impl<'a> From<&'a RequestInfo> for Asked<'a> {
    fn from(r: &'a RequestInfo) -> Self {
        Asked {
            verb: &r.verb,
            is_resource: r.is_resource,
            group: &r.group,
            version: &r.version,
            resource: &r.resource,
            subresource: &r.subresource,
            namespace: &r.namespace,
            name: &r.name,
            path: &r.path,
            fields: &r.fields.0,
        }
    }
}

// === impl Authorizer ===

impl Authorizer {
    pub fn decide(&self, cluster: &dyn Cluster, user: &User, asked: &Asked<'_>) -> Decision {
        if user.in_group(GROUP_MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut reason = String::new();
        if user.in_group(GROUP_NODES)
            && let Some(node) = user.name.strip_prefix("system:node:")
        {
            let decision = match node {
                "" => Decision::Deny(format!("unknown node for user {:?}", user.name)),
                node => node::decide(cluster, node, asked),
            };
            match decision {
                Decision::Allow(why) => return Decision::Allow(why),
                Decision::Deny(why) => reason = why,
            }
        }
        match self.rbac.decide(cluster, user, asked) {
            Decision::Deny(why) if why.is_empty() => Decision::Deny(reason),
            Decision::Deny(why) if !reason.is_empty() => Decision::Deny(format!("[{reason}, {why}]")),
            decision => decision,
        }
    }
}

/// The 403 that a refused client sees.
pub fn refused(user: &User, asked: &Asked<'_>, reason: &str) -> Status {
    let mut what = if asked.is_resource {
        let resource = match asked.subresource {
            "" => asked.resource.to_owned(),
            sub => format!("{}/{sub}", asked.resource),
        };
        let place = match asked.namespace {
            "" => "at the cluster scope".to_owned(),
            ns => format!("in the namespace {ns:?}"),
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
            user.name, asked.verb, asked.group
        )
    } else {
        format!("User {:?} cannot {} path {:?}", user.name, asked.verb, asked.path)
    };
    // Browsers may show it: nothing that the client has sent is markup.
    what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !reason.is_empty() {
        what = format!("{what}: {reason}");
    }
    if asked.is_resource && !asked.resource.is_empty() {
        return Status::forbidden(&Gvr::new(asked.group, asked.version, asked.resource), asked.name, &what);
    }
    let mut status = Status::new(403, "Forbidden", format!("forbidden: {what}"));
    status.0.details = Some(if asked.name.is_empty() { json!({}) } else { json!({"name": asked.name}) });
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_in_upstreams_words_and_never_markup() {
        let user = User { name: "jane<b>".to_owned(), ..User::default() };
        let pods = Asked { verb: "list", resource: "pods", namespace: "n", ..Asked::RESOURCE };
        let path = Asked { verb: "get", is_resource: false, path: "/foo<x>&y", ..Asked::RESOURCE };
        for (asked, reason, message, details) in [
            (
                pods,
                "why < not",
                "pods is forbidden: User \"jane&lt;b&gt;\" cannot list resource \"pods\" in API group \"\" in the \
                 namespace \"n\": why < not",
                json!({"kind": "pods"}),
            ),
            (
                path,
                "",
                "forbidden: User \"jane&lt;b&gt;\" cannot get path \"/foo&lt;x&gt;&amp;y\"",
                json!({}),
            ),
            (
                Asked { verb: "get", name: "pods", ..Asked::RESOURCE },
                "",
                "forbidden: User \"jane&lt;b&gt;\" cannot get resource \"\" in API group \"\" at the cluster scope",
                json!({"name": "pods"}),
            ),
        ] {
            let refusal = refused(&user, &asked, reason);
            assert_eq!(refusal.to_string(), message);
            assert_eq!(refusal.0.details, Some(details));
        }
    }
}
