//! Our answers beside those that upstream gave when `conformance diff --record` was run: no upstream is needed here.

use anyhow::{Result, ensure};
use coracle::testing::ControlPlane;
use coracle_conformance::diff;
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;

/// The ratchet: what differed when the report was last kept may differ; nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_differs_from_upstream_that_did_not_before() -> Result<()> {
    let server = ControlPlane::start().await?;
    let report = diff::to_recording(server.client(), "").await?;
    server.stop().await?;
    let new = report.beyond(&diff::kept()?);
    ensure!(
        new.is_empty(),
        "{} new differences from upstream (ours first). Mend them; what is meant belongs into scripts/meant.txt:\n{}",
        new.len(),
        new.join("\n")
    );
    Ok(())
}

/// A server that says something else than upstream in one place is caught in that place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_difference_is_found() -> Result<()> {
    let server = ControlPlane::start().await?;
    let report = diff::to_recording(planted(server.client()), "configmaps").await?;
    server.stop().await?;
    let new = report.beyond(&diff::kept()?);
    ensure!(!new.is_empty(), "the planted difference was not found");
    ensure!(new.iter().all(|d| d.contains("not_found") && d.contains(" not found\"")), "{}", new.join("\n"));
    Ok(())
}

/// The same server, but for one word in some of its answers.
fn planted(client: Client) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            let (parts, body) = client.send(request).await?.into_parts();
            let text = body.collect().await?.to_bytes();
            let text = String::from_utf8_lossy(&text).replace(" not found\"", " not_found\"");
            Ok::<_, kube::Error>(Response::from_parts(parts, Body::from(text.into_bytes())))
        }
    });
    Client::new(service, "default")
}
