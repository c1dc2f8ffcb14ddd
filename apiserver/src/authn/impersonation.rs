//! Impersonation: who asks to act as another, as `Impersonate-*` headers say, and whether it may.
//!
//! Upstream's constrained impersonation: the modes are tried in order, the first that is allowed gives the user. All but the
//! last ask twice: whether the caller may act as that user in that mode, and whether it may do what is asked while it does.
//! A header that cannot be honoured is refused: to run as the caller instead would give more than was asked for.

use std::collections::BTreeMap;
use std::fmt::Write;

use coracle_api::names::{
    GROUP_AUTHENTICATED, GROUP_MASTERS, GROUP_NODES, GROUP_SERVICE_ACCOUNTS, GROUP_UNAUTHENTICATED,
    USER_ANONYMOUS,
};
use coracle_api::query::percent_decoded;
use http::{HeaderMap, HeaderValue};

use super::User;
use crate::authz::{Asked, Decision, refused};
use crate::field_names::{dns1123_label, dns1123_subdomain};
use crate::status::{Result, Status};

const PREFIX: &str = "impersonate-";
const EXTRA: &str = "extra-";
/// The group of `uids` and `userextras`, and in constrained modes of `users`, too.
const GROUP: &str = "authentication.k8s.io";
const NODE_OF_ACCOUNT: &str = "authentication.kubernetes.io/node-name";

/// Answers whether a user may do something.
type May<'a> = dyn Fn(&User, &Asked<'_>) -> Decision + 'a;

/// Upstream's ways to act as another, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// An account as the node that its pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Anybody who is neither node nor account.
    UserInfo,
    /// The verb `impersonate` alone, whatever is done then.
    Legacy,
}

const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

/// Whom a request is to be served for: `None` is the caller itself. Refused are headers that make no user (400) and users
/// that the caller may not act as (403).
pub fn user(caller: &User, asked: &Asked<'_>, headers: &HeaderMap, may: &May<'_>) -> Result<Option<User>> {
    let Some(wanted) = wanted(headers)? else { return Ok(None) };
    let mut first = None;
    for mode in MODES.into_iter().filter(|mode| mode.applies(caller, &wanted)) {
        match mode.check(caller, &wanted, asked, may) {
            Ok(()) => return Ok(Some(mode.completed(wanted))),
            Err(refusal) => {
                first.get_or_insert(refusal);
            }
        }
    }
    Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// The user that headers name, with nothing added.
fn wanted(headers: &HeaderMap) -> Result<Option<User>> {
    let mut user = User::default();
    let mut asks = false;
    for (name, value) in headers {
        let Some(part) = name.as_str().strip_prefix(PREFIX) else { continue };
        let value = text(name.as_str(), value)?;
        asks = true;
        match part {
            "user" => set_once(&mut user.name, value, "Impersonate-User")?,
            "uid" => set_once(&mut user.uid, value, "Impersonate-Uid")?,
            "group" => user.groups.push(value),
            _ => match part.strip_prefix(EXTRA) {
                Some(key) => {
                    let key = percent_decoded(key).into_owned();
                    user.extra.entry(key).or_default().push(value);
                }
                None => return Err(Status::bad_request(format!("unknown impersonation header {name:?}"))),
            },
        }
    }
    match (asks, user.name.is_empty()) {
        (false, _) => Ok(None),
        (true, true) => {
            let user = go_syntax(&user);
            Err(Status::bad_request(format!("requested {user} without impersonating a user name")))
        }
        (true, false) => Ok(Some(user)),
    }
}

/// Values are UTF-8, as upstream's clients send them.
fn text(name: &str, value: &HeaderValue) -> Result<String> {
    let text = std::str::from_utf8(value.as_bytes());
    text.map(str::to_owned)
        .map_err(|_| Status::bad_request(format!("the value of header {name:?} is not UTF-8")))
}

fn set_once(slot: &mut String, value: String, name: &str) -> Result<()> {
    if !slot.is_empty() && *slot != value {
        return Err(Status::bad_request(format!("more than one value of header {name:?}")));
    }
    *slot = value;
    Ok(())
}

/// As upstream's messages print the user it was asked for.
fn go_syntax(user: &User) -> String {
    let strings = |list: &[String]| list.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
    let groups = match &user.groups[..] {
        [] => "[]string(nil)".to_owned(),
        groups => format!("[]string{{{}}}", strings(groups)),
    };
    let extra = |extra: &BTreeMap<String, Vec<String>>| {
        let mut out = String::new();
        for (key, values) in extra {
            let comma = if out.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(out, "{comma}{key:?}:[]string{{{}}}", strings(values));
        }
        format!("map[string][]string{{{out}}}")
    };
    let extra =
        if user.extra.is_empty() { "map[string][]string(nil)".to_owned() } else { extra(&user.extra) };
    format!("&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}", user.name, user.uid)
}

/// Namespace and name of the service account that a user name means.
fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (dns1123_label(namespace).is_empty() && dns1123_subdomain(name).is_empty()).then_some((namespace, name))
}

