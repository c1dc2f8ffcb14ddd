//! Who asked a cluster for what, from its log of requests: only the administrator may have been an administrator.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;

use anyhow::{Result, ensure};

/// The filter by which a cluster logs every request.
pub(super) const LOG: &str = "warn,coracle_apiserver::requests=debug";

/// How the log marks a request.
const MARK: &str = " coracle_apiserver::requests: ";

/// The user of the kubeconfig that the suite and kubectl have.
const ADMIN: &str = "kubernetes-admin";

/// The programs that are ours, by what they say in `User-Agent`.
const OURS: [&str; 6] =
    ["coracle", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet"];

/// One that asks. The derived order is that of the table: administrators first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Account {
    /// Not a member of `system:masters`, neither itself nor as whom it acts.
    ordinary: bool,
    user: String,
    /// Whom it impersonates.
    acts_as: String,
    /// What its `User-Agent` begins with; empty where there was none.
    program: String,
}

/// How often each account asked.
#[derive(Debug, Default)]
pub struct Accounts(BTreeMap<Account, u64>);

/// Whether a line of a cluster's log tells of a request.
pub(super) fn is_request(line: &[u8]) -> bool {
    // Time, level, and what the line is about.
    line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(2) == Some(MARK.trim().as_bytes())
}

// === impl Accounts ===

impl Accounts {
    /// Gathers the requests that a log tells of.
    pub fn read(log: impl BufRead) -> Result<Self> {
        let mut accounts = Accounts::default();
        for line in log.split(b'\n') {
            let line = line?;
            if is_request(&line)
                && let Some((_, fields)) = String::from_utf8_lossy(&line).split_once(MARK)
            {
                *accounts.0.entry(Account::of(&fields_of(fields))).or_default() += 1;
            }
        }
        Ok(accounts)
    }

    /// Fails by name where anybody but the administrator was one, or where a program of ours was the administrator.
    pub fn judge(&self) -> Result<()> {
        ensure!(!self.0.is_empty(), "the cluster's log tells of no request");
        let wrong: Vec<String> =
            self.0.keys().filter(|account| account.is_wrong()).map(ToString::to_string).collect();
        ensure!(wrong.is_empty(), "administrators that must be none: {}", wrong.join(", "));
        Ok(())
    }
}

impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, masters) = self.0.iter().fold((0, 0), |(all, masters), (account, &count)| {
            (all + count, masters + if account.ordinary { 0 } else { count })
        });
        writeln!(f, "{all} requests, {masters} of them with system:masters")?;
        for (account, count) in &self.0 {
            let masters = if account.ordinary { "" } else { "system:masters" };
            writeln!(f, "{count:>9}  {masters:14}  {account}")?;
        }
        Ok(())
    }
}

// === impl Account ===

impl Account {
    fn of(fields: &BTreeMap<&str, String>) -> Self {
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        let ordinary = field("masters") == "false";
        // Accounts of administrators are told one by one.
        let name = |user: &str| if ordinary { kind_of(user) } else { user.to_owned() };
        Account {
            ordinary,
            user: name(field("user")),
            acts_as: name(field("acts_as")),
            program: field("agent").split(['/', ' ']).next().unwrap_or_default().to_owned(),
        }
    }

    fn is_wrong(&self) -> bool {
        // Go's clients all say what they are; who does not is one of Rust's, as ours are.
        let ours = self.program.is_empty() || OURS.contains(&&*self.program);
        !self.ordinary && (self.user != ADMIN || ours)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.user)?;
        if !self.acts_as.is_empty() {
            write!(f, " as {}", self.acts_as)?;
        }
        write!(f, " by {}", if self.program.is_empty() { "no program" } else { &self.program })
    }
}

/// The user, or what all users of its kind have in common where tests invent them.
fn kind_of(user: &str) -> String {
    let parts: Vec<&str> = user.split(':').collect();
    match parts[..] {
        ["system", "serviceaccount", namespace, _] if namespace != "kube-system" => {
            "system:serviceaccount:* (beyond kube-system)".to_owned()
        }
        _ => user.to_owned(),
    }
}

