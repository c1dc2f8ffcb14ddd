//! An API server of a test's own, asked in process.

use axum::body::Body;
use coracle_apiserver::authn::User;
use coracle_apiserver::{Api, Config, Running, Server};
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) struct Cluster {
    pub(crate) running: Running,
    pub(crate) api: Api,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_as(User::component("admin", &["system:masters"])).await
    }

    /// Every request is this user's.
    pub(crate) async fn start_as(user: User) -> Self {
        Self::start_with(Config::default(), user).await
    }

    pub(crate) async fn start_with(config: Config, user: User) -> Self {
        let running = Server::start(config, CancellationToken::new()).await.unwrap();
        Cluster { api: running.router(user), running }
    }

    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        self.api.clone().oneshot(request).await.unwrap()
    }

    /// Code and body of the answer.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        read(self.answer(request(method, path, &body)).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.send("GET", path, Value::Null).await.1
    }
}

/// A request with a JSON body; without one, if it is null. A PATCH is a merge.
pub(crate) fn request(method: &str, path: &str, body: &Value) -> Request<Body> {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    Request::builder().method(method).uri(path).header("content-type", media).body(body).unwrap()
}

/// The code and the body, as a string if it is not JSON.
pub(crate) async fn read(answer: Response<Body>) -> (u16, Value) {
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let text = || String::from_utf8_lossy(&bytes).into_owned().into();
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
}
