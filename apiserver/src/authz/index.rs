//! RBAC in memory: roles by name, bindings by whom they bind; brought up to date when a role or binding has changed.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_api::{Gvr, Object};
use parking_lot::Mutex;
use serde_json::Value;

use super::rules::PolicyRule;
use super::{Asked, Decision};
use crate::authn::User;
use crate::cluster::Cluster;

/// Roles and bindings, as they are stored.
const KINDS: [&str; 4] = [
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/clusterrolebindings",
    "rbac.authorization.k8s.io/rolebindings",
];

/// The RBAC authorizer.
#[derive(Default)]
pub struct Rbac {
    current: Mutex<Option<([u64; 4], Arc<Index>)>>,
}

/// One state of all roles and bindings.
#[derive(Default)]
struct Index {
    /// By namespace (empty: cluster roles) and name.
    roles: HashMap<(String, String), Arc<[PolicyRule]>>,
    /// By subject (`User:x`, `Group:x`, `ServiceAccount:ns:x`).
    bindings: HashMap<String, Vec<Grant>>,
}

/// What a binding gives a subject: a role's rules, in one namespace or (empty) everywhere.
struct Grant {
    namespace: String,
    role: (String, String),
    /// How the answer names it: `ClusterRoleBinding "x" of ClusterRole "y"`.
    source: String,
    subject: String,
}

// === impl Rbac ===

impl Rbac {
    pub fn decide(&self, cluster: &dyn Cluster, user: &User, asked: &Asked<'_>) -> Decision {
        let index = self.index(cluster);
        let mut missing_role: Option<String> = None;
        for grant in index.grants(user, asked.namespace) {
            match index.roles.get(&grant.role) {
                Some(rules) if rules.iter().any(|rule| rule.allows(asked)) => {
                    return Decision::Allow(format!(
                        "RBAC: allowed by {} to {}",
                        grant.source, grant.subject
                    ));
                }
                Some(_) => {}
                None => missing_role = missing_role.or_else(|| Some(absent_role(&grant.role))),
            }
        }
        Decision::Deny(missing_role.map(|m| format!("RBAC: {m}")).unwrap_or_default())
    }

    /// Every rule a user has in a namespace (empty: cluster-wide ones only).
    pub fn rules_of(&self, cluster: &dyn Cluster, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let index = self.index(cluster);
        let rules = index.grants(user, namespace).filter_map(|g| index.roles.get(&g.role));
        rules.flat_map(|rules| rules.iter().cloned()).collect()
    }

    fn index(&self, cluster: &dyn Cluster) -> Arc<Index> {
        let seen = KINDS.map(|storage| cluster.generation(storage));
        let mut current = self.current.lock();
        if let Some((at, index)) = &*current
            && *at == seen
        {
            return index.clone();
        }
        let index = Arc::new(Index::of(cluster));
        *current = Some((seen, index.clone()));
        index
    }
}

// === impl Index ===

impl Index {
    fn of(cluster: &dyn Cluster) -> Self {
        let mut index = Index::default();
        let [cluster_roles, roles, cluster_bindings, bindings] = KINDS.map(|storage| {
            let (group, plural) = storage.split_once('/').unwrap_or_default();
            cluster.list(&Gvr::new(group, "v1", plural), "")
        });
        for role in cluster_roles.iter().chain(&roles) {
            index.roles.insert(
                (role.namespace().to_owned(), role.name().to_owned()),
                PolicyRule::all_of(role).into(),
            );
        }
        for binding in cluster_bindings.iter().chain(&bindings) {
            index.bind(binding);
        }
        index
    }

    fn bind(&mut self, binding: &Object) {
        let (kind, name) = (binding.str_at(&["roleRef", "kind"]), binding.str_at(&["roleRef", "name"]));
        let namespace = binding.namespace();
        let role_namespace = if kind == "Role" { namespace } else { "" };
        let full = match namespace {
            "" => binding.name().to_owned(),
            ns => format!("{}/{ns}", binding.name()),
        };
        let binding_kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
        for subject in binding.items_at(&["subjects"]) {
            let text = |key: &str| subject.get(key).and_then(Value::as_str).unwrap_or_default();
            let (key, shown) = match text("kind") {
                "ServiceAccount" => {
                    let ns = if text("namespace").is_empty() { namespace } else { text("namespace") };
                    let shown = format!("ServiceAccount \"{}/{ns}\"", text("name"));
                    (format!("User:system:serviceaccount:{ns}:{}", text("name")), shown)
                }
                kind => (format!("{kind}:{}", text("name")), format!("{kind} {:?}", text("name"))),
            };
            self.bindings.entry(key).or_default().push(Grant {
                namespace: namespace.to_owned(),
                role: (role_namespace.to_owned(), name.to_owned()),
                source: format!("{binding_kind} {full:?} of {kind} {name:?}"),
                subject: shown,
            });
        }
    }

    /// What applies to a user in a namespace, cluster-wide grants first.
    fn grants<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a Grant> {
        let keys = std::iter::once(format!("User:{}", user.name))
            .chain(user.groups.iter().map(|g| format!("Group:{g}")));
        let all: Vec<&Grant> = keys.filter_map(|key| self.bindings.get(&key)).flatten().collect();
        let wide = all.clone().into_iter().filter(|g| g.namespace.is_empty());
        wide.chain(all.into_iter().filter(move |g| !g.namespace.is_empty() && g.namespace == namespace))
    }
}

fn absent_role((namespace, name): &(String, String)) -> String {
    match namespace.as_str() {
        "" => format!("clusterrole.rbac.authorization.k8s.io {name:?} not found"),
        _ => format!("role.rbac.authorization.k8s.io {name:?} not found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::Fixed;
    use serde_json::json;

    const GROUP: &str = "rbac.authorization.k8s.io";

    #[test]
    fn bindings_allow_in_their_namespace_only() {
        let cluster = Fixed::new(vec![
            (
                GROUP,
                "clusterroles",
                json!({"metadata": {"name": "view"},
                "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
            ),
            (
                GROUP,
                "rolebindings",
                json!({"metadata": {"name": "b", "namespace": "n"},
                "roleRef": {"kind": "ClusterRole", "name": "view"},
                "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "m"}]}),
            ),
        ]);
        let rbac = Rbac::default();
        let user = User::component("system:serviceaccount:m:a", &[]);
        let ask = |verb, namespace| {
            let asked = Asked { verb, resource: "pods", namespace, name: "x", ..Asked::RESOURCE };
            rbac.decide(&cluster, &user, &asked)
        };
        let why = r#"RBAC: allowed by RoleBinding "b/n" of ClusterRole "view" to ServiceAccount "a/m""#;
        assert_eq!(ask("get", "n"), Decision::Allow(why.into()));
        assert_eq!(ask("get", "other"), Decision::Deny(String::new()));
        assert_eq!(ask("delete", "n"), Decision::Deny(String::new()));
    }
}
