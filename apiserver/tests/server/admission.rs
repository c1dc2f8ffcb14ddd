//! Admission webhooks against a server of the test's own: what it is sent, and what its answers do.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use rustls::server::NoClientAuth;
use serde_json::{Value, json};

use crate::cluster::{Cluster, read, request};
use crate::tls;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// A cluster and the webhooks it may call.
struct Hooked {
    cluster: Cluster,
    hook: Hook,
}

/// A webhook server. Remembers the requests it has seen.
#[derive(Clone)]
struct Hook {
    port: u16,
    bundle: String,
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    async fn start() -> Self {
        let seen = Arc::default();
        let remember = Arc::clone(&seen);
        let answer = move |request| answer(request, Arc::clone(&remember));
        let (port, certificate) = tls::serve("127.0.0.1", Arc::new(NoClientAuth), answer).await;
        Hook { port, bundle: STANDARD.encode(certificate), seen }
    }

    /// A webhook at a path of this server, for config maps.
    fn entry(&self, path: &str, more: &Value) -> Value {
        let url = format!("https://127.0.0.1:{}/{path}", self.port);
        let mut hook = json!({
            "name": format!("{path}.hooks.test"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": url, "caBundle": self.bundle},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE", "DELETE"],
                       "resources": ["configmaps"]}],
        });
        json_patch::merge(&mut hook, more);
        hook
    }
}

/// What the webhook server says, by the path it is called at.
async fn answer(request: Request<Incoming>, seen: Arc<Mutex<Vec<Value>>>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    let patch = |operations: Value| STANDARD.encode(operations.to_string());
    match path.as_str() {
        "/deny" => {
            response["allowed"] = false.into();
            response["status"] = json!({"reason": "Nope", "message": "not today", "code": 409});
        }
        "/silent" => response["allowed"] = false.into(),
        "/warn" => response["warnings"] = json!(["mind the gap"]),
        "/slow" => tokio::time::sleep(Duration::from_secs(5)).await,
        "/broken" => return Response::builder().status(500).body(Body::from("oops")).unwrap(),
        "/stranger" => response["uid"] = "x".into(),
        "/first" | "/second" => {
            let others = review["request"]["object"]["data"].as_object().map_or(0, |d| d.len());
            let name = &path[1..];
            response["patchType"] = "JSONPatch".into();
            response["patch"] = patch(json!([
                {"op": "add", "path": format!("/data/{name}"), "value": format!("saw {others}")},
                {"op": "add", "path": "/nonsense", "value": 1},
            ]))
            .into();
        }
        _ => {}
    }
    seen.lock().push(review["request"].clone());
    let answer =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Response::new(Body::from(answer.to_string()))
}

impl Hooked {
    async fn start() -> Self {
        Hooked { cluster: Cluster::start().await, hook: Hook::start().await }
    }

    /// Code, body and warnings of the answer.
    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value, Vec<String>) {
        let answer = self.cluster.answer(request(method, path, &body)).await;
        let warnings = answer.headers().get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned());
        let warnings = warnings.collect();
        let (code, body) = read(answer).await;
        (code, body, warnings)
    }

    /// Writes a configuration of webhooks as (path, what differs).
    async fn configure(&self, kind: &str, hooks: &[(&str, Value)]) {
        let webhooks: Vec<Value> = hooks.iter().map(|(path, more)| self.hook.entry(path, more)).collect();
        let plural = format!("{}s", kind.to_lowercase());
        let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                            "metadata": {"name": "hooks"}, "webhooks": webhooks});
        self.send("DELETE", &format!("{GROUP}/{plural}/hooks"), Value::Null).await;
        let (code, answer, _) = self.send("POST", &format!("{GROUP}/{plural}"), object).await;
        assert_eq!(code, 201, "{answer}");
    }

    async fn create(&self, name: &str, query: &str) -> (u16, Value, Vec<String>) {
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}});
        self.send("POST", &format!("{MAPS}{query}"), map).await
    }
}

