//! Which requests a webhook or policy is about: rules, selectors, and equivalent versions of what is asked for.

use std::borrow::Cow;
use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use coracle_api::{Gvk, Gvr, Object};
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::Server;
use crate::cluster::{Cluster, core};
use crate::resource::{Resource, SubresourceHandler};
use crate::schema::Schema;
use crate::status::{Result, Status};
use crate::verbs::{scale, write};

/// What a webhook or policy applies to.
#[derive(Debug)]
pub(super) struct Criteria {
    /// Absent: everything (bindings without rules).
    rules: Option<Vec<Rule>>,
    excluded: Vec<Rule>,
    namespaces: LabelSelector,
    objects: LabelSelector,
    equivalent: bool,
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resources with their subresources, which are empty for the main endpoint.
    resources: Vec<(String, String)>,
    scope: String,
    names: Vec<String>,
}

/// How a request was matched: as what was asked for, or as another version of the same.
#[derive(Clone)]
pub(super) enum Matched {
    Own,
    Equivalent(Arc<Resource>),
}

// === impl Criteria ===

impl Criteria {
    /// From a webhook.
    pub(super) fn of_webhook(hook: &Value) -> Self {
        Criteria {
            rules: Some(rules(&hook["rules"])),
            excluded: vec![],
            namespaces: LabelSelector::of_json(&hook["namespaceSelector"]),
            objects: LabelSelector::of_json(&hook["objectSelector"]),
            equivalent: hook["matchPolicy"] != "Exact",
        }
    }

    /// From a policy's `matchConstraints` or a binding's `matchResources`.
    pub(super) fn of_policy(matching: &Value) -> Self {
        let wanted = rules(&matching["resourceRules"]);
        Criteria {
            rules: (!wanted.is_empty()).then_some(wanted),
            excluded: rules(&matching["excludeResourceRules"]),
            namespaces: LabelSelector::of_json(&matching["namespaceSelector"]),
            objects: LabelSelector::of_json(&matching["objectSelector"]),
            equivalent: matching["matchPolicy"] != "Exact",
        }
    }

    pub(super) fn find(
        &self,
        server: &Server,
        what: &Attributes<'_>,
        new: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Option<Matched>> {
        let matched = match &self.rules {
            None => Some(Matched::Own),
            Some(rules) => self.by_rules(rules, server, what),
        };
        let Some(matched) = matched else { return Ok(None) };
        if self.by_rules(&self.excluded, server, what).is_some() {
            return Ok(None);
        }
        let labelled = |o: Option<&Object>| o.is_some_and(|o| self.objects.matches(|key| o.label(key)));
        if !self.objects.is_empty() && !labelled(new) && !labelled(old) {
            return Ok(None);
        }
        if !self.in_namespace(server, what, new)? {
            return Ok(None);
        }
        matched.check(what)?;
        Ok(Some(matched))
    }

    fn by_rules(&self, rules: &[Rule], server: &Server, what: &Attributes<'_>) -> Option<Matched> {
        let gvr = &what.resource.gvr;
        if rules.iter().any(|rule| rule.matches(gvr, what)) {
            return Some(Matched::Own);
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let catalog = server.registry.snapshot();
        let same = |r: &&Arc<Resource>| r.storage == what.resource.storage && r.gvr != *gvr;
        let mut others = catalog.resources().filter(same);
        let found = others.find(|r| rules.iter().any(|rule| rule.matches(&r.gvr, what)));
        found.map(|r| Matched::Equivalent(r.clone()))
    }

    fn in_namespace(&self, server: &Server, what: &Attributes<'_>, new: Option<&Object>) -> Result<bool> {
        let namespace = effective_namespace(what);
        if namespace.is_empty() || self.namespaces.is_empty() {
            return Ok(true);
        }
        let writes = matches!(what.operation, Operation::Create | Operation::Update);
        let stored;
        let labels_of = match new {
            Some(new) if writes && what.is("", "namespaces") => new,
            _ => {
                stored = Cluster::get(server, &core("namespaces"), "", namespace)
                    .ok_or_else(|| Status::not_found(&core("namespaces"), namespace))?;
                &stored
            }
        };
        Ok(self.namespaces.matches(|key| labels_of.label(key)))
    }
}

// === impl Rule ===

impl Rule {
    fn matches(&self, gvr: &Gvr, what: &Attributes<'_>) -> bool {
        let listed = |list: &[String], value: &str| list.iter().any(|item| item == "*" || item == value);
        let resource = |(resource, sub): &(String, String)| {
            (resource == "*" || *resource == gvr.resource) && (sub == "*" || sub == what.subresource)
        };
        // A Namespace is in itself, and yet of the cluster.
        let of_cluster = what.namespace.is_empty();
        listed(&self.operations, what.operation.name())
            && listed(&self.groups, &gvr.group)
            && listed(&self.versions, &gvr.version)
            && self.resources.iter().any(resource)
            && match self.scope.as_str() {
                "Cluster" => of_cluster,
                "Namespaced" => !of_cluster,
                _ => true,
            }
            && (self.names.is_empty() || self.names.iter().any(|name| name == what.name))
    }
}

fn rules(list: &Value) -> Vec<Rule> {
    let texts = |rule: &Value, key: &str| -> Vec<String> {
        let items = rule[key].as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let rule = |rule: &Value| Rule {
        operations: texts(rule, "operations"),
        groups: texts(rule, "apiGroups"),
        versions: texts(rule, "apiVersions"),
        resources: texts(rule, "resources")
            .iter()
            .map(|r| r.split_once('/').unwrap_or((r, "")))
            .map(|(resource, sub)| (resource.to_owned(), sub.to_owned()))
            .collect(),
        scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        names: texts(rule, "resourceNames"),
    };
    list.as_array().into_iter().flatten().map(rule).collect()
}

/// The namespace a request is about: a Namespace is in itself.
pub(super) fn effective_namespace<'a>(what: &Attributes<'a>) -> &'a str {
    let gvr = &what.resource.gvr;
    if gvr.group.is_empty() && gvr.resource == "namespaces" { what.name } else { what.namespace }
}

/// Configurations of admission itself are never subject to it: nobody shall lock themselves out. And what a call (a binding)
/// writes has been admitted as that call.
pub(super) fn is_exempt(what: &Attributes<'_>) -> bool {
    let handler = what.resource.subresource(what.subresource).map(|s| &s.handler);
    let by_call = what.operation == Operation::Update && matches!(handler, Some(SubresourceHandler::Call(_)));
    by_call || what.resource.gvr.group == "admissionregistration.k8s.io"
}

// === impl Matched ===

impl Matched {
    /// Refuses a view that only a conversion webhook could make: admission does not ask one.
    fn check(&self, what: &Attributes<'_>) -> Result<()> {
        match self {
            Matched::Equivalent(other)
                if what.resource.by_webhook.is_some() && what.subresource != "scale" =>
            {
                let why = format!(
                    "conversion webhook for {} failed: admission does not ask it for {}",
                    what.resource.gvk, other.gvk
                );
                Err(Status::new(500, "", why))
            }
            _ => Ok(()),
        }
    }

