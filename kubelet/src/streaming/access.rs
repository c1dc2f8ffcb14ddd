//! Who may use the node's endpoints: client certificates and tokens, judged by the API server as upstream's kubelet has
//! them judged (`TokenReview`, `SubjectAccessReview` on `nodes/<subresource>`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use coracle_api::der::attributes_of_name;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use rustls::time_provider::TimeProvider;

/// Name and groups of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    pub name: String,
    pub groups: Vec<String>,
}

/// What the certificate of a connection says, which TLS has verified when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub caller: Caller,
    /// Unix seconds.
    not_after: i64,
}

/// Who asks, for which verb, on which part of the node.
type Question = (Caller, &'static str, &'static str);

/// Judges callers, and remembers the verdicts for a short while.
pub(super) struct Access {
    client: Client,
    node: String,
    time: Arc<dyn TimeProvider>,
    verdicts: Mutex<HashMap<Question, (bool, Instant)>>,
}

/// Upstream's cache times: an allowed verdict lives longer than a denied one.
const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const MAX_VERDICTS: usize = 1024;

// === impl Shown ===

impl Shown {
    /// CN and O of a certificate that TLS has verified.
    pub(super) fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        // The parser passes over what it does not understand, and others may not.
        if attributes_of_name(subject.as_raw()) != Some(subject.iter_attributes().count()) {
            return None;
        }
        let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
        let not_after = certificate.validity().not_after.timestamp();
        Some(Shown { caller: Caller { name, groups }, not_after })
    }
}

// === impl Access ===

impl Access {
    pub(super) fn new(client: Client, node: String, time: Arc<dyn TimeProvider>) -> Self {
        Access { client, node, time, verdicts: Mutex::default() }
    }

    /// Lets a request pass, or says with which status it does not.
    pub(super) async fn check(
        &self,
        certificate: Option<&Shown>,
        authorization: Option<&str>,
        method: &Method,
        path: &str,
    ) -> Result<(), (StatusCode, String)> {
        let caller = match (certificate, authorization.and_then(|a| a.strip_prefix("Bearer "))) {
            // A connection may outlive what it was opened with; a request may not, as upstream.
            (Some(shown), _) if self.is_over(shown.not_after) => {
                return Err((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()));
            }
            (Some(shown), _) => shown.caller.clone(),
            (None, Some(token)) => {
                self.by_token(token).await.ok_or((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()))?
            }
            (None, None) => return Err((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())),
        };
        let (verb, subresources) = (verb(method), subresources(path));
        for subresource in subresources {
            if self.allowed(&caller, verb, subresource).await {
                return Ok(());
            }
        }
        let message = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
            caller.name,
            subresources.join(" ")
        );
        Err((StatusCode::FORBIDDEN, message))
    }

    fn is_over(&self, not_after: i64) -> bool {
        let now = self.time.current_time().and_then(|now| i64::try_from(now.as_secs()).ok());
        now.is_none_or(|now| now > not_after)
    }

    async fn by_token(&self, token: &str) -> Option<Caller> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = api.create(&PostParams::default(), &review).await.ok()?.status?;
        let user = status.user.filter(|_| status.authenticated == Some(true))?;
        Some(Caller { name: user.username?, groups: user.groups.unwrap_or_default() })
    }

    async fn allowed(&self, caller: &Caller, verb: &'static str, subresource: &'static str) -> bool {
        let key = (caller.clone(), verb, subresource);
        let now = Instant::now();
        if let Some((allowed, until)) = self.verdicts.lock().get(&key)
            && now < *until
        {
            return *allowed;
        }
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(subresource.to_owned()),
            name: Some(self.node.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(caller.name.clone()),
            groups: Some(caller.groups.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        // Without an answer nobody passes, and nothing is remembered.
        let Ok(review) = api.create(&PostParams::default(), &review).await else { return false };
        let allowed = review.status.is_some_and(|s| s.allowed);
        let mut verdicts = self.verdicts.lock();
        if verdicts.len() >= MAX_VERDICTS {
            verdicts.clear();
        }
        verdicts.insert(key, (allowed, now + if allowed { ALLOWED_FOR } else { DENIED_FOR }));
        allowed
    }
}

/// Upstream's mapping of methods to verbs for node endpoints.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Upstream's mapping of paths to subresources of the node: any of them lets a caller pass. The finer ones come first;
/// `nodes/proxy` stands for them, too, and for all that has none of its own.
fn subresources(path: &str) -> &'static [&'static str] {
    let under =
        |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    match () {
        () if under("/stats") => &["stats"],
        () if under("/metrics") => &["metrics"],
        () if under("/logs") => &["log"],
        () if under("/healthz") => &["healthz", "proxy"],
        () if under("/pods") || under("/runningpods") => &["pods", "proxy"],
        () if under("/configz") => &["configz", "proxy"],
        () => &["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_ask_for_upstream_subresources() {
        for (path, want) in [
            ("/metrics", "metrics"),
            ("/metrics/cadvisor", "metrics"),
            ("/metrics/probes", "metrics"),
            ("/metricsx", "proxy"),
            ("/stats/summary", "stats"),
            ("/logs/", "log"),
            ("/logs/pods/x", "log"),
            ("/healthz/ping", "healthz proxy"),
            ("/pods", "pods proxy"),
            ("/pods/", "pods proxy"),
            ("/runningpods/", "pods proxy"),
            ("/configz", "configz proxy"),
            ("/configzz", "proxy"),
            ("/exec/ns/p/c", "proxy"),
            ("/containerLogs/ns/p/c", "proxy"),
            ("/", "proxy"),
        ] {
            assert_eq!(subresources(path).join(" "), want, "{path}");
        }
    }
}