#[tokio::test]
async fn validating_webhooks_say_yes_no_or_fail_by_their_policy() {
    let c = Hooked::start().await;
    let port = c.hook.port;
    let closed = "https://127.0.0.1:1/x";
    let cases = [
        ("ok", json!({}), 201, String::new()),
        ("deny", json!({}), 409, "admission webhook \"deny.hooks.test\" denied the request: not today".to_owned()),
        ("silent", json!({}), 400, "admission webhook \"silent.hooks.test\" denied the request without explanation".to_owned()),
        ("slow", json!({"timeoutSeconds": 1}), 500, format!(
            "Internal error occurred: failed calling webhook \"slow.hooks.test\": failed to call webhook: Post \
             \"https://127.0.0.1:{port}/slow?timeout=1s\": context deadline exceeded")),
        ("slow", json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"}), 201, String::new()),
        ("broken", json!({}), 500,
         "Internal error occurred: failed calling webhook \"broken.hooks.test\": failed to call webhook: an error on the \
          server (\"oops\") has prevented the request from succeeding".to_owned()),
        ("closed", json!({"clientConfig": {"url": closed}}), 500,
         "Internal error occurred: failed calling webhook \"closed.hooks.test\": failed to call webhook: Post \
          \"https://127.0.0.1:1/x?timeout=10s\": dial tcp 127.0.0.1:1: connect: connection refused".to_owned()),
        ("strange", json!({"clientConfig": {"caBundle": null}}), 500, format!(
            "Internal error occurred: failed calling webhook \"strange.hooks.test\": failed to call webhook: Post \
             \"https://127.0.0.1:{port}/strange?timeout=10s\": tls: failed to verify certificate: x509: certificate signed \
             by unknown authority")),
        ("other", json!({"clientConfig": {"url": null, "service": {"namespace": "default", "name": "nope"}}}), 500,
         "Internal error occurred: failed calling webhook \"other.hooks.test\": failed to call webhook: Post \
          \"https://nope.default.svc:443/?timeout=10s\": service \"nope\" not found".to_owned()),
        ("deny", json!({"objectSelector": {"matchLabels": {"x": "y"}}}), 201, String::new()),
        ("deny", json!({"namespaceSelector": {"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["default"]}]}}), 201, String::new()),
        ("deny", json!({"matchConditions": [{"name": "no", "expression": "object.data.a == '2'"}]}), 201, String::new()),
        ("deny", json!({"matchConditions": [{"name": "err", "expression": "object.data.b == '2'"}]}), 403,
         "configmaps \"m\" is forbidden: expression 'object.data.b == '2'' resulted in error: no such key: b".to_owned()),
        ("deny", json!({"failurePolicy": "Ignore", "matchConditions": [
            {"name": "err", "expression": "object.data.b == '2'"}]}), 201, String::new()),
        ("deny", json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"],
            "resources": ["secrets", "*/status"]}]}), 201, String::new()),
    ];
    for (path, more, code, message) in cases {
        c.configure("ValidatingWebhookConfiguration", &[(path, more.clone())]).await;
        let (got, answer, _) = c.create("m", "").await;
        assert_eq!((got, answer["message"].as_str().unwrap_or_default()), (code, &*message), "{path} {more}");
        if got == 201 {
            c.configure("ValidatingWebhookConfiguration", &[]).await;
            c.send("DELETE", &format!("{MAPS}/m"), Value::Null).await;
        }
    }
    c.cluster.running.stop().await;
}

#[tokio::test]
async fn mutations_are_pruned_defaulted_and_seen_by_those_that_ask_for_it() {
    let c = Hooked::start().await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    c.configure("MutatingWebhookConfiguration", &[("first", again), ("second", json!({}))]).await;
    c.configure("ValidatingWebhookConfiguration", &[("warn", json!({}))]).await;
    let (code, made, warnings) = c.create("m", "").await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["data"], json!({"a": "1", "first": "saw 3", "second": "saw 2"}));
    assert_eq!((made.get("nonsense"), warnings), (None, vec!["299 - \"mind the gap\"".to_owned()]));
    let seen = std::mem::take(&mut *c.hook.seen.lock());
    assert_eq!(seen.len(), 4, "the first again after the second, then the validating one");
    let last = &seen[3];
    assert_eq!(last["operation"], "CREATE");
    assert_eq!(last["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(last["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&last["name"], &last["namespace"]), (&json!("m"), &json!("default")));
    assert_eq!(last["userInfo"]["username"], "admin");
    assert_eq!((&last["dryRun"], &last["oldObject"]), (&json!(false), &Value::Null));
    assert_eq!(last["object"]["data"], made["data"]);
    assert_eq!(last["object"]["metadata"]["uid"], made["metadata"]["uid"]);
    let (code, _, _) = c.send("DELETE", &format!("{MAPS}/m"), Value::Null).await;
    assert_eq!(code, 500, "nothing can be changed about a delete");
    c.configure("MutatingWebhookConfiguration", &[]).await;
    c.hook.seen.lock().clear();
    c.send("DELETE", &format!("{MAPS}/m"), Value::Null).await;
    let seen = c.hook.seen.lock().clone();
    assert_eq!((&seen[0]["operation"], &seen[0]["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(seen[0]["oldObject"]["data"], made["data"]);
    c.cluster.running.stop().await;
}

#[tokio::test]
async fn nobody_is_locked_out_and_mistakes_are_refused_when_they_are_written() {
    let c = Hooked::start().await;
    let all = json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}]});
    c.configure("ValidatingWebhookConfiguration", &[("deny", all)]).await;
    assert_eq!(c.create("m", "").await.0, 409);
    let path = format!("{GROUP}/validatingwebhookconfigurations/hooks");
    assert_eq!(c.send("DELETE", &path, Value::Null).await.0, 200);
    assert_eq!(c.create("m", "?dryRun=All").await.0, 201);
    let wrong = json!({"matchConditions": [{"name": "bad", "expression": "... [] bad expression"}]});
    let hook = c.hook.entry("deny", &wrong);
    let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
                        "metadata": {"name": "bad"}, "webhooks": [hook]});
    let (code, answer, _) = c.send("POST", &format!("{GROUP}/validatingwebhookconfigurations"), object).await;
    assert_eq!(code, 422);
    assert!(
        answer["message"].as_str().unwrap().contains("compilation failed: ERROR: <input>:1:2"),
        "{answer}"
    );
    c.cluster.running.stop().await;
}

