//! The API as a `tower::Service`: for connections from the network, and for clients in this process.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use rustls::pki_types::CertificateDer;
use tower::Service;

use super::Server;
use crate::authn::User;
use crate::chain::{self, Caller};

/// The API, as one caller sees it.
#[derive(Clone)]
pub struct Api {
    server: Arc<Server>,
    caller: Caller,
    /// The program that a request comes from, where it does not say so itself.
    agent: Option<HeaderValue>,
}

// === impl Api ===

impl Api {
    pub(super) fn known(server: Arc<Server>, user: User) -> Self {
        Api { server, caller: Caller::Known(Arc::new(user)), agent: None }
    }

    pub(super) fn network(server: Arc<Server>, certificates: &[CertificateDer<'_>]) -> Self {
        let caller = Caller::Network(server.access.authn.peer(certificates));
        Api { server, caller, agent: None }
    }

    /// The same API for another identity.
    pub fn as_user(self, user: User) -> Self {
        Api { caller: Caller::Known(Arc::new(user)), ..self }
    }

    /// The same API for a program of this name: it owns the fields that it sets.
    pub fn as_program(self, name: &'static str) -> Self {
        Api { agent: Some(HeaderValue::from_static(name)), ..self }
    }
}

impl<B> Service<Request<B>> for Api
where
    B: axum::body::HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(agent) = &self.agent {
            request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| agent.clone());
        }
        Box::pin(chain::handle(self.server.clone(), self.caller.clone(), request.map(Body::new)))
    }
}