/// The node that a user name means.
fn node(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| dns1123_subdomain(name).is_empty())
}

// === impl Mode ===

impl Mode {
    /// As verbs name it.
    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "",
        }
    }

    fn applies(self, caller: &User, wanted: &User) -> bool {
        let name_only = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account_wanted) = (node(&wanted.name), account(&wanted.name));
        match self {
            Mode::AssociatedNode => {
                let own = caller.extra.get(NODE_OF_ACCOUNT).map(Vec::as_slice);
                let is_own = matches!((own, node), (Some([own]), Some(node)) if own == node);
                name_only && account(&caller.name).is_some() && is_own
            }
            Mode::ArbitraryNode => name_only && node.is_some(),
            Mode::ServiceAccount => name_only && account_wanted.is_some(),
            Mode::UserInfo => node.is_none() && account_wanted.is_none(),
            Mode::Legacy => true,
        }
    }

    /// Whether the caller may act as `wanted`, and in it do what is asked.
    fn check(self, caller: &User, wanted: &User, asked: &Asked<'_>, may: &May<'_>) -> Result<()> {
        let permitted = |asked: &Asked<'_>| match may(caller, asked) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) => Err(refused(caller, asked, &why)),
        };
        let (verb, group) = match self {
            Mode::Legacy => ("impersonate".to_owned(), ""),
            _ => (format!("impersonate:{}", self.name()), GROUP),
        };
        if self != Mode::Legacy {
            let on = format!("impersonate-on:{}:{}", self.name(), asked.verb);
            permitted(&Asked { verb: &on, ..*asked })?;
        }
        let base = Asked { verb: &verb, group, version: "v1", ..Asked::RESOURCE };
        permitted(&self.subject(&wanted.name, base))?;
        let others = Asked { group: GROUP, ..base };
        if !wanted.uid.is_empty() {
            permitted(&Asked { resource: "uids", name: &wanted.uid, ..others })?;
        }
        let groups = Asked { resource: "groups", ..base };
        if let Some((name, why)) = self.impossible_group(&wanted.groups) {
            return Err(refused(caller, &Asked { name, ..groups }, why));
        }
        wanted.groups.iter().try_for_each(|name| permitted(&Asked { name, ..groups }))?;
        let extras = Asked { resource: "userextras", ..others };
        if let Some(why) = self.impossible_extra(&wanted.extra) {
            return Err(refused(caller, &extras, &why));
        }
        let mut each = wanted.extra.iter().flat_map(|(key, values)| {
            values.iter().map(move |name| Asked { subresource: key, name, ..extras })
        });
        each.try_for_each(|asked| permitted(&asked))
    }

    /// What the caller must be allowed to impersonate for the name alone.
    fn subject<'a>(self, user: &'a str, base: Asked<'a>) -> Asked<'a> {
        match (account(user), node(user)) {
            (Some((namespace, name)), _) => Asked { resource: "serviceaccounts", namespace, name, ..base },
            // Which node does not matter where it is the caller's own.
            (_, Some(_)) if self == Mode::AssociatedNode => Asked { resource: "nodes", name: "*", ..base },
            (_, Some(name)) if self != Mode::Legacy => Asked { resource: "nodes", name, ..base },
            _ => Asked { resource: "users", name: user, ..base },
        }
    }

    /// A group that no constrained mode gives.
    fn impossible_group(self, groups: &[String]) -> Option<(&'static str, &'static str)> {
        let has = |group: &str| self != Mode::Legacy && groups.iter().any(|g| g == group);
        if has("") {
            return Some(("", "impersonating the empty string group is not allowed"));
        }
        let why = "impersonating the system:masters group is not allowed";
        has(GROUP_MASTERS).then_some((GROUP_MASTERS, why))
    }

    /// Why no constrained mode gives these extra values.
    fn impossible_extra(self, extra: &BTreeMap<String, Vec<String>>) -> Option<String> {
        if self == Mode::Legacy {
            return None;
        }
        extra.iter().find_map(|(key, values)| {
            if key.is_empty() {
                return Some("impersonating the empty string key in extra is not allowed".to_owned());
            }
            if let Some(why) = no_domain_path(key) {
                return Some(format!(
                    "impersonating an invalid key in extra is not allowed: extra.key: {why}"
                ));
            }
            if *key != key.to_lowercase() {
                return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
            }
            let empty = values.iter().any(String::is_empty);
            empty.then(|| "impersonating the empty string value in extra is not allowed".to_owned())
        })
    }

    /// The user with the groups that it has in any case.
    fn completed(self, mut user: User) -> User {
        if user.groups.is_empty() {
            if let Some((namespace, _)) = account(&user.name) {
                let own = format!("{GROUP_SERVICE_ACCOUNTS}:{namespace}");
                user.groups = vec![GROUP_SERVICE_ACCOUNTS.to_owned(), own];
            } else if self != Mode::Legacy && node(&user.name).is_some() {
                user.groups = vec![GROUP_NODES.to_owned()];
            }
        }
        let group = match user.name == USER_ANONYMOUS || user.in_group(GROUP_UNAUTHENTICATED) {
            true => GROUP_UNAUTHENTICATED,
            false => GROUP_AUTHENTICATED,
        };
        if !user.in_group(group) {
            user.groups.push(group.to_owned());
        }
        user
    }
}

