//! FlowSchemas and PriorityLevelConfigurations as they are asked: which schema a request matches, how many seats a level has.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use coracle_api::Object;
use serde_json::Value;

use super::Flow;
use super::dispatch::{LevelConfig, Queuing};
use crate::authn::User;
use crate::request::RequestInfo;

/// FlowSchemas and levels, as they are stored.
pub(super) const KINDS: [&str; 2] =
    ["flowcontrol.apiserver.k8s.io/flowschemas", "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations"];
const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";

/// One state of the cluster's schemas and levels.
pub(super) struct Schemas {
    /// By precedence, then name.
    schemas: Vec<Schema>,
    levels: Vec<Level>,
}

struct Schema {
    name: Arc<str>,
    uid: Arc<str>,
    precedence: i64,
    level: Arc<str>,
    level_uid: Arc<str>,
    exempt: bool,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

enum Distinguisher {
    Nothing,
    User,
    Namespace,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    others: Vec<OtherRule>,
}

enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

struct OtherRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

struct Level {
    name: Arc<str>,
    exempt: bool,
    shares: u64,
    lendable: u64,
    /// `None`: as much as there is.
    borrowing: Option<u64>,
    queuing: Option<Queuing>,
}

// === impl Schemas ===

impl Schemas {
    pub(super) fn of(schemas: &[Object], levels: &[Object]) -> Self {
        let named: HashMap<&str, &Object> = levels.iter().map(|l| (l.name(), l)).collect();
        // A schema whose level is missing says nothing: upstream's condition Dangling.
        let mut schemas: Vec<Schema> =
            schemas.iter().filter_map(|o| Schema::of(o, named.get(level_of(o))?)).collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let mut levels: Vec<Level> = levels.iter().map(Level::of).collect();
        // The two that everything else rests on are there even where somebody has deleted their objects.
        for (name, exempt, shares) in [(EXEMPT, true, 0), (CATCH_ALL, false, 5)] {
            if !levels.iter().any(|l| *l.name == *name) {
                let name = name.into();
                levels.push(Level { name, exempt, shares, lendable: 0, borrowing: None, queuing: None });
            }
        }
        Schemas { schemas, levels }
    }

    pub(super) fn classify(&self, user: &User, info: &RequestInfo) -> Flow {
        let matched = self.schemas.iter().find(|s| s.rules.iter().any(|rule| rule.matches(user, info)));
        let Some(schema) = matched else {
            let masters = user.in_group(coracle_api::names::GROUP_MASTERS);
            let name: Arc<str> = if masters { EXEMPT } else { CATCH_ALL }.into();
            let hash = hash(&(&name, &user.name));
            return Flow {
                schema: name.clone(),
                level: name,
                schema_uid: "".into(),
                level_uid: "".into(),
                exempt: masters,
                hash,
            };
        };
        let of = match schema.distinguisher {
            Distinguisher::Nothing => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        };
        Flow {
            schema: schema.name.clone(),
            level: schema.level.clone(),
            schema_uid: schema.uid.clone(),
            level_uid: schema.level_uid.clone(),
            exempt: schema.exempt,
            hash: hash(&(&schema.name, of)),
        }
    }

    /// The names under which requests are counted: schema and level.
    pub(super) fn counts(&self, schema: &str, level: &str) -> bool {
        let fallback = matches!(schema, EXEMPT | CATCH_ALL) && schema == level;
        fallback || self.schemas.iter().any(|s| *s.name == *schema && *s.level == *level)
    }

