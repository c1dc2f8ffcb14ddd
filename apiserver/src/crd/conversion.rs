//! Versions that a webhook makes: objects go to it in batches, and what it answers is held against what it was sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::{Gvk, Object};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::strategy::go;
use crate::Server;
use crate::schema::Schema;
use crate::status::{Result, Status};
use crate::verbs::metadata::validate_embedded;
use crate::webhook::Hook;

/// What a call may take.
const LIMIT: Duration = Duration::from_secs(30);
const GROUP: &str = "apiextensions.k8s.io";

/// How the versions of one definition are made from each other.
#[derive(Debug)]
pub struct VersionHook {
    hook: Result<Hook, String>,
    /// The version of `ConversionReview` that is spoken.
    review: Option<&'static str>,
    /// The schemas of all versions, by `apiVersion`.
    schemas: HashMap<String, Arc<Schema>>,
    /// The `apiVersion` that is stored.
    pub stored: String,
    /// Tells it from the conversions that the kind had before.
    pub edition: u64,
}

#[derive(Serialize)]
struct Review<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: String,
    request: Request<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    #[serde(rename = "desiredAPIVersion")]
    desired: &'a str,
    objects: Vec<&'a Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    response: Option<Response>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    uid: String,
    converted_objects: Option<Vec<Value>>,
    result: Outcome,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Outcome {
    status: String,
    message: String,
}

// === impl VersionHook ===

impl VersionHook {
    /// `None` where versions differ in their names alone.
    pub(super) fn new(crd: &Object, schemas: HashMap<String, Arc<Schema>>, edition: u64) -> Option<Self> {
        let conversion = crd.at(&["spec", "conversion"])?;
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let group = crd.str_at(&["spec", "group"]);
        let versions = crd.items_at(&["spec", "versions"]);
        let stored = versions.iter().find(|v| v["storage"] == true).and_then(|v| v["name"].as_str());
        let spoken = conversion["webhook"]["conversionReviewVersions"].as_array().into_iter().flatten();
        let known = |version: &Value| ["v1", "v1beta1"].into_iter().find(|v| version == v);
        Some(VersionHook {
            hook: Hook::new(&conversion["webhook"]["clientConfig"]),
            review: spoken.into_iter().find_map(known),
            schemas,
            stored: Gvk::new(group, stored.unwrap_or_default(), "").api_version(),
            edition,
        })
    }

    /// An object that is of the right version already, by the present schema.
    pub fn catch_up(&self, object: &mut Object) {
        if let Some(definition) = self.schemas.get(object.api_version()).and_then(|s| s.definition()) {
            definition.catch_up(object);
        }
    }

    /// Objects of other versions as those of `to`: one call.
    pub async fn convert(&self, server: &Server, mut objects: Vec<Object>, to: &str) -> Result<Vec<Object>> {
        let mut revisions = vec![];
        for object in &mut objects {
            if !self.schemas.contains_key(object.api_version()) {
                let from = object.api_version();
                return Err(failed(format!("request to convert CR from an invalid group/version: {from}")));
            }
            self.catch_up(object);
            revisions.push(object.remove(&["metadata", "resourceVersion"]));
        }
        let Some(first) = objects.first() else { return Ok(objects) };
        let named = format!("conversion webhook for {}", first.gvk());
        let mut converted = self.ask(server, &named, &objects, to).await.map_err(failed)?;
        for ((object, original), revision) in converted.iter_mut().zip(&objects).zip(revisions) {
            accept(&named, original, object, to).map_err(failed)?;
            if let Some(revision) = revision {
                object.set(&["metadata", "resourceVersion"], revision);
            }
            if let Some(definition) = self.schemas.get(to).and_then(|s| s.definition()) {
                definition.prune(object);
            }
        }
        Ok(converted)
    }

