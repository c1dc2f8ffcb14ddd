//! Who answers the requests of a script: a server on the network, one in this process, or a recording of one.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::compare::{self, HEADERS};
use super::script::Request;
use super::whole;
use crate::wire::{Answer, Connection};

pub(super) enum Server {
    Wire(Connection),
    InProcess(kube::Client),
    Recorded(Recording),
}

/// Answers by request; one that is sent several times has several, in order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Recording(BTreeMap<String, VecDeque<Recorded>>);

/// An answer, made alike as for a comparison.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    code: u16,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Vec<String>>,
    /// The values of the body, or its text where it is no JSON.
    body: Value,
}

// === impl Server ===

impl Server {
    pub(super) async fn answer(&mut self, request: &Request) -> Result<Answer> {
        let body = Bytes::from(request.body.clone());
        match self {
            Server::Wire(connection) => {
                let method = request.method.parse()?;
                connection.exchange(method, &request.path, &request.headers, body).await
            }
            Server::InProcess(client) => {
                let mut asked = http::Request::builder().method(&*request.method).uri(&request.path);
                for (name, value) in &request.headers {
                    asked = asked.header(name, value);
                }
                let (parts, body) = client.send(asked.body(body.to_vec().into())?).await?.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok(Answer { code: parts.status.as_u16(), headers: parts.headers, body })
            }
            Server::Recorded(recording) => recording.answer(request),
        }
    }
}

// === impl Recording ===

impl Recording {
    pub(super) fn load(file: &Path) -> Result<Self> {
        let packed = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let mut text = String::new();
        GzDecoder::new(&*packed).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(super) fn save(&self, file: &Path) -> Result<()> {
        let mut packed = GzEncoder::new(vec![], Compression::best());
        packed.write_all(serde_json::to_string(self)?.as_bytes())?;
        std::fs::write(file, packed.finish()?).with_context(|| format!("writing {}", file.display()))
    }

    pub(super) fn add(&mut self, request: &Request, answer: &Answer) {
        let headers = HEADERS.iter().filter_map(|name| {
            let values = compare::header(answer, name);
            (!values.is_empty()).then(|| ((*name).to_owned(), values))
        });
        let body = match compare::values_of(&answer.body) {
            Some(mut values) => {
                if request.whole {
                    values.iter_mut().for_each(whole::in_order);
                }
                values.iter_mut().for_each(compare::alike);
                Value::Array(values)
            }
            None => String::from_utf8_lossy(&answer.body).into_owned().into(),
        };
        let recorded = Recorded { code: answer.code, headers: headers.collect(), body };
        self.0.entry(key(request)).or_default().push_back(recorded);
    }

    fn answer(&mut self, request: &Request) -> Result<Answer> {
        let next = self.0.get_mut(&key(request)).and_then(VecDeque::pop_front);
        let recorded = next.with_context(|| {
            format!("{} has not been recorded: run `conformance diff --record`", request.title())
        })?;
        let mut headers = HeaderMap::new();
        for (name, values) in &recorded.headers {
            for value in values {
                headers.append(name.parse::<HeaderName>()?, HeaderValue::from_str(value)?);
            }
        }
        let body = match recorded.body {
            Value::Array(values) => values.iter().map(|v| format!("{v}\n")).collect(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(Answer { code: recorded.code, headers, body: body.into() })
    }
}

fn key(request: &Request) -> String {
    let headers: Vec<String> = request.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    format!("{} {}\n{}\n{}", request.method, request.path, headers.join("\n"), request.body)
}