    /// Each level's part of the server's seats.
    pub(super) fn levels(&self, seats: u32) -> Vec<LevelConfig> {
        let shares: u64 = self.levels.iter().filter(|l| !l.exempt).map(|l| l.shares).sum();
        let of_all = |level: &Level| (u64::from(seats) * level.shares).div_ceil(shares.max(1));
        let mut configs: Vec<LevelConfig> = self
            .levels
            .iter()
            .map(|level| {
                let nominal = if level.exempt { 0 } else { of_all(level) };
                let percent = |of: u64| (nominal * of + 50) / 100;
                let most = level.borrowing.map_or(u64::from(seats), |b| nominal + percent(b));
                let count = |n: u64| u32::try_from(n).unwrap_or(seats).min(seats);
                LevelConfig {
                    name: level.name.clone(),
                    exempt: level.exempt,
                    nominal: count(nominal),
                    kept: count(nominal - percent(level.lendable)),
                    most: count(most),
                    queuing: level.queuing,
                }
            })
            .collect();
        // Rounded up each, they may be more than there are.
        let mut over = configs.iter().map(|c| c.kept).sum::<u32>().saturating_sub(seats);
        for config in configs.iter_mut().filter(|c| c.kept > 1) {
            let less = over.min(1);
            config.kept -= less;
            over -= less;
        }
        configs
    }
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn is_exempt(level: &Object) -> bool {
    level.str_at(&["spec", "type"]) == "Exempt"
}

/// The level that a schema names.
pub(super) fn level_of(schema: &Object) -> &str {
    schema.str_at(&["spec", "priorityLevelConfiguration", "name"])
}

// === impl Schema ===

impl Schema {
    fn of(object: &Object, level: &Object) -> Option<Self> {
        let rules = object.items_at(&["spec", "rules"]).iter().map(Rule::of).collect();
        Some(Schema {
            name: object.name().into(),
            uid: object.str_at(&["metadata", "uid"]).into(),
            precedence: object.i64_at(&["spec", "matchingPrecedence"]).unwrap_or(1000),
            level: level_of(object).into(),
            level_uid: level.str_at(&["metadata", "uid"]).into(),
            exempt: is_exempt(level),
            distinguisher: match object.str_at(&["spec", "distinguisherMethod", "type"]) {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::Nothing,
            },
            rules,
        })
    }
}

fn texts(of: &Value) -> Vec<String> {
    of.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn items<T>(of: &Value, make: impl Fn(&Value) -> T) -> Vec<T> {
    of.as_array().into_iter().flatten().map(make).collect()
}

fn has(all: &[String], one: &str) -> bool {
    all.iter().any(|a| a == "*" || a == one)
}

// === impl Rule ===

impl Rule {
    fn of(rule: &Value) -> Self {
        let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
        Rule {
            subjects: items(&rule["subjects"], |s| match s["kind"].as_str().unwrap_or_default() {
                "Group" => Subject::Group(text(&s["group"]["name"])),
                "ServiceAccount" => Subject::ServiceAccount {
                    namespace: text(&s["serviceAccount"]["namespace"]),
                    name: text(&s["serviceAccount"]["name"]),
                },
                _ => Subject::User(text(&s["user"]["name"])),
            }),
            resources: items(&rule["resourceRules"], |r| ResourceRule {
                verbs: texts(&r["verbs"]),
                groups: texts(&r["apiGroups"]),
                resources: texts(&r["resources"]),
                cluster: r["clusterScope"] == true,
                namespaces: texts(&r["namespaces"]),
            }),
            others: items(&rule["nonResourceRules"], |r| OtherRule {
                verbs: texts(&r["verbs"]),
                paths: texts(&r["nonResourceURLs"]),
            }),
        }
    }

    fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        self.subjects.iter().any(|s| s.matches(user))
            && match info.is_resource {
                true => self.resources.iter().any(|r| r.matches(info)),
                false => self.others.iter().any(|r| r.matches(info)),
            }
    }
}

impl Subject {
    fn matches(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.in_group(name),
            Subject::ServiceAccount { namespace, name } => user
                .name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(ns, account)| ns == namespace && (name == "*" || name == account)),
        }
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let resource = match info.subresource.as_str() {
            "" => info.resource.clone(),
            part => format!("{}/{part}", info.resource),
        };
        has(&self.verbs, &info.verb)
            && has(&self.groups, &info.group)
            && has(&self.resources, &resource)
            && match info.namespace.is_empty() {
                true => self.cluster,
                false => has(&self.namespaces, &info.namespace),
            }
    }
}

impl OtherRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let path = |rule: &String| match rule.strip_suffix('*') {
            Some(prefix) => info.path.starts_with(prefix),
            None => *rule == info.path,
        };
        has(&self.verbs, &info.verb) && self.paths.iter().any(path)
    }
}

// === impl Level ===

