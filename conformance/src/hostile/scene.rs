//! One attack being played, and how its place is left.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::arena::{Arena, EVIL};
use super::book::{Ask, Attack, By, How};
use super::calls;
use super::cost::{Meter, seconds};
use super::judge::{After, Limits};
use super::pods;
use crate::acceptance::leftovers::Traces;
use crate::wire::{Answer, Connection, Endpoint, JSON};

pub(super) struct Scene<'a> {
    pub(super) arena: &'a Arena,
    /// The attack's own, or the one that attacks share which make nothing.
    pub(super) namespace: String,
    own: bool,
}

/// Between looks at what has no event here.
const LOOK: Duration = Duration::from_millis(250);

// === impl Scene ===

impl<'a> Scene<'a> {
    pub(super) async fn set(arena: &'a Arena, attack: &Attack) -> Result<Scene<'a>> {
        let level = match attack.how {
            How::Asks(_) | How::Peer(_) => None,
            How::Pod(pod) => Some(pod.level),
            How::Tenant(_) => Some("baseline"),
        };
        let Some(level) = level else {
            return Ok(Scene { arena, namespace: EVIL.to_owned(), own: false });
        };
        let namespace = own_namespace(attack);
        arena.space(&namespace, level).await.with_context(|| format!("making namespace {namespace}"))?;
        Ok(Scene { arena, namespace, own: true })
    }

    pub(super) async fn play(&self, attack: &Attack) -> Result<String> {
        match attack.how {
            How::Asks(asks) => self.asks(asks).await,
            How::Pod(pod) => pods::play(self, pod).await,
            How::Peer(program) | How::Tenant(program) => program(self).await,
        }
    }

    /// More in the whole book than in the quick one.
    pub(super) fn amount(&self, whole: usize, quick: usize) -> usize {
        if self.arena.quick { quick } else { whole }
    }

    /// How long attackers keep what they have got.
    pub(super) async fn hold(&self) {
        tokio::time::sleep(Duration::from_secs(if self.arena.quick { 1 } else { 15 })).await;
    }

    pub(super) fn endpoint(&self, by: By) -> Result<Endpoint> {
        self.arena.endpoint(by)
    }

    pub(super) async fn connect(&self, by: By) -> Result<Connection> {
        self.endpoint(by)?.connect().await
    }

    /// The text with the names of this scene.
    pub(super) fn fill(&self, text: &str) -> String {
        let text = text
            .replace("{ns}", &self.namespace)
            .replace("{canary}", &self.arena.canary.dir.display().to_string())
            .replace("{canary-pid}", &self.arena.canary.pid().to_string())
            .replace("{pki}", &self.arena.layout.pki().display().to_string())
            .replace("{call}", &self.arena.call);
        calls::numbered(text)
    }

    /// A path in this scene's namespace.
    pub(super) fn path(&self, plural: &str) -> String {
        format!("/api/v1/namespaces/{}/{plural}", self.namespace)
    }

    /// Sends a request and takes its whole answer, in which nothing may be that attackers must not see.
    pub(super) async fn send(
        &self,
        connection: &mut Connection,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let headers =
            [("accept".to_owned(), JSON.to_owned()), ("content-type".to_owned(), content_type.to_owned())];
        let answer = connection.exchange(method, path, &headers, body.into()).await?;
        self.look_at(&answer)?;
        Ok(answer)
    }

    fn look_at(&self, answer: &Answer) -> Result<()> {
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(!self.arena.canary.is_in(&text), "an answer holds what its reader must not see");
        Ok(())
    }

    async fn asks(&self, asks: &[Ask]) -> Result<String> {
        let (mut codes, mut wrong) = (vec![], vec![]);
        for ask in asks {
            let mut connection = self.connect(ask.by).await?;
            let headers: Vec<(String, String)> =
                ask.headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let path = self.fill(ask.path);
            let answer = connection
                .exchange(ask.method.parse()?, &path, &headers, Bytes::from(self.fill(ask.body)))
                .await
                .with_context(|| format!("{} {path}", ask.method))?;
            self.look_at(&answer)?;
            if !ask.codes.contains(&answer.code) {
                let said = String::from_utf8_lossy(&answer.body).chars().take(300).collect::<String>();
                wrong.push(format!("{} {path} as {}: {} {said}", ask.method, ask.by, answer.code));
            }
            codes.push(answer.code);
        }
        ensure!(wrong.is_empty(), "{} of {}: {}", wrong.len(), asks.len(), wrong.join("; "));
        Ok(tally(codes.iter().map(u16::to_string)))
    }

    /// Removes what the attack has made, and waits until everything is as before, at most as long as the limits say.
    pub(super) async fn clear(self, meter: &Meter, limits: &Limits) -> After {
        let begun = Instant::now();
        let mut after = After::default();
        let mut admin = self.arena.admin.connect().await.ok();
        if self.own
            && let Some(admin) = &mut admin
        {
            // At once: a namespace waits for a while before it is emptied.
            let _ = admin.call(Method::DELETE, &self.path("pods"), JSON, Bytes::new()).await;
            let path = format!("/api/v1/namespaces/{}", self.namespace);
            let _ = admin.call(Method::DELETE, &path, JSON, Bytes::new()).await;
        }
        // The quick book waits for all namespaces together, when it is over.
        let waits = self.own && !self.arena.quick;
        loop {
            let now = meter.now();
            after.rss_left = now.rss.saturating_sub(meter.rss);
            after.descriptors_left = now.descriptors.saturating_sub(meter.descriptors);
            after.left = match Traces::take(&self.arena.layout) {
                Ok(traces) => traces.beyond(&meter.traces),
                Err(error) => vec![format!("what is left cannot be told: {error:#}")],
            };
            if waits {
                after.left.extend(terminating(admin.as_mut(), &self.namespace).await);
            }
            let back = limits.is_back(&after);
            after.seconds = seconds(begun);
            if back || begun.elapsed() > limits.back_within {
                return after;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The namespace while it is there, and why.
async fn terminating(admin: Option<&mut Connection>, namespace: &str) -> Option<String> {
    let gone = format!("namespace {namespace}: the API server cannot be asked");
    let Some(admin) = admin else { return Some(gone) };
    let path = format!("/api/v1/namespaces/{namespace}");
    let Ok(answer) = admin.exchange(Method::GET, &path, &[], Bytes::new()).await else { return Some(gone) };
    if answer.code == 404 {
        return None;
    }
    let found: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let why = found["status"]["conditions"].as_array().into_iter().flatten();
    let why: Vec<&str> =
        why.filter(|c| c["status"] == "True").filter_map(|c| c["message"].as_str()).collect();
    Some(format!("namespace {namespace} ({}) {}", found["status"]["phase"], why.join("; ")))
}

/// Waits until the namespaces of all attacks are gone; those that are not.
pub(super) async fn all_gone(arena: &Arena, attacks: &[Attack], within: Duration) -> Result<Vec<String>> {
    let begun = Instant::now();
    let mut admin = arena.admin.connect().await?;
    let mut left = vec![];
    for attack in attacks.iter().filter(|a| matches!(a.how, How::Pod(_) | How::Tenant(_))) {
        let namespace = own_namespace(attack);
        while let Some(why) = terminating(Some(&mut admin), &namespace).await {
            if begun.elapsed() > within {
                left.push(why);
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(left)
}

fn own_namespace(attack: &Attack) -> String {
    let name: String = attack.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("evil-{}", name.to_lowercase().trim_matches('-'))
}

/// Equal words counted: `403 x12, 404`.
pub(super) fn tally(words: impl IntoIterator<Item = String>) -> String {
    let mut counted: Vec<(String, usize)> = vec![];
    for word in words {
        match counted.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => counted.push((word, 1)),
        }
    }
    let said = counted.into_iter().map(|(word, n)| if n == 1 { word } else { format!("{word} x{n}") });
    said.collect::<Vec<_>>().join(", ")
}

/// One of many addresses of this machine's that attackers come from.
pub(super) fn address(n: usize) -> IpAddr {
    let [a, b] = u16::try_from(n % 60_000).unwrap_or_default().to_be_bytes();
    IpAddr::from([127, 66, a, b.max(1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_words_are_counted() {
        assert_eq!(tally(["403", "404", "403"].map(str::to_owned)), "403 x2, 404");
        assert_eq!(tally([]), "");
    }
}
