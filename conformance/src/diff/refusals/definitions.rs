//! Definitions of the custom resources among the seeds: first as they are, later stricter.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::script::Request;
use super::super::server::Server;
use super::cases;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// How long a server has until it serves what was defined.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of `definitions.jsonl`.
pub(super) struct Definitions(Vec<Definition>);

struct Definition {
    object: Value,
    /// What a stricter one has in its places, and an object that only that one refuses.
    later: Value,
    refused: Value,
}

// === impl Definitions ===

impl Definitions {
    pub(super) fn load() -> Result<Self> {
        let all = cases::lines("definitions.jsonl")?.into_iter().map(|mut line| Definition {
            object: line["definition"].take(),
            later: line["later"].take(),
            refused: line["refused"].take(),
        });
        Ok(Definitions(all.collect()))
    }

    /// Whether objects of this kind are of one of these.
    pub(super) fn define_kind(&self, object: &Value) -> bool {
        self.0.iter().any(|d| d.object["spec"]["names"]["kind"] == object["kind"])
    }

    /// Makes them, and waits until they are served.
    pub(super) async fn define(&self, server: &mut Server) -> Result<()> {
        for definition in &self.0 {
            let answer =
                server.answer(&Request::new("POST", DEFINITIONS, &definition.object.to_string())).await?;
            let text = String::from_utf8_lossy(&answer.body);
            ensure!([201, 409].contains(&answer.code), "{}: {text}", definition.object["metadata"]["name"]);
            until(server, &definition.request()?, false).await?;
        }
        Ok(())
    }

    /// Makes them stricter, and waits until that holds.
    pub(super) async fn tighten(&self, server: &mut Server) -> Result<()> {
        for definition in &self.0 {
            let name = definition.object["metadata"]["name"].as_str().unwrap_or_default();
            let request =
                Request::new("PATCH", &format!("{DEFINITIONS}/{name}"), &definition.later.to_string());
            let answer = server.answer(&request).await?;
            ensure!(answer.code == 200, "{name}: {}", String::from_utf8_lossy(&answer.body));
            until(server, &definition.request()?, true).await?;
        }
        Ok(())
    }
}

// === impl Definition ===

impl Definition {
    fn request(&self) -> Result<Request> {
        let spec = &self.object["spec"];
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a definition's name");
        let version = text(&self.refused["apiVersion"])?;
        let plural = text(&spec["names"]["plural"])?;
        let scope = if spec["scope"] == "Namespaced" { "namespaces/diff/" } else { "" };
        let path = format!("/apis/{version}/{scope}{plural}?dryRun=All");
        let mut body = self.refused.clone();
        body["metadata"] = json!({"name": "until"});
        Ok(Request::new("POST", &path, &body.to_string()))
    }
}

/// Upstream learns of its definitions by watching them.
async fn until(server: &mut Server, request: &Request, refused: bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = server.answer(request).await?;
        if (answer.code == 422) == refused && (refused || answer.code == 201) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{}: still {}: {}", request.path, answer.code, String::from_utf8_lossy(&answer.body));
        }
        sleep(Duration::from_millis(100)).await;
    }
}
