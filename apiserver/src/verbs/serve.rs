//! From an authorised resource request to its verb, and from what the verb did to a response.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use coracle_api::{Gvk, Object};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use tokio::time::Instant;

use super::answer::{self, Style};
use super::apart::room;
use super::gzip::compressed;
use super::inner::Deletion;
use super::options::Validation;
use super::write::{Ask, UpdateRules, Written, converted};
use super::{delete, list, tracking, versions, watch, write};
use crate::admission::{Attributes, Operation};
use crate::authn::User;
use crate::{Server, apart};

use crate::codec::{self, Decoded, IncludeObject};
use crate::limits;
use crate::patch::{self, PatchKind, Patched};
use crate::request::RequestInfo;
use crate::resource::{Invocation, Persistence, Resource, SubresourceHandler};
use crate::schema::Noticed;
use crate::status::{Result, Status};

/// Objects that a `deletecollection` deletes at once.
const DELETES_AT_ONCE: usize = 16;

/// A request that may go ahead, its body read.
pub struct Request<'a> {
    pub server: &'a Arc<Server>,
    pub user: &'a User,
    pub info: &'a RequestInfo,
    pub headers: &'a HeaderMap,
    pub body: Bytes,
    pub resource: Arc<Resource>,
    pub now: Timestamp,
}

// === impl Request ===

