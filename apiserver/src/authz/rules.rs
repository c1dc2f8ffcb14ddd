//! Policy rules: what one allows, and whether a set of rules covers another.

use coracle_api::Object;
use serde::{Deserialize, Serialize};

use super::Asked;

/// One rule of a role, as on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    #[serde(deserialize_with = "list")]
    pub verbs: Vec<String>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// A null list is an empty one.
fn list<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

// === impl PolicyRule ===

impl PolicyRule {
    /// The rules of a role. Validation has refused what cannot be read as one.
    pub fn all_of(role: &Object) -> Vec<PolicyRule> {
        role.items_at(&["rules"]).iter().filter_map(|r| PolicyRule::deserialize(r).ok()).collect()
    }

    pub fn allows(&self, asked: &Asked<'_>) -> bool {
        if !holds(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource {
            return self.non_resource_urls.iter().any(|url| url_matches(url, asked.path));
        }
        holds(&self.api_groups, asked.group)
            && resource_matches(&self.resources, asked.resource, asked.subresource)
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == asked.name))
    }

    /// One rule per verb, group, resource, name and URL: what covering is decided on.
    fn atoms(&self) -> Vec<PolicyRule> {
        let one = |s: &String| vec![s.clone()];
        let mut atoms = vec![];
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let base = PolicyRule {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..PolicyRule::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(base);
                        continue;
                    }
                    for name in &self.resource_names {
                        atoms.push(PolicyRule { resource_names: one(name), ..base.clone() });
                    }
                }
            }
            for url in &self.non_resource_urls {
                atoms.push(PolicyRule {
                    verbs: one(verb),
                    non_resource_urls: one(url),
                    ..PolicyRule::default()
                });
            }
        }
        atoms
    }

    /// Whether this rule allows all that an atom allows.
    fn covers(&self, atom: &PolicyRule) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|w| holds(own, w));
        if !all(&self.verbs, &atom.verbs) {
            return false;
        }
        if let [url] = &atom.non_resource_urls[..] {
            return self.non_resource_urls.iter().any(|own| url_matches(own, url));
        }
        let resource = atom.resources.first().map_or("", String::as_str);
        let (plain, sub) = resource.split_once('/').unwrap_or((resource, ""));
        let names = self.resource_names.is_empty()
            || (!atom.resource_names.is_empty()
                && atom.resource_names.iter().all(|n| self.resource_names.contains(n)));
        all(&self.api_groups, &atom.api_groups) && resource_matches(&self.resources, plain, sub) && names
    }

    /// Upstream's short form in messages: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub fn compact(&self) -> String {
        let mut parts = vec![];
        let groups = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("NonResourceURLs", &self.non_resource_urls),
            ("Verbs", &self.verbs),
        ];
        for (name, values) in groups {
            if !values.is_empty() {
                let quoted: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
                parts.push(format!("{name}:[{}]", quoted.join(" ")));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }
}

/// Which of `wanted` are not covered by `owned`, one verb, resource or URL each; verbs of one subject joined.
pub fn uncovered(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut missing: Vec<PolicyRule> = vec![];
    for atom in wanted.iter().flat_map(PolicyRule::atoms) {
        if owned.iter().any(|rule| rule.covers(&atom)) {
            continue;
        }
        let same = |m: &&mut PolicyRule| {
            m.api_groups == atom.api_groups
                && m.resources == atom.resources
                && m.resource_names == atom.resource_names
                && m.non_resource_urls == atom.non_resource_urls
        };
        match missing.iter_mut().find(same) {
            Some(rule) if !rule.verbs.contains(&atom.verbs[0]) => rule.verbs.extend(atom.verbs),
            Some(_) => {}
            None => missing.push(atom),
        }
    }
    missing
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|v| v == "*" || v == wanted)
}

/// `pods`, `pods/log`, `*`, and `*/scale` for a subresource of anything.
fn resource_matches(list: &[String], resource: &str, subresource: &str) -> bool {
    list.iter().any(|own| {
        own == "*"
            || match own.split_once('/') {
                None => own == resource && subresource.is_empty(),
                Some((main, sub)) => {
                    sub == subresource && !sub.is_empty() && (main == "*" || main == resource)
                }
            }
    })
}

/// A trailing `*` matches any rest.
fn url_matches(own: &str, path: &str) -> bool {
    own == "*" || own == path || own.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        PolicyRule {
            verbs: own(verbs),
            api_groups: own(groups),
            resources: own(resources),
            resource_names: own(names),
            non_resource_urls: vec![],
        }
    }

    #[test]
    fn escalation_lists_what_is_missing_as_upstream_words_it() {
        let owned = [rule(&["get", "list"], &[""], &["pods"], &[]), rule(&["*"], &["apps"], &["*"], &[])];
        let wanted = [rule(&["get", "delete", "watch"], &["", "apps"], &["pods"], &[])];
        let missing: Vec<String> = uncovered(&owned, &wanted).iter().map(PolicyRule::compact).collect();
        assert_eq!(missing, [r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#]);
        let named = [rule(&["get"], &[""], &["pods"], &["a"])];
        assert!(uncovered(&owned, &named).is_empty());
        assert!(
            !uncovered(&named, &[rule(&["get"], &[""], &["pods"], &[])]).is_empty(),
            "a name covers not all names"
        );
        assert!(resource_matches(&["*/scale".into()], "deployments", "scale"));
        assert!(!resource_matches(&["pods".into()], "pods", "log"));
        assert!(url_matches("/healthz/*", "/healthz/x") && !url_matches("/healthz", "/healthz/x"));
    }
}