#[tokio::test]
async fn validating_policies_deny_warn_and_take_parameters() {
    let c = Hooked::start().await;
    let write = async |kind: &str, name: &str, spec: Value| {
        let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                            "metadata": {"name": name}, "spec": spec});
        let plural = match kind {
            "ValidatingAdmissionPolicy" => "validatingadmissionpolicies",
            _ => "validatingadmissionpolicybindings",
        };
        c.send("DELETE", &format!("{GROUP}/{plural}/{name}"), Value::Null).await;
        c.send("POST", &format!("{GROUP}/{plural}"), object).await
    };
    let policy = |more: Value| {
        let mut spec = json!({
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": ["configmaps"]}]},
            "validations": [{"expression": "object.data.a != '1'"}],
        });
        json_patch::merge(&mut spec, &more);
        spec
    };
    let param = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p", "namespace": "kube-system"},
                       "data": {"a": "1"}});
    assert_eq!(c.send("POST", "/api/v1/namespaces/kube-system/configmaps", param).await.0, 201);
    let deny = json!({"policyName": "p", "validationActions": ["Deny"]});
    let with = |text: &str| format!("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: {text}");
    let by_param = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.data.a != params.data.a", "messageExpression": "'not ' + params.data.a"}]});
    let bound_to = |name: &str, action: &str| {
        json!({"policyName": "p", "validationActions": ["Deny"],
        "paramRef": {"name": name, "namespace": "kube-system", "parameterNotFoundAction": action}})
    };
    let cases = [
        (json!({}), deny.clone(), 422, with("failed expression: object.data.a != '1'")),
        (
            json!({"validations": [{"expression": "object.data.a != '1'", "message": "no ones", "reason": "Forbidden"}]}),
            deny.clone(),
            403,
            with("no ones"),
        ),
        (
            json!({"validations": [{"expression": "object.data.nope != '1'"}]}),
            deny.clone(),
            422,
            with("expression 'object.data.nope != '1'' resulted in error: no such key: nope"),
        ),
        (
            json!({"validations": [{"expression": "object.data.nope != '1'"}], "failurePolicy": "Ignore"}),
            deny.clone(),
            201,
            String::new(),
        ),
        (
            json!({"variables": [{"name": "a", "expression": "object.data.a"}, {"name": "b", "expression": "variables.a + 'x'"}],
                "validations": [{"expression": "variables.b == '2x'", "messageExpression": "'b is ' + variables.b"}]}),
            deny.clone(),
            422,
            with("b is 1x"),
        ),
        (
            json!({"matchConditions": [{"name": "no", "expression": "request.userInfo.username != 'admin'"}]}),
            deny.clone(),
            201,
            String::new(),
        ),
        (
            json!({"validations": [{"expression": "namespaceObject.metadata.name == 'other'"}]}),
            deny.clone(),
            422,
            with("failed expression: namespaceObject.metadata.name == 'other'"),
        ),
        (
            json!({"validations": [{"expression":
            "authorizer.group('').resource('pods').namespace('default').check('create').allowed()"}]}),
            deny.clone(),
            201,
            String::new(),
        ),
        (json!({}), json!({"policyName": "p", "validationActions": ["Warn"]}), 201, String::new()),
        (json!({}), json!({"policyName": "other", "validationActions": ["Deny"]}), 201, String::new()),
        (by_param.clone(), bound_to("p", "Deny"), 422, with("not 1")),
        (by_param.clone(), bound_to("missing", "Allow"), 201, String::new()),
        (
            by_param,
            bound_to("missing", "Deny"),
            422,
            with(
                "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
            ),
        ),
    ];
    for (spec, binding, code, message) in cases {
        let (written, answer, _) = write("ValidatingAdmissionPolicy", "p", policy(spec.clone())).await;
        assert_eq!(written, 201, "{answer}");
        let (written, answer, _) = write("ValidatingAdmissionPolicyBinding", "b", binding.clone()).await;
        assert_eq!(written, 201, "{answer}");
        let (got, answer, warnings) = c.create("m", "?dryRun=All").await;
        let said = answer["message"].as_str().unwrap_or_default();
        let expected =
            if message.is_empty() { message } else { format!("configmaps \"m\" is forbidden: {message}") };
        assert_eq!((got, said), (code, &*expected), "{spec}");
        if binding["validationActions"] == json!(["Warn"]) {
            let warning = "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: \
                           object.data.a != '1'\"";
            assert_eq!(warnings, [warning]);
        }
    }
    let (code, answer, _) = write(
        "ValidatingAdmissionPolicy",
        "q",
        policy(json!({"validations": [{"expression": "object.a >"}]})),
    )
    .await;
    assert_eq!(code, 422, "{answer}");
    let said = answer["message"].as_str().unwrap();
    assert!(
        said.contains(
            "spec.validations[0].expression: Invalid value: \"object.a >\": compilation failed: ERROR"
        ),
        "{said}"
    );
    c.cluster.running.stop().await;
}