impl Request<'_> {
    /// The answer, with the warning that a deprecated version gets whatever comes of the request: unless nothing does,
    /// since the client understands no answer.
    pub async fn serve(self) -> Result<Response<Body>> {
        let resource = self.resource.clone();
        let deprecated = &resource.deprecated;
        let (headers, watches) = (self.headers, self.info.verb == "watch");
        let mut answer = self.dispatch().await;
        if !watches {
            answer = answer.map(|response| compressed(headers, response));
        }
        if !deprecated.is_empty() {
            match &mut answer {
                Ok(response) => prepend_warning(response, deprecated),
                Err(failure) if failure.code() == 406 => {}
                Err(failure) => failure.0.warnings.insert(0, deprecated.clone()),
            }
        }
        answer
    }

    async fn dispatch(self) -> Result<Response<Body>> {
        let (verb, sub) = (self.info.verb.as_str(), self.info.subresource.as_str());
        if matches!(verb, "create" | "update" | "patch") {
            self.check_options()?;
        }
        match (verb, sub) {
            ("get", "" | "status") => self.get().await,
            ("list", "") => self.list().await,
            ("watch", "") => watch::watch(self.server, self.info, &self.resource, self.style(true)?).await,
            ("create", "") => self.create().await,
            ("update", "" | "status") => self.update().await,
            ("patch", "" | "status") => self.patch().await,
            ("delete", "") => self.delete().await,
            ("deletecollection", "") => self.delete_collection().await,
            (_, "scale") if self.resource.scale.is_some() => self.scale().await,
            _ => self.subresource().await,
        }
    }

    /// Whether the answer is no stored object, and so has no table and no metadata to show.
    fn is_computed(&self) -> bool {
        let sub = self.resource.subresource(&self.info.subresource);
        matches!(self.resource.persistence, Persistence::Computed(_))
            || sub.is_some_and(|s| matches!(s.handler, SubresourceHandler::Call(_)))
    }

    pub(super) fn style(&self, stream: bool) -> Result<Style> {
        let accept = self.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
        let mut accepted = match stream {
            _ if !self.resource.typed => codec::negotiate_untyped(accept, stream)?,
            true => codec::negotiate_stream(accept)?,
            false if self.is_computed() => codec::negotiate_plain(accept)?,
            false => codec::negotiate(accept)?,
        };
        accepted.pretty |= !stream && answer::wants_lines(self.info, self.headers);
        let include = IncludeObject::parse(&self.info.param("includeObject").unwrap_or_default());
        let include = include
            .ok_or_else(|| Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {:?}: must be 'Metadata', \
                 'Object', 'None', or empty",
                self.info.param("includeObject").unwrap_or_default()
            )))?;
        let until = Instant::now() + self.server.config.request_timeout;
        Ok(Style { accepted, include, now: self.now, until })
    }

    pub(super) fn ask<'b>(&'b self, dry_run: bool) -> Ask<'b> {
        Ask {
            user: self.user,
            resource: &self.resource,
            subresource: &self.info.subresource,
            namespace: if self.resource.namespaced() { &self.info.namespace } else { "" },
            name: &self.info.name,
            now: self.now,
            dry_run,
            manager: None,
        }
    }

    /// The body as an object of `gvk`, and what was noticed in it that is not of the kind.
    pub(super) fn decode(&self, gvk: &Gvk) -> Result<(Object, Vec<String>)> {
        self.decode_as(gvk, &|_| false)
    }

    /// The same, where other versions of a body are taken as well.
    fn decode_as(&self, gvk: &Gvk, accepts: &dyn Fn(&str) -> bool) -> Result<(Object, Vec<String>)> {
        let content_type = self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let Decoded { mut object, noticed } = codec::decode(content_type, &self.body, Some(gvk))?;
        if accepts(&object.gvk().api_version()) {
            object.set(&["apiVersion"], gvk.api_version());
        }
        check_gvk(&object, gvk)?;
        let mut unknown = Noticed::default();
        if *gvk == self.resource.gvk {
            patch::apply::keep_reset(&mut object.0);
            let has_status = object.at(&["status"]).is_some();
            unknown = self.resource.schema.normalize(&mut object)?;
            // Not kept, but read: what is unknown in it is told. The kind's own empty form stays.
            let apart = self.resource.status && !self.resource.status_on_create;
            if has_status && apart && self.info.verb == "create" {
                object.remove(&["status"]);
                self.resource.schema.normalize(&mut object)?;
            }
        } else if let Some(schema) = crate::schema::Schema::builtin(gvk) {
            unknown = schema.normalize(&mut object)?;
        }
        let noticed = codec::merge_noticed(&self.body, noticed, unknown);
        let mut warnings = self.judge(gvk, noticed)?;
        warnings.extend(super::metadata::drop_repeated_owners(&mut object, false));
        Ok((object, warnings))
    }

    /// Warnings, nothing, or a refusal: as the client wants it.
    fn judge(&self, gvk: &Gvk, noticed: Noticed) -> Result<Vec<String>> {
        match self.validation()? {
            Validation::Ignore => Ok(vec![]),
            Validation::Warn => Ok(noticed.0),
            Validation::Strict => match noticed.strict_error(gvk) {
                Some(refusal) => Err(refusal),
                None => Ok(vec![]),
            },
        }
    }

    async fn stored(&self) -> Result<Arc<crate::store::Stored>> {
        let key = self.ask(false).key(&self.info.name);
        let found = self.server.store.get(&self.resource.storage, &key);
        let found = found.ok_or_else(|| Status::not_found(&self.resource.gvr, &self.info.name))?;
        versions::served(self.server, &self.resource, found).await
    }

    async fn get(&self) -> Result<Response<Body>> {
        let style = self.style(false)?;
        let version = list::parse_revision(&self.info.param("resourceVersion").unwrap_or_default())?;
        let head = self.server.store.revision();
        if version > head {
            return Err(list::too_large(version, head));
        }
        let (resource, stored) = (self.resource.clone(), self.stored().await?);
        let bytes = stored.value.len();
        if bytes < limits::APART_BYTES || style.plain(&resource) {
            return Ok(style.stored(&resource, &stored));
        }
        // A large one in a form that is made for it.
        let room = room(&self.user.name, bytes).await?;
        let make = move || {
            let response = style.stored(&resource, &stored);
            drop(room);
            response
        };
        Ok(apart::run(make).await)
    }

    async fn list(&self) -> Result<Response<Body>> {
        let style = self.style(false)?;
        let listed = list::list(self.server, self.info, &self.resource, self.now.as_second()).await?;
        Ok(style.list(&self.resource, listed).await)
    }

    async fn create(&self) -> Result<Response<Body>> {
        let style = self.style(false)?;
        let (mut object, warnings) = self.decode(&self.resource.gvk)?;
        let manager = self.manager();
        let ask = Ask { manager: Some(&manager), ..self.ask(self.dry_run()?) };
        if let Persistence::Computed(call) = self.resource.persistence {
            let owners = tracking::owners(self.server, &ask, None, &mut object);
            tracking::set_owners(&mut object, owners);
            return self.call(style, *call, object, warnings).await;
        }
        match write::create(self.server, &ask, object).await {
            Ok(written) => Ok(self.written(style, &written, &warnings)),
            Err(failure) => Err(failure.with_warnings(warnings)),
        }
    }

    async fn call(
        &self,
        style: Style,
        call: &dyn crate::resource::Call,
        mut body: Object,
        mut warnings: Vec<String>,
    ) -> Result<Response<Body>> {
        let attributes = Attributes {
            user: self.user,
            operation: Operation::Create,
            resource: &self.resource,
            subresource: &self.info.subresource,
            namespace: &self.info.namespace,
            name: &self.info.name,
            dry_run: self.dry_run()?,
        };
        let admission = &self.server.access.admission;
        warnings.extend(admission.admit_call(self.server, &attributes, &mut body).await?);
        let invocation = Invocation {
            user: self.user,
            resource: &self.resource,
            namespace: &self.info.namespace,
            name: &self.info.name,
            body,
            dry_run: self.dry_run()?,
        };
        let object = call.call(self.server, invocation).await?;
        let mut response = style.value(&self.resource, object, StatusCode::CREATED);
        add_warnings(&mut response, &warnings);
        Ok(response)
    }

    async fn update(&self) -> Result<Response<Body>> {
        let style = self.style(false)?;
        let (object, warnings) = self.decode(&self.resource.gvk)?;
        write::check_name(&object, &self.info.name)?;
        let rules = UpdateRules { creates: true, applies: false };
        let manager = self.manager();
        let ask = Ask { manager: Some(&manager), ..self.ask(self.dry_run()?) };
        // Without a revision the client means "whatever is there": then a lost race is tried again.
        let mut edit = |_: &Object| Ok(object.clone());
        match write::update(self.server, &ask, rules, &mut edit).await {
            Ok(written) => Ok(self.written(style, &written, &warnings)),
            Err(failure) => Err(failure.with_warnings(warnings)),
        }
    }

    async fn patch(&self) -> Result<Response<Body>> {
        let kind = self.patch_kind()?;
        if kind == PatchKind::Apply {
            return self.apply().await;
        }
        let style = self.style(false)?;
        let mut warnings = vec![];
        let mut edit = |old: &Object| {
            let patched = patch::apply_normalized(kind, old, &self.body, &self.resource.schema)?;
            warnings = self.judge_patched(&patched)?;
            check_gvk(&patched.object, &self.resource.gvk)?;
            Ok(patched.object)
        };
        let manager = self.manager();
        let ask = Ask { manager: Some(&manager), ..self.ask(self.dry_run()?) };
        match write::update(self.server, &ask, UpdateRules::default(), &mut edit).await {
            Ok(written) => Ok(self.written(style, &written, &warnings)),
            Err(failure) => Err(failure.with_warnings(warnings)),
        }
    }

    /// Warnings, nothing, or a refusal, for what was noticed in a patch.
    pub(super) fn judge_patched(&self, patched: &Patched) -> Result<Vec<String>> {
        match (self.validation()?, patched.strict_error()) {
            (Validation::Strict, Some(refusal)) => Err(refusal),
            (Validation::Warn, _) => Ok(patched.noticed.0.clone()),
            (Validation::Strict | Validation::Ignore, _) => Ok(vec![]),
        }
    }

    pub(super) fn written(&self, style: Style, written: &Written, noticed: &[String]) -> Response<Body> {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = style.object(&self.resource, &written.value, code);
        add_warnings(&mut response, noticed);
        add_warnings(&mut response, &written.warnings);
        response
    }

    fn deletion(&self) -> Result<Deletion> {
        let mut body = None;
        if !self.body.is_empty() {
            let content_type = self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
            let gvk = Gvk::new("", "v1", "DeleteOptions");
            body = Some(codec::decode(content_type, &self.body, Some(&gvk))?.object);
        }
        Deletion::parse(body.as_ref(), |name| self.info.param(name))
    }

    async fn delete(&self) -> Result<Response<Body>> {
        let style = self.style(false)?;
        let how = self.deletion()?;
        let mut noticed = vec![];
        if !how.says_propagation() {
            noticed
                .extend(Some(self.resource.strategy.delete_warning().to_owned()).filter(|w| !w.is_empty()));
        }
        let deleted = match delete::delete(self.server, &self.ask(how.dry_run), &how).await {
            Ok(deleted) => deleted,
            Err(failure) => return Err(failure.with_warnings(noticed)),
        };
        let code = if !deleted.gone && how.cascades_asked { StatusCode::ACCEPTED } else { StatusCode::OK };
        let mut response = style.value(&self.resource, Object(deleted.body), code);
        add_warnings(&mut response, &noticed);
        add_warnings(&mut response, &deleted.warnings);
        Ok(response)
    }

    async fn delete_collection(&self) -> Result<Response<Body>> {
        let style = self.style(false)?;
        let how = self.deletion()?;
        let listed = list::list(self.server, self.info, &self.resource, self.now.as_second()).await?;
        let how = &how;
        let deletes =
            futures::stream::iter(listed.items.clone()).map(|stored: Arc<crate::store::Stored>| async move {
                let mut ask = self.ask(how.dry_run);
                (ask.namespace, ask.name) = (stored.namespace(), stored.name());
                match delete::delete(self.server, &ask, how).await {
                    Err(gone) if gone.code() == 404 => Ok(()),
                    other => other.map(|_| ()),
                }
            });
        let mut outcomes = deletes.buffer_unordered(DELETES_AT_ONCE);
        while let Some(outcome) = outcomes.next().await {
            outcome?;
        }
        drop(outcomes);
        Ok(style.list(&self.resource, listed).await)
    }

    async fn scale(&self) -> Result<Response<Body>> {
        let style = self.style(false)?;
        let Some(paths) = &self.resource.scale else { return Err(Status::no_such_path()) };
        if self.info.verb == "get" {
            let object = converted(&self.resource, self.stored().await?.object());
            return Ok(style.encode(self.shown_scale(&style, &object, paths)?, StatusCode::OK));
        }
        let (object, warnings) = self.write_scale(paths).await?;
        let mut response = style.encode(self.shown_scale(&style, &object, paths)?, StatusCode::OK);
        add_warnings(&mut response, &warnings);
        Ok(response)
    }

    async fn subresource(&self) -> Result<Response<Body>> {
        let style = self.style(false)?;
        let sub = self.resource.subresource(&self.info.subresource).ok_or_else(Status::no_such_path)?;
        match (&sub.handler, self.info.verb.as_str()) {
            (SubresourceHandler::Part, "get") => self.get().await,
            (SubresourceHandler::Part, "update") => self.update().await,
            (SubresourceHandler::Part, "patch") => self.patch().await,
            (SubresourceHandler::Call(call), _) => {
                let (group, version, kind) = sub.kind;
                let gvk = Gvk::new(group, version, kind);
                let (body, warnings) = self.decode_as(&gvk, &|version| call.accepts(version))?;
                self.call(style, *call, body, warnings).await
            }
            // The chain has sent connections their own way.
            (SubresourceHandler::Part | SubresourceHandler::Connect(_), _) => Err(Status::no_such_path()),
        }
    }
}

