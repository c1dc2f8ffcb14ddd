//! What unit tests of several modules stand upon.

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

/// A client of an API that has these answers, by the path of a GET (a list, too) or POST, and no others. Its watches are
/// silent.
pub(crate) fn client(answers: impl Fn(&str) -> Option<Value> + Clone + Send + 'static) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (uri, answers) = (request.uri().clone(), answers.clone());
        async move {
            if uri.query().is_some_and(|query| query.contains("watch=true")) {
                return std::future::pending().await;
            }
            let (code, body) = match answers(uri.path()) {
                Some(body) => (200, body),
                None => (
                    404,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                    "reason": "NotFound", "message": format!("{} not found", uri.path())}),
                ),
            };
            let response = Response::builder().status(code).header("content-type", "application/json");
            response.body(Body::from(body.to_string().into_bytes()))
        }
    });
    kube::Client::new(service, "default")
}
