//! RBAC escalation: nobody grants what they do not have, unless they may `escalate` or `bind`.

use coracle_api::Object;

use super::{Attributes, Operation, gvr};
use crate::Server;
use crate::authz::{Asked, Decision, PolicyRule, uncovered};
use crate::cluster::Cluster;
use crate::status::Result;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn validate(
    server: &Server,
    what: &Attributes<'_>,
    new: Option<&Object>,
    old: Option<&Object>,
) -> Result<()> {
    let Some(new) = new.filter(|_| what.resource.gvr.group == GROUP && what.operation != Operation::Delete)
    else {
        return Ok(());
    };
    match what.resource.gvr.resource.as_str() {
        "roles" | "clusterroles" => role(server, what, new, old),
        "rolebindings" | "clusterrolebindings" => binding(server, what, new, old),
        _ => Ok(()),
    }
}

fn role(server: &Server, what: &Attributes<'_>, new: &Object, old: Option<&Object>) -> Result<()> {
    if old.is_some_and(|old| {
        old.at(&["rules"]) == new.at(&["rules"])
            && old.at(&["aggregationRule"]) == new.at(&["aggregationRule"])
    }) || may(server, what, "escalate", &what.resource.gvr.resource, what.name)
    {
        return Ok(());
    }
    if new.at(&["aggregationRule"]).is_some() {
        let all = PolicyRule {
            verbs: vec!["*".into()],
            api_groups: vec!["*".into()],
            resources: vec!["*".into()],
            ..PolicyRule::default()
        };
        if !uncovered(&owned(server, what), &[all]).is_empty() {
            return Err(what.refuse("must have cluster-admin privileges to use the aggregationRule"));
        }
    }
    confirm(server, what, &PolicyRule::all_of(new))
}

fn binding(server: &Server, what: &Attributes<'_>, new: &Object, old: Option<&Object>) -> Result<()> {
    let same = |old: &Object| {
        old.at(&["subjects"]) == new.at(&["subjects"]) && old.at(&["roleRef"]) == new.at(&["roleRef"])
    };
    if old.is_some_and(same) {
        return Ok(());
    }
    let (kind, name) = (new.str_at(&["roleRef", "kind"]), new.str_at(&["roleRef", "name"]));
    let (plural, namespace) = if kind == "Role" { ("roles", what.namespace) } else { ("clusterroles", "") };
    if may(server, what, "bind", plural, name) {
        return Ok(());
    }
    let role = server.get(&gvr(GROUP, "v1", plural), namespace, name)?;
    confirm(server, what, &PolicyRule::all_of(&role))
}

/// Whether the user holds upstream's special verb on the role.
fn may(server: &Server, what: &Attributes<'_>, verb: &str, plural: &str, name: &str) -> bool {
    let asked =
        Asked { verb, group: GROUP, resource: plural, namespace: what.namespace, name, ..Asked::RESOURCE };
    matches!(server.access.authz.decide(server, what.user, &asked), Decision::Allow(_))
}

fn owned(server: &Server, what: &Attributes<'_>) -> Vec<PolicyRule> {
    let cluster: &dyn Cluster = server;
    server.access.authz.rbac.rules_of(cluster, what.user, what.namespace)
}

fn confirm(server: &Server, what: &Attributes<'_>, wanted: &[PolicyRule]) -> Result<()> {
    let missing = uncovered(&owned(server, what), wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = missing.iter().map(PolicyRule::compact).collect();
    lines.sort();
    let groups: Vec<String> = what.user.groups.iter().map(|g| format!("{g:?}")).collect();
    Err(what.refuse(format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        what.user.name,
        groups.join(" "),
        lines.join("\n")
    )))
}