/// A warning before those that a response has already.
fn prepend_warning(response: &mut Response<Body>, warning: &str) {
    warn(response, |all| all.insert(0, warning.to_owned()));
}

pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    if !warnings.is_empty() {
        warn(response, |all| all.extend_from_slice(warnings));
    }
}

/// The warnings of an answer as they are, of which its headers say as much as they may.
#[derive(Clone, Default)]
struct Warnings(Vec<String>);

/// Upstream's `Warning` headers: code 299, no agent, quoted text, each once. Where all together are too long, each is cut.
fn warn(response: &mut Response<Body>, change: impl FnOnce(&mut Vec<String>)) {
    let mut all = response.extensions_mut().remove::<Warnings>().unwrap_or_default();
    change(&mut all.0);
    let mut seen = HashSet::new();
    all.0.retain(|w| seen.insert(w.clone()));
    let cut = all.0.iter().map(|w| w.chars().count()).sum::<usize>() > limits::WARNING_CHARS;
    let headers = response.headers_mut();
    headers.remove(header::WARNING);
    let mut written = 0;
    for warning in &all.0 {
        if written >= limits::WARNING_CHARS {
            break;
        }
        let most = if cut { limits::LONG_WARNING_CHARS } else { usize::MAX };
        let mut text = String::new();
        for c in warning.chars().take(most) {
            written += 1;
            if matches!(c, '"' | '\\') {
                text.push('\\');
            }
            text.extend(Some(c).filter(|c| !c.is_control()));
        }
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
    response.extensions_mut().insert(all);
}

/// Refuses a body of another kind or version than the endpoint's.
fn check_gvk(object: &Object, expected: &Gvk) -> Result<()> {
    let got = object.gvk();
    let known = |gvk| crate::schema::Schema::builtin(gvk).is_some();
    if got != *expected && known(expected) && !known(&got) {
        let (kind, version) = (&got.kind, got.api_version());
        return Err(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: no kind {kind:?} is registered for version \
             {version:?} in scheme \"pkg/runtime/scheme.go:111\"",
            expected.kind
        )));
    }
    if got.api_version() != expected.api_version() {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            got.api_version(),
            expected.api_version()
        )));
    }
    if got.kind != expected.kind {
        return Err(Status::bad_request(format!(
            "the kind in the data ({}) does not match the expected kind ({})",
            got.kind, expected.kind
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