    async fn ask(
        &self,
        server: &Server,
        named: &str,
        objects: &[Object],
        to: &str,
    ) -> Result<Vec<Object>, String> {
        let review = self.review.ok_or("no supported conversion review versions")?;
        let hook = self.hook.as_ref().map_err(Clone::clone)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let request = Request { uid: &uid, desired: to, objects: objects.iter().map(|o| &o.0).collect() };
        let api_version = format!("{GROUP}/{review}");
        let body = serde_json::to_vec(&Review { kind: "ConversionReview", api_version, request })
            .expect("JSON values can be written to memory");
        let answer = hook.post(server, body.into(), LIMIT).await;
        let answer = answer.and_then(|body| answered(review, &uid, &body));
        let answer = answer.map_err(|why| format!("{named} failed: {why}"))?;
        if answer.len() != objects.len() {
            let (got, sent) = (answer.len(), objects.len());
            return Err(format!("{named} returned {got} objects, expected {sent}"));
        }
        Ok(answer.into_iter().map(Object).collect())
    }
}

/// What upstream makes of an error without a status of its own.
fn failed(why: String) -> Status {
    Status::new(500, "", why)
}

/// The objects of an answer, if it is one to this question.
pub(super) fn answered(review: &str, uid: &str, body: &[u8]) -> Result<Vec<Value>, String> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|e| format!("couldn't get version/kind; json parse error: {e}"))?;
    if answer.kind != "ConversionReview" {
        let Answer { kind, api_version, .. } = answer;
        return Err(format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:111\""
        ));
    }
    let strict = review == "v1";
    if strict && answer.api_version != format!("{GROUP}/v1") {
        let got = Gvk::from_api_version(&answer.api_version, &answer.kind);
        return Err(format!("expected webhook response of {GROUP}/v1, Kind=ConversionReview, got {got}"));
    }
    let response = answer.response.ok_or("no response provided")?;
    if strict && response.uid != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", response.uid));
    }
    match (response.result.status.as_str(), response.result.message) {
        ("Success", _) => Ok(response.converted_objects.unwrap_or_default()),
        (status, message) if message.is_empty() => {
            Err(format!("response.result.status was '{status}', not 'Success'"))
        }
        (_, message) => Err(message),
    }
}

/// Refuses what is not the object that was sent; of its metadata only labels and annotations may differ.
pub(super) fn accept(named: &str, original: &Object, converted: &mut Object, to: &str) -> Result<(), String> {
    if converted.kind().is_empty() {
        return Err(format!("Object 'Kind' is missing in '{}'", converted.0));
    }
    let differs = |what: &str, expected: &str, got: &str| {
        let at = format!("{named} returned invalid object at index 0");
        Err(format!("{at}: invalid {what} (expected {expected}, received {got})"))
    };
    if converted.api_version() != to {
        return differs("groupVersion", to, converted.api_version());
    }
    if converted.kind() != original.kind() {
        return differs("kind", original.kind(), converted.kind());
    }
    for (what, expected, got) in [
        ("name", original.name(), converted.name()),
        ("namespace", original.namespace(), converted.namespace()),
        ("UID", original.uid(), converted.uid()),
    ] {
        if expected != got {
            let why = format!("must have the same {what}: {expected} != {got}");
            return Err(format!("{named} returned invalid object: {why}"));
        }
    }
    restore(original, converted).map_err(|why| format!("{named} returned invalid metadata: {why}"))
}

fn restore(original: &Object, converted: &mut Object) -> Result<(), String> {
    let answered = converted.remove(&["metadata"]).ok_or("missing metadata in converted object")?;
    if !answered.is_object() {
        return Err(format!("invalid metadata of type {} in converted object", go(&answered)));
    }
    let mut metadata = original.0["metadata"].clone();
    for field in ["labels", "annotations"] {
        let given = match &answered[field] {
            Value::Null => {
                metadata.as_object_mut().and_then(|m| m.remove(field));
                continue;
            }
            Value::Object(given) => given,
            other => {
                return Err(format!("invalid metadata.{field} of type {} in converted object", go(other)));
            }
        };
        if let Some((key, value)) = given.iter().find(|(_, value)| !value.is_string()) {
            let ty = go(value);
            return Err(format!("metadata.{field}[{key}] must be a string, but is {ty} in converted object"));
        }
        if metadata[field] != answered[field] {
            check(field, &answered[field])?;
        }
        metadata[field] = answered[field].clone();
    }
    converted.set(&["metadata"], metadata);
    Ok(())
}