/// Why a key is no `example.com/path`.
fn no_domain_path(key: &str) -> Option<String> {
    let invalid = |value: &str, why: &str| Some(format!("Invalid value: {value:?}: {why}"));
    let Some((domain, path)) = key.split_once('/').filter(|(d, p)| !d.is_empty() && !p.is_empty()) else {
        return invalid(key, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    if let [why, ..] = &dns1123_subdomain(domain)[..] {
        return invalid(domain, why);
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    match path.bytes().all(allowed) {
        true => None,
        false => {
            invalid(path, "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: http::HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    /// What was asked of the authorizer, and the user or the refusal.
    fn run(caller: &User, lines: &[(&str, &[u8])], allowed: &[&str]) -> (Vec<String>, Result<Option<User>>) {
        let log = std::cell::RefCell::new(vec![]);
        let may = |_: &User, asked: &Asked<'_>| {
            let resource = match asked.subresource {
                "" => format!("{}.{}", asked.resource, asked.group),
                sub => format!("{}/{sub}.{}", asked.resource, asked.group),
            };
            let line = format!("{} {resource} {}/{}", asked.verb, asked.namespace, asked.name);
            let yes = allowed.contains(&&*line) || allowed.contains(&asked.verb);
            log.borrow_mut().push(line);
            if yes { Decision::Allow(String::new()) } else { Decision::Deny(String::new()) }
        };
        let asked = Asked { verb: "list", resource: "pods", namespace: "n", ..Asked::RESOURCE };
        let outcome = user(caller, &asked, &headers(lines), &may);
        (log.into_inner(), outcome)
    }

    #[test]
    fn a_header_that_cannot_be_honoured_is_refused() {
        let caller = User::component("admin", &[]);
        for (lines, why) in [
            (
                &[("impersonate-uid", &b"7"[..])][..],
                "requested &user.DefaultInfo{Name:\"\", UID:\"7\", Groups:[]string(nil), \
                 Extra:map[string][]string(nil)} without impersonating a user name",
            ),
            (
                &[("impersonate-extra-k", b"v"), ("impersonate-group", b"g")],
                "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"g\"}, \
                 Extra:map[string][]string{\"k\":[]string{\"v\"}}} without impersonating a user name",
            ),
            (
                &[("impersonate-user", b"")],
                "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string(nil), \
                 Extra:map[string][]string(nil)} without impersonating a user name",
            ),
            (&[("impersonate-user", b"jan\xe9")], "the value of header \"impersonate-user\" is not UTF-8"),
            (
                &[("impersonate-user", b"j"), ("impersonate-group", b"\xff")],
                "the value of header \"impersonate-group\" is not UTF-8",
            ),
            (
                &[("impersonate-user", b"a"), ("impersonate-user", b"b")],
                "more than one value of header \"Impersonate-User\"",
            ),
            (
                &[("impersonate-user", b"a"), ("impersonate-role", b"b")],
                "unknown impersonation header \"impersonate-role\"",
            ),
        ] {
            let (asked, outcome) = run(&caller, lines, &["impersonate", "impersonate:user-info"]);
            let failure = outcome.unwrap_err();
            assert_eq!((failure.code(), failure.to_string().as_str()), (400, why));
            assert!(asked.is_empty(), "{asked:?}");
        }
        assert!(matches!(run(&caller, &[("accept", b"x")], &[]).1, Ok(None)));
    }

    #[test]
    fn each_part_of_a_user_is_authorised_and_passed_on() {
        let caller = User::component("admin", &[]);
        let lines: &[(&str, &[u8])] = &[
            ("impersonate-user", "jané".as_bytes()),
            ("impersonate-uid", b"7"),
            ("impersonate-group", b"g"),
            ("impersonate-extra-example.org%2fscopes", b"s"),
            ("impersonate-extra-example.org%2fscopes", b"t"),
        ];
        let every = [
            "impersonate users. /jané",
            "impersonate uids.authentication.k8s.io /7",
            "impersonate groups. /g",
            "impersonate userextras/example.org/scopes.authentication.k8s.io /s",
            "impersonate userextras/example.org/scopes.authentication.k8s.io /t",
        ];
        let (asked, outcome) = run(&caller, lines, &every);
        assert_eq!(asked[0], "impersonate-on:user-info:list pods. n/");
        assert_eq!(asked[1..], every);
        let jane = outcome.unwrap().unwrap();
        let (name, uid) = (jane.name.as_str(), jane.uid.as_str());
        assert_eq!(
            (name, uid, &jane.groups[..]),
            ("jané", "7", &["g".to_owned(), GROUP_AUTHENTICATED.to_owned()][..])
        );
        assert_eq!(jane.extra["example.org/scopes"], ["s", "t"]);
        for missing in &every {
            let rest: Vec<&str> = every.iter().copied().filter(|line| line != missing).collect();
            let (_, outcome) = run(&caller, lines, &rest);
            assert_eq!(outcome.unwrap_err().code(), 403, "without {missing}");
        }
    }

    #[test]
    fn groups_that_go_without_saying() {
        let caller = User::component("admin", &[]);
        let legacy = &["impersonate"][..];
        for (lines, allowed, groups) in [
            (&[("impersonate-user", &b"jane"[..])][..], legacy, &[GROUP_AUTHENTICATED][..]),
            (&[("impersonate-user", b"system:anonymous")], legacy, &[GROUP_UNAUTHENTICATED]),
            (
                &[("impersonate-user", b"jane"), ("impersonate-group", b"system:unauthenticated")],
                legacy,
                &[GROUP_UNAUTHENTICATED],
            ),
            (
                &[("impersonate-user", b"system:anonymous"), ("impersonate-group", b"system:authenticated")],
                legacy,
                &[GROUP_AUTHENTICATED, GROUP_UNAUTHENTICATED],
            ),
            (
                &[("impersonate-user", b"system:serviceaccount:n:a")],
                legacy,
                &[GROUP_SERVICE_ACCOUNTS, "system:serviceaccounts:n", GROUP_AUTHENTICATED],
            ),
            // No account: it has one part too many.
            (&[("impersonate-user", b"system:serviceaccount:n:a:b")], legacy, &[GROUP_AUTHENTICATED]),
            (&[("impersonate-user", b"system:node:n1")], legacy, &[GROUP_AUTHENTICATED]),
            (
                &[("impersonate-user", b"system:node:n1")],
                &["impersonate-on:arbitrary-node:list", "impersonate:arbitrary-node"],
                &[GROUP_NODES, GROUP_AUTHENTICATED],
            ),
        ] {
            let (_, outcome) = run(&caller, lines, allowed);
            assert_eq!(outcome.unwrap().unwrap().groups, groups, "{lines:?}");
        }
    }

    #[test]
    fn constrained_modes_take_both_permissions_and_give_no_masters() {
        let plain = User::component("admin", &[]);
        let mut agent = User::component("system:serviceaccount:n:agent", &[]);
        agent.extra.insert(NODE_OF_ACCOUNT.to_owned(), vec!["n1".to_owned()]);
        let jane: &[(&str, &[u8])] = &[("impersonate-user", b"jane")];
        let masters: &[(&str, &[u8])] =
            &[("impersonate-user", b"jane"), ("impersonate-group", b"system:masters")];
        let own: &[(&str, &[u8])] = &[("impersonate-user", b"system:node:n1")];
        let other: &[(&str, &[u8])] = &[("impersonate-user", b"system:node:n2")];
        let (on, user) = ("impersonate-on:user-info:list", "impersonate:user-info");
        let (node_on, node_user) = ("impersonate-on:associated-node:list", "impersonate:associated-node");
        for (caller, lines, allowed, code) in [
            (&plain, jane, &[on, user][..], 200),
            (&plain, jane, &[on], 403),
            (&plain, jane, &[user], 403),
            (&plain, masters, &[on, user], 403),
            (&plain, masters, &["impersonate"], 200),
            (&agent, own, &[node_on, node_user], 200),
            (&agent, own, &[node_on, "impersonate:associated-node nodes.authentication.k8s.io /*"], 200),
            (&agent, other, &[node_on, node_user], 403),
            (&plain, own, &[node_on, node_user], 403),
        ] {
            let outcome = run(caller, lines, allowed).1;
            assert_eq!(
                outcome.map_or_else(|e| e.code(), |_| 200),
                code,
                "{} {lines:?} {allowed:?}",
                caller.name
            );
        }
        // Who may not learns of the first mode that was tried.
        let why = run(&plain, jane, &[]).1.unwrap_err().to_string();
        assert_eq!(
            why,
            "pods is forbidden: User \"admin\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" \
             in the namespace \"n\""
        );
    }
}