#[tokio::test]
async fn mutating_policies_merge_by_schema_patch_and_run_again() {
    let c = Hooked::start().await;
    let write = async |kind: &str, plural: &str, name: &str, spec: Value| {
        let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                            "metadata": {"name": name}, "spec": spec});
        c.send("DELETE", &format!("{GROUP}/{plural}/{name}"), Value::Null).await;
        let (code, answer, _) = c.send("POST", &format!("{GROUP}/{plural}"), object).await;
        assert_eq!(code, 201, "{answer}");
    };
    let policy = async |name: &str, again: &str, mutation: Value| {
        let rules = json!([{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
                            "resources": ["deployments"]}]);
        let spec = json!({"matchConstraints": {"resourceRules": rules}, "reinvocationPolicy": again,
                          "failurePolicy": "Fail", "mutations": [mutation]});
        write("MutatingAdmissionPolicy", "mutatingadmissionpolicies", name, spec).await;
        let binding = json!({"policyName": name});
        write("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", name, binding).await;
    };
    let apply = |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let patch = |expression: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
    let create = async || {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "a", "image": "i"}, {"name": "b", "image": "i", "env": [{"name": "X", "value": "1"}]}]}});
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
        c.send("POST", "/apis/apps/v1/namespaces/default/deployments?dryRun=All", object).await
    };
    policy(
        "a",
        "IfNeeded",
        patch(
            "has(object.metadata.annotations) ? [JSONPatch{op: 'add', path: '/metadata/annotations/' + \
         jsonpatch.escapeKey('x/y'), value: string(size(object.metadata.annotations))}] : []",
        ),
    )
    .await;
    policy("b", "Never", apply(
        "Object{metadata: Object.metadata{annotations: {'k': 'v'}}, spec: Object.spec{replicas: 3, template: \
         Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'b', \
         image: 'j'}]}}}}")).await;
    let (code, made, _) = create().await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["annotations"], json!({"k": "v", "x/y": "1"}), "the first has run again");
    assert_eq!(made["spec"]["replicas"], 3);
    let containers = &made["spec"]["template"]["spec"]["containers"];
    assert_eq!((&containers[0]["image"], &containers[1]["image"]), (&json!("i"), &json!("j")));
    assert_eq!(containers[1]["env"], json!([{"name": "X", "value": "1"}]), "what is not named stays");
    for (expression, why) in [
        (
            "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'x': 'y'}}}}",
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
        ),
        (
            "Object{spec: Object.spec{replicas: object.nope}}",
            "expression 'Object{spec: Object.spec{replicas: object.nope}}' resulted in error: no such key: nope",
        ),
        (
            "Object{spec: Object.metadata{}}",
            "type mismatch: unexpected type name \"Object.metadata\", expected \"Object.spec\", which matches field name path \
          from root Object type",
        ),
    ] {
        policy("b", "Never", apply(expression)).await;
        let (code, answer, _) = create().await;
        let expected = format!("policy 'b' with binding 'b' denied request: {why}");
        assert_eq!((code, answer["message"].as_str().unwrap()), (403, &*expected));
    }
    c.cluster.running.stop().await;
}

#[tokio::test]
async fn the_status_of_a_policy_says_what_its_expressions_get_wrong() {
    let c = Cluster::start().await;
    let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": ["deployments"]}]},
            "validations": [{"expression": "object.spec.replicas > 1"}, {"expression": "object.spec.nope > 1"}]}});
    assert_eq!(c.send("POST", path, policy).await.0, 201);
    let seen = |_: u16, policy: &Value| policy["status"]["observedGeneration"] == 1;
    crate::definitions::until(&c, &format!("{path}/p"), seen).await;
    let status = c.get(&format!("{path}/p")).await["status"].clone();
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap().clone();
    assert_eq!((warnings.len(), &warnings[0]["fieldRef"]), (1, &json!("spec.validations[1].expression")));
    assert!(warnings[0]["warning"].as_str().unwrap().contains("undefined field 'nope'"));
    c.running.stop().await;
}