/// Labels or annotations as they would be judged in a request.
fn check(field: &str, given: &Value) -> Result<(), String> {
    let mut bearer = Object::default();
    bearer.set(&["metadata", field], given.clone());
    let wrong = validate_embedded(&bearer).into_iter().map(|mut error| {
        // The path that upstream names.
        if field == "annotations" {
            error.field = "metadata.annotation".to_owned();
        }
        error.to_string()
    });
    match wrong.collect::<Vec<String>>().as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What becomes of one answer: the metadata that is taken over, or the refusal.
    fn take(answered: Value) -> Result<Value, String> {
        let original = Object(json!({"apiVersion": "a.io/v1", "kind": "Foo",
            "metadata": {"name": "n", "namespace": "s", "uid": "u", "labels": {"a": "b"}, "finalizers": ["x/y"]}}));
        let mut converted = Object(answered);
        accept("hook", &original, &mut converted, "a.io/v2").map(|()| converted.0["metadata"].clone())
    }

    #[test]
    fn only_labels_and_annotations_of_an_answer_may_differ() {
        let of = |metadata: Value| json!({"apiVersion": "a.io/v2", "kind": "Foo", "metadata": metadata});
        let named = |field: &str, value: Value| {
            let mut metadata = json!({"name": "n", "namespace": "s", "uid": "u"});
            metadata[field] = value;
            of(metadata)
        };
        let kept = json!({"name": "n", "namespace": "s", "uid": "u", "finalizers": ["x/y"]});
        let with = |field: &str, value: Value| {
            let mut metadata = kept.clone();
            metadata[field] = value;
            Ok(metadata)
        };
        let refused = |why: &str| Err(format!("hook returned invalid {why}"));
        let table = [
            (named("labels", json!({"c": "d"})), with("labels", json!({"c": "d"}))),
            (named("annotations", json!({"c": "d"})), with("annotations", json!({"c": "d"}))),
            (named("finalizers", json!([])), Ok(kept.clone())),
            (
                named("labels", json!([])),
                refused("metadata: invalid metadata.labels of type []interface {} in converted object"),
            ),
            (
                named("labels", json!({"a": 1})),
                refused("metadata: metadata.labels[a] must be a string, but is int64 in converted object"),
            ),
            (named("name", json!("m")), refused("object: must have the same name: n != m")),
            (named("uid", json!("v")), refused("object: must have the same UID: u != v")),
            (
                json!({"apiVersion": "a.io/v2", "kind": "Foo"}),
                refused("object: must have the same name: n != "),
            ),
            (
                json!({"apiVersion": "a.io/v1", "kind": "Foo"}),
                refused("object at index 0: invalid groupVersion (expected a.io/v2, received a.io/v1)"),
            ),
            (
                json!({"apiVersion": "a.io/v2", "kind": "Bar"}),
                refused("object at index 0: invalid kind (expected Foo, received Bar)"),
            ),
        ];
        for (answered, wanted) in table {
            assert_eq!(take(answered.clone()), wanted, "{answered}");
        }
    }

    #[test]
    fn an_answer_is_of_its_question() {
        let v1 = |response: Value| json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
        let table = [
            (
                v1(json!({"uid": "u", "convertedObjects": [1], "result": {"status": "Success"}})),
                Ok(vec![json!(1)]),
            ),
            (
                v1(json!({"uid": "w", "result": {"status": "Success"}})),
                Err("expected response.uid=\"u\", got \"w\""),
            ),
            (v1(json!({"uid": "u", "result": {"status": "Failed", "message": "no"}})), Err("no")),
            (v1(json!({"uid": "u"})), Err("response.result.status was '', not 'Success'")),
            (v1(Value::Null), Err("no response provided")),
        ];
        for (answer, wanted) in table {
            let found = answered("v1", "u", answer.to_string().as_bytes());
            assert_eq!(found, wanted.map_err(str::to_owned), "{answer}");
        }
    }
}
