//! `PATCH` with `application/apply-patch+yaml`: server-side apply.

use axum::body::Body;
use coracle_api::{Object, query};
use http::Response;
use serde_json::{Value, json};

use super::options::Validation;
use super::serve::Request;
use super::tracking;
use super::write::{self, Ask, UpdateRules, check_name};
use crate::Server;
use crate::authz::{Asked, Decision, refused};
use crate::codec::yaml;
use crate::schema::{Noticed, describe};
use crate::status::{Result, Status};

// === impl Request ===

impl Request<'_> {
    pub(super) async fn apply(&self) -> Result<Response<Body>> {
        let style = self.style(false)?;
        let (configuration, duplicates) = self.configuration()?;
        let ask = Ask { manager: None, ..self.ask(self.dry_run()?) };
        let (manager, force) = (self.manager(), self.force());
        let mut warnings = vec![];
        let mut edit = |old: &Object| {
            let live = Some(old).filter(|old| !old.uid().is_empty());
            let new = tracking::applied(self.server, &ask, &manager, live, &configuration, force)?;
            warnings = self.judge_duplicates(&duplicates)?;
            if live.is_none() && !new.uid().is_empty() {
                let uid = new.uid();
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                );
                return Err(Status::conflict(&ask.resource.gvr, ask.name, &why));
            }
            check_name(&new, ask.name)?;
            Ok(new)
        };
        let rules = UpdateRules { creates: true, applies: true };
        match write::update(self.server, &ask, rules, &mut edit).await {
            Ok(written) => Ok(self.written(style, &written, &warnings)),
            Err(failure) => Err(failure.with_warnings(warnings)),
        }
    }

    pub(super) fn force(&self) -> bool {
        self.info.param("force").is_some_and(|force| query::flag(&force))
    }

    /// The body of an apply, and its duplicate keys.
    pub(super) fn configuration(&self) -> Result<(Object, Noticed)> {
        let refused = |why: String| {
            Status::bad_request(format!("error decoding YAML: error converting YAML to JSON: {why}"))
        };
        match yaml::parse(&self.body).map_err(refused)? {
            (Value::Null, noticed) => Ok((Object(json!({})), noticed)),
            (object @ Value::Object(_), noticed) => Ok((Object(object), noticed)),
            (other, _) => Err(Status::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type \
                 map[string]interface {{}}",
                describe(&other)
            ))),
        }
    }

    /// Warnings, nothing, or a refusal; unknown fields are an error of their own.
    pub(super) fn judge_duplicates(&self, duplicates: &Noticed) -> Result<Vec<String>> {
        match (self.validation()?, &duplicates.0[..]) {
            (_, []) | (Validation::Ignore, _) => Ok(vec![]),
            (Validation::Warn, all) => {
                let lines = all.iter().flat_map(|notice| notice.lines().skip(1));
                Ok(lines.map(|line| line.trim().to_owned()).collect())
            }
            (Validation::Strict, all) => Err(Status::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: {}",
                all.join(", ")
            ))),
        }
    }
}

/// Who creates by an update or an apply must be allowed to create.
pub(super) fn authorize_create(server: &Server, ask: &Ask<'_>) -> Result<()> {
    let gvr = &ask.resource.gvr;
    let asked = Asked {
        verb: "create",
        group: &gvr.group,
        version: &gvr.version,
        resource: &gvr.resource,
        namespace: ask.namespace,
        name: ask.name,
        ..Asked::RESOURCE
    };
    match server.access.authz.decide(server, ask.user, &asked) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(why) => Err(refused(ask.user, &asked, &why)),
    }
}
