//! authentication.k8s.io: reviews of tokens and of oneself, and the making of service-account tokens.

use std::sync::Arc;

use coracle_api::{Gvk, Gvr, Object};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::Server;
use crate::authn::{Bound, Claims, Reference, User};
use crate::cluster::core;
use crate::field::FieldError;
use crate::resource::{CLUSTER, Call, Invocation, Persistence, Row};
use crate::status::{Result, Status};

const GROUP: &str = "authentication.k8s.io";
/// The lifetime that pods' projected tokens ask for, and what they get so that old clients survive a missed refresh.
const PROJECTED_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 86_400;

pub(super) const ROWS: &[Row] = &[
    Row {
        group: GROUP,
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        verbs: &["create"],
        persistence: Persistence::Computed(&WhoAmI),
        ..CLUSTER
    },
    Row {
        group: GROUP,
        kind: "TokenReview",
        plural: "tokenreviews",
        verbs: &["create"],
        persistence: Persistence::Computed(&ReviewToken),
        ..CLUSTER
    },
];

/// A user as reviews show it.
fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

struct WhoAmI;

impl Call for WhoAmI {
    fn call<'a>(&'a self, _server: &'a Arc<Server>, call: Invocation<'a>) -> BoxFuture<'a, Result<Object>> {
        async move {
            let mut answer = call.body;
            answer.set(&["metadata", "creationTimestamp"], coracle_api::time::seconds(Timestamp::now()));
            answer.set(&["status"], json!({"userInfo": user_info(call.user)}));
            Ok(answer)
        }
        .boxed()
    }
}

struct ReviewToken;

impl Call for ReviewToken {
    fn call<'a>(&'a self, server: &'a Arc<Server>, call: Invocation<'a>) -> BoxFuture<'a, Result<Object>> {
        async move {
            let mut answer = call.body;
            let token = answer.str_at(&["spec", "token"]).to_owned();
            if token.is_empty() {
                return Err(Status::bad_request("token is required for TokenReview in authentication"));
            }
            let audiences: Vec<String> = answer
                .items_at(&["spec", "audiences"])
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            let tokens = &server.access.authn.tokens;
            let status = match tokens.verify(&**server, &token, &audiences, Timestamp::now()) {
                Ok(claims) => {
                    let own = [tokens.issuer().to_owned()];
                    let wanted = if audiences.is_empty() { &own[..] } else { &audiences };
                    let both: Vec<&String> = wanted.iter().filter(|a| claims.aud.contains(a)).collect();
                    json!({"authenticated": true, "user": user_info(&claims.user()), "audiences": both})
                }
                Err(e) => match server.access.authn.known_elsewhere(&token, Timestamp::now()).await {
                    // Its audience is its own; upstream answers with none.
                    Some(Ok(user)) if audiences.is_empty() => {
                        json!({"authenticated": true, "user": user_info(&user)})
                    }
                    Some(Err(why)) => json!({"user": {}, "error": format!("invalid bearer token, {why}")}),
                    _ => json!({"user": {}, "error": e.to_string()}),
                },
            };
            answer.set(&["status"], status);
            Ok(answer)
        }
        .boxed()
    }
}

/// `serviceaccounts/token`.
pub(super) struct RequestToken;

impl Call for RequestToken {
    fn call<'a>(&'a self, server: &'a Arc<Server>, call: Invocation<'a>) -> BoxFuture<'a, Result<Object>> {
        async move { request_token(server, call, Timestamp::now()) }.boxed()
    }
}