    fn resource<'a>(&'a self, what: &Attributes<'a>) -> &'a Resource {
        match self {
            Matched::Own => what.resource,
            Matched::Equivalent(other) => other,
        }
    }

    fn kind(&self, what: &Attributes<'_>) -> Gvk {
        body_kind(self.resource(what), what.subresource)
    }

    /// The schema of the view.
    pub(super) fn schema(&self, what: &Attributes<'_>) -> Arc<Schema> {
        let resource = self.resource(what);
        let kind = self.kind(what);
        let other = if kind == resource.gvk { None } else { Schema::builtin(&kind) };
        other.unwrap_or_else(|| resource.schema.clone())
    }

    /// An object of the request as the hook or policy wants to see it.
    pub(super) fn view<'o>(&self, what: &Attributes<'_>, object: &'o Object) -> Cow<'o, Object> {
        if let (Some(paths), "scale") = (&what.resource.scale, what.subresource) {
            return Cow::Owned(scale::of(object, paths));
        }
        match self {
            Matched::Own => Cow::Borrowed(object),
            Matched::Equivalent(other) => {
                let stored = stored_form(what.resource, object.clone());
                Cow::Owned(write::converted(other, stored))
            }
        }
    }

    /// Takes over a view that has been changed, as a request of the same content would have been read.
    pub(super) fn take_back(
        &self,
        what: &Attributes<'_>,
        changed: Object,
        object: &mut Object,
    ) -> Result<()> {
        if let (Some(paths), "scale") = (&what.resource.scale, what.subresource) {
            return scale::apply(&changed, object, paths, what.resource);
        }
        let mut changed = match self {
            Matched::Own => changed,
            Matched::Equivalent(other) => write::converted(what.resource, stored_form(other, changed)),
        };
        if what.operation == Operation::Create {
            // All may be changed but who the object is, and since when.
            for field in ["uid", "creationTimestamp"] {
                if let Some(own) = object.at(&["metadata", field]) {
                    changed.set(&["metadata", field], own.clone());
                }
            }
            if changed.namespace() != object.namespace() {
                return Err(Status::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
        *object = changed;
        let kind = body_kind(what.resource, what.subresource);
        if kind == what.resource.gvk {
            what.resource.schema.normalize(object)?;
            what.resource.strategy.default(object);
        } else if let Some(schema) = Schema::builtin(&kind) {
            schema.normalize(object)?;
        }
        Ok(())
    }

    /// What a review and the variable `request` both tell of a request.
    pub(super) fn request(&self, what: &Attributes<'_>) -> Value {
        let kind = |k: &Gvk| json!({"group": k.group, "version": k.version, "kind": k.kind});
        let resource = |r: &Gvr| json!({"group": r.group, "version": r.version, "resource": r.resource});
        let mut request = json!({
            "kind": kind(&self.kind(what)),
            "resource": resource(&self.resource(what).gvr),
            "requestKind": kind(&body_kind(what.resource, what.subresource)),
            "requestResource": resource(&what.resource.gvr),
            "operation": what.operation.name(),
            "userInfo": user(what.user),
            "dryRun": what.dry_run,
            "options": options(what),
        });
        let optional = [
            ("subResource", what.subresource),
            ("requestSubResource", what.subresource),
            ("name", what.name),
            ("namespace", effective_namespace(what)),
        ];
        for (field, value) in optional.into_iter().filter(|(_, value)| !value.is_empty()) {
            request[field] = value.into();
        }
        request
    }
}

/// An object of the version a resource serves in the stored version.
fn stored_form(resource: &Resource, mut object: Object) -> Object {
    if let Some(conversion) = &resource.conversion {
        conversion.write(&mut object);
    }
    object
}

/// The kind of what is sent to an endpoint.
fn body_kind(resource: &Resource, subresource: &str) -> Gvk {
    if subresource == "scale" && resource.scale.is_some() {
        return scale::gvk();
    }
    match resource.subresource(subresource) {
        Some(sub) if !matches!(sub.handler, SubresourceHandler::Part) => {
            let (group, version, kind) = sub.kind;
            Gvk::new(group, version, kind)
        }
        _ => resource.gvk.clone(),
    }
}

fn user(user: &crate::authn::User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn options(what: &Attributes<'_>) -> Value {
    let kind = match what.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if what.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}
