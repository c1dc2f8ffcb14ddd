//! Fills ClusterRoles that are the sum of others: the rules of every role their selectors match.

use std::sync::Arc;

use coracle_api::selector::typed as selector;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::Config;
use crate::runtime::{Cache, Key, Next, Queue, Reconcile, Runtime, Writer};

struct Controller {
    roles: Arc<Cache<ClusterRole>>,
}

pub(crate) fn start(runtime: &mut Runtime, _config: &Config) {
    let roles = runtime.cache::<ClusterRole>();
    let queue = Queue::default();
    let (all, changed) = (Arc::downgrade(&roles), queue.clone());
    // Any role may be part of any aggregate, before or after it changed.
    roles.on_change(move |_, _| {
        let Some(all) = all.upgrade() else { return };
        for role in all.list().iter().filter(|r| r.aggregation_rule.is_some()) {
            changed.add(Key::of(&**role));
        }
    });
    runtime.work("clusterrole-aggregation-controller", queue, 5, Controller { roles });
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: &Key, api: &Writer) -> anyhow::Result<Next> {
        let Some(role) = self.roles.get(key) else { return Ok(Next::Done) };
        let Some(rules) = aggregate(&role, &self.roles.list()) else { return Ok(Next::Done) };
        if rules != role.rules.clone().unwrap_or_default() {
            let changed = ClusterRole { rules: Some(rules), ..(*role).clone() };
            api.replace(&changed).await?;
        }
        Ok(Next::Done)
    }
}

/// The rules of all matching roles, in the order of their names, each once. None if the role is no aggregate.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let parts = all.iter().filter(|part| {
            part.metadata.name != role.metadata.name
                && selector::matches(selector, part.metadata.labels.as_ref())
        });
        for rule in parts.flat_map(|part| part.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_aggregate_is_the_sum_of_what_it_selects_and_not_of_itself() {
        let role = |name: &str, extra: serde_json::Value| {
            let mut role = json!({"metadata": {"name": name, "labels": {"to": "view"}},
                "rules": [{"verbs": [name]}]});
            role.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            Arc::new(serde_json::from_value::<ClusterRole>(role).unwrap())
        };
        let rule = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}});
        let all = [role("a", json!({})), role("b", json!({})), role("sum", rule)];
        let verbs = |rules: Vec<PolicyRule>| rules.into_iter().flat_map(|r| r.verbs).collect::<Vec<_>>();
        assert_eq!(verbs(aggregate(&all[2], &all).unwrap()), ["a", "b"]);
        assert!(aggregate(&all[0], &all).is_none());
    }
}