impl Level {
    fn of(object: &Object) -> Self {
        let exempt = is_exempt(object);
        let part = if exempt { "exempt" } else { "limited" };
        let number = |path: &[&str]| object.i64_at(path).and_then(|n| u64::try_from(n).ok());
        let queuing = &["spec", "limited", "limitResponse", "queuing"];
        let size = |key: &str, default: usize| {
            let path: Vec<&str> = queuing.iter().copied().chain([key]).collect();
            number(&path).and_then(|n| usize::try_from(n).ok()).unwrap_or(default)
        };
        Level {
            name: object.name().into(),
            exempt,
            shares: number(&["spec", part, "nominalConcurrencyShares"]).unwrap_or(30),
            lendable: number(&["spec", part, "lendablePercent"]).unwrap_or(0).min(100),
            borrowing: number(&["spec", part, "borrowingLimitPercent"]),
            queuing: (object.str_at(&["spec", "limited", "limitResponse", "type"]) == "Queue").then(|| {
                Queuing {
                    // What validation allows at most is far less.
                    queues: size("queues", 64).min(100_000),
                    hand: size("handSize", 8),
                    length: size("queueLengthLimit", 50),
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn built_in() -> Schemas {
        let all: Vec<Value> = serde_json::from_str(include_str!("../bootstrap/flow_control.json")).unwrap();
        let of = |kind: &str| -> Vec<Object> {
            let made = all.iter().filter(|o| o["kind"] == kind).map(|o| {
                Object(
                    serde_json::json!({"metadata": {"name": o["name"], "uid": o["name"]}, "spec": o["spec"]}),
                )
            });
            made.collect()
        };
        Schemas::of(&of("FlowSchema"), &of("PriorityLevelConfiguration"))
    }

    #[test]
    fn requests_belong_where_upstreams_schemas_say() {
        let schemas = built_in();
        for (user, groups, method, path, schema, level) in [
            (
                "admin",
                &["system:masters", "system:authenticated"][..],
                Method::POST,
                "/api/v1/namespaces",
                "exempt",
                "exempt",
            ),
            ("x", &["system:authenticated"], Method::GET, "/healthz", "probes", "exempt"),
            ("x", &["system:authenticated"], Method::GET, "/version", "global-default", "global-default"),
            ("x", &["system:authenticated"], Method::GET, "/api/v1/pods", "global-default", "global-default"),
            (
                "system:node:a",
                &["system:nodes", "system:authenticated"],
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a",
                "system-node-high",
                "node-high",
            ),
            (
                "system:node:a",
                &["system:nodes", "system:authenticated"],
                Method::PATCH,
                "/api/v1/nodes/a/status",
                "system-node-high",
                "node-high",
            ),
            (
                "system:node:a",
                &["system:nodes", "system:authenticated"],
                Method::GET,
                "/api/v1/pods",
                "system-nodes",
                "system",
            ),
            (
                "system:kube-scheduler",
                &["system:authenticated"],
                Method::GET,
                "/api/v1/pods",
                "kube-scheduler",
                "workload-high",
            ),
            (
                "system:kube-scheduler",
                &["system:authenticated"],
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/s",
                "system-leader-election",
                "leader-election",
            ),
            (
                "system:serviceaccount:kube-system:job-controller",
                &["system:serviceaccounts", "system:authenticated"],
                Method::GET,
                "/api/v1/pods",
                "kube-system-service-accounts",
                "workload-high",
            ),
            (
                "system:serviceaccount:team:x",
                &["system:serviceaccounts", "system:authenticated"],
                Method::GET,
                "/api/v1/pods",
                "service-accounts",
                "workload-low",
            ),
            ("nobody", &[], Method::GET, "/api/v1/pods", "catch-all", "catch-all"),
        ] {
            let user = User {
                name: user.to_owned(),
                groups: groups.iter().map(|g| (*g).to_owned()).collect(),
                ..User::default()
            };
            let flow = schemas.classify(&user, &crate::request::parse(&method, path, ""));
            assert_eq!((&*flow.schema, &*flow.level), (schema, level), "{} {method} {path}", user.name);
        }
    }

    #[test]
    fn flows_are_users_or_namespaces() {
        let schemas = built_in();
        let flow = |user: &str, path: &str| {
            let groups = vec!["system:authenticated".to_owned()];
            let user = User { name: user.to_owned(), groups, ..User::default() };
            schemas.classify(&user, &crate::request::parse(&Method::GET, path, "")).hash
        };
        let (a, b) = ("/api/v1/namespaces/a/pods", "/api/v1/namespaces/b/pods");
        assert_eq!(flow("x", a), flow("x", b));
        assert_ne!(flow("x", a), flow("y", a));
        let scheduler = "system:kube-scheduler";
        assert_ne!(flow(scheduler, a), flow(scheduler, b));
    }

    #[test]
    fn levels_share_the_servers_seats_as_upstream() {
        let seats: HashMap<String, (u32, u32)> =
            built_in().levels(600).into_iter().map(|l| (l.name.to_string(), (l.nominal, l.kept))).collect();
        for (level, nominal, kept) in [
            ("exempt", 0, 0),
            ("system", 74, 50),
            ("node-high", 98, 73),
            ("leader-election", 25, 25),
            ("workload-high", 98, 49),
            ("workload-low", 245, 24),
            ("global-default", 49, 24),
            ("catch-all", 13, 13),
        ] {
            assert_eq!(seats[level], (nominal, kept), "{level}");
        }
        assert!(built_in().levels(7).iter().map(|l| l.kept).sum::<u32>() <= 7 + 8);
    }

    #[test]
    fn what_everything_rests_on_is_there_without_its_objects() {
        let schemas = Schemas::of(&[], &[]);
        let names: Vec<_> = schemas.levels(10).into_iter().map(|l| l.name.to_string()).collect();
        assert_eq!(names, [EXEMPT, CATCH_ALL]);
        let info = crate::request::parse(&Method::GET, "/api/v1/pods", "");
        assert_eq!(&*schemas.classify(&User::default(), &info).level, CATCH_ALL);
    }
}