fn request_token(server: &Server, call: Invocation<'_>, now: Timestamp) -> Result<Object> {
    let mut request = call.body;
    check_names(&request, call.namespace, call.name)?;
    let account = server.get(&core("serviceaccounts"), call.namespace, call.name)?;
    if !request.uid().is_empty() && request.uid() != account.uid() {
        let kind = Gvr::new(GROUP, "v1", "TokenRequest");
        let why = format!(
            "the UID in the token request ({}) does not match the UID of the service account ({})",
            request.uid(),
            account.uid()
        );
        return Err(Status::conflict(&kind, call.name, &why));
    }
    let tokens = &server.access.authn.tokens;
    if request.items_at(&["spec", "audiences"]).is_empty() {
        request.set(&["spec", "audiences"], json!([tokens.issuer()]));
    }
    request.set_default(&["spec", "expirationSeconds"], 3600);
    let seconds = request.i64_at(&["spec", "expirationSeconds"]).unwrap_or(3600);
    check_lifetime(seconds)?;
    let (pod, node, secret) = bound_objects(server, call.namespace, &account, &request)?;
    let audiences: Vec<String> = request
        .items_at(&["spec", "audiences"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let extends = server.config.access.extend_tokens;
    let projected =
        extends && seconds == PROJECTED_SECONDS && audiences == [tokens.issuer()] && pod.is_some();
    let at = now.as_second();
    let claims = Claims {
        aud: audiences,
        exp: at + if projected { EXTENDED_SECONDS } else { seconds },
        iat: at,
        iss: tokens.issuer().to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound: Bound {
            namespace: call.namespace.to_owned(),
            node,
            pod,
            secret,
            serviceaccount: Reference { name: call.name.to_owned(), uid: account.uid().to_owned() },
            warnafter: projected.then_some(at + seconds),
        },
        nbf: at,
        sub: format!("system:serviceaccount:{}:{}", call.namespace, call.name),
    };
    let token = tokens.sign(&claims).ok_or_else(|| Status::internal("failed to generate token"))?;
    request.set(&["metadata", "name"], call.name);
    request.set(&["metadata", "namespace"], call.namespace);
    request.set(&["metadata", "uid"], account.uid());
    request.set(&["metadata", "creationTimestamp"], coracle_api::time::seconds(now));
    let expires = coracle_api::time::seconds(now + SignedDuration::from_secs(seconds));
    request.set(&["status"], json!({"token": token, "expirationTimestamp": expires}));
    Ok(request)
}

/// A body that names an account must name that of the path.
fn check_names(request: &Object, namespace: &str, name: &str) -> Result<()> {
    if !request.namespace().is_empty() && request.namespace() != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if !request.name().is_empty() && request.name() != name {
        let why = "must match the service account name if specified";
        let error = FieldError::invalid("metadata.name", &json!(request.name()), why);
        return Err(Status::invalid(&Gvk::new(GROUP, "v1", "TokenRequest"), name, &[error]));
    }
    Ok(())
}

fn check_lifetime(seconds: i64) -> Result<()> {
    let field = "spec.expirationSeconds";
    let why = match seconds {
        s if s < 600 => "may not specify a duration less than 10 minutes",
        s if s > 1 << 32 => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let kind = Gvk::new(GROUP, "v1", "TokenRequest");
    Err(Status::invalid(&kind, "", &[FieldError::invalid(field, &json!(seconds), why)]))
}

type Bindings = (Option<Reference>, Option<Reference>, Option<Reference>);

/// The pod, node and secret a token shall be bound to, checked against what is there.
fn bound_objects(server: &Server, namespace: &str, account: &Object, request: &Object) -> Result<Bindings> {
    let text = |field: &str| request.str_at(&["spec", "boundObjectRef", field]);
    if request.at(&["spec", "boundObjectRef"]).is_none() {
        return Ok((None, None, None));
    }
    let reference = |o: &Object| Some(Reference { name: o.name().to_owned(), uid: o.uid().to_owned() });
    let find = |plural: &str, namespace: &str| {
        if text("name").is_empty() {
            return Err(Status::bad_request("Name parameter required."));
        }
        let found = server.get(&core(plural), namespace, text("name"))?;
        if !text("uid").is_empty() && text("uid") != found.uid() {
            return Err(Status::conflict(
                &core(text("kind")),
                text("name"),
                &format!(
                    "the UID in the bound object reference ({}) does not match the UID in record. The object might have \
                 been deleted and then recreated",
                    text("uid")
                ),
            ));
        }
        Ok(found)
    };
    let gvk = Gvk::from_api_version(text("apiVersion"), text("kind"));
    // As upstream, whatever the version.
    match (&*gvk.group, &*gvk.kind) {
        ("", "Pod") => {
            let pod = find("pods", namespace)?;
            if pod.str_at(&["spec", "serviceAccountName"]) != account.name() {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    account.name()
                )));
            }
            let node = pod.str_at(&["spec", "nodeName"]);
            let node = server.get(&core("nodes"), "", node).ok().map_or_else(
                || (!node.is_empty()).then(|| Reference { name: node.to_owned(), uid: String::new() }),
                |n| reference(&n),
            );
            Ok((reference(&pod), node, None))
        }
        ("", "Node") => Ok((None, reference(&find("nodes", "")?), None)),
        ("", "Secret") => Ok((None, None, reference(&find("secrets", namespace)?))),
        _ => Err(Status::bad_request(format!("cannot bind token to object of type {gvk}"))),
    }
}