/// `user="a" masters=true`, as the log writes it: what is in quotes is text, with a backslash before each quote and backslash.
fn fields_of(mut text: &str) -> BTreeMap<&str, String> {
    let mut fields = BTreeMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let mut value = String::new();
        let mut rest = rest.chars();
        let quoted = rest.as_str().starts_with('"');
        if quoted {
            rest.next();
        }
        while let Some(c) = rest.next() {
            match c {
                '\\' if quoted => value.extend(rest.next()),
                '"' if quoted => break,
                ' ' if !quoted => break,
                c => value.push(c),
            }
        }
        fields.insert(name.trim_start(), value);
        text = rest.as_str();
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
2026-12-01T09:04:56.000001Z DEBUG coracle_apiserver::requests: user="kubernetes-admin" masters=true agent="e2e.test/v1.36.3 (linux/amd64) kubernetes/abc -- [sig-x] says \"masters=false\"" verb="get" path="/api"
2026-12-01T09:04:56.000002Z DEBUG coracle_apiserver::requests: user="kubernetes-admin" acts_as="jane" masters=true agent="kubectl/v1.36.3" verb="get" path="/api"
2026-12-01T09:04:56.000003Z DEBUG coracle_apiserver::requests: user="system:serviceaccount:kube-system:job-controller" masters=false agent="kube-controller-manager" verb="list" path="/"
2026-12-01T09:04:56.000004Z DEBUG coracle_apiserver::requests: user="system:serviceaccount:e2e-1:default" masters=false verb="list" path="/"
2026-12-01T09:04:56.000004Z DEBUG coracle_apiserver::requests: user="system:serviceaccount:e2e-2:x" masters=false verb="list" path="/"
2026-12-01T09:04:56.000005Z  WARN coracle_apiserver::webhook: said coracle_apiserver::requests: user="mallory" masters=true
"#;

    fn read(more: &str) -> Accounts {
        Accounts::read(format!("{GOOD}{more}\n").as_bytes()).unwrap()
    }

    #[test]
    fn who_asks_is_counted() {
        let accounts = read("");
        accounts.judge().unwrap();
        assert_eq!(
            accounts.to_string(),
            "5 requests, 2 of them with system:masters\n\
             \x20       1  system:masters  kubernetes-admin by e2e.test\n\
             \x20       1  system:masters  kubernetes-admin as jane by kubectl\n\
             \x20       2                  system:serviceaccount:* (beyond kube-system) by no program\n\
             \x20       1                  system:serviceaccount:kube-system:job-controller by kube-controller-manager\n"
        );
    }

    #[test]
    fn planted_administrators_are_found() {
        for (user, agent, found) in [
            (
                "system:kube-scheduler",
                r#" agent="kube-scheduler""#,
                "system:kube-scheduler by kube-scheduler",
            ),
            ("jane", r#" agent="kubectl/v1.36.3""#, "jane by kubectl"),
            ("kubernetes-admin", r#" agent="kubelet/v1.36.0+coracle-0.1.0""#, "kubernetes-admin by kubelet"),
            ("kubernetes-admin", r#" agent="coracle""#, "kubernetes-admin by coracle"),
            ("kubernetes-admin", "", "kubernetes-admin by no program"),
            (
                "system:serviceaccount:e2e-1:default",
                r#" agent="curl/8""#,
                "system:serviceaccount:e2e-1:default by curl",
            ),
        ] {
            let line = format!(
                "now  DEBUG coracle_apiserver::requests: user={user:?} masters=true{agent} verb=\"get\""
            );
            let why = read(&line).judge().unwrap_err().to_string();
            assert_eq!(why, format!("administrators that must be none: {found}"));
        }
        assert!(Accounts::default().judge().is_err(), "a log without requests proves nothing");
    }
}
