//! The server as its own client: reads and writes that plugins and handlers make inside a request.
//!
//! Reads see the store's memory. Writes take the same way as a client's (defaults, admission, validation), without
//! authorisation: the caller has decided that already.

use std::sync::Arc;

use coracle_api::{Gvr, Object, names};
use jiff::Timestamp;
use serde_json::Value;

use super::write::{Ask, UpdateRules, Written, converted, key};
use super::{delete, versions, write};
use crate::Server;
use crate::authn::User;
use crate::resource::Resource;
use crate::status::{Result, Status};
use crate::store::Write;

/// A `DELETE` inside the server.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation: Option<String>,
    /// `orphanDependents: false` in the old form: an unfinished delete is then answered 202.
    pub cascades_asked: bool,
    pub dry_run: bool,
}

impl Server {
    /// The object, in the version `gvr` names. 404 where it, or the kind, does not exist. `namespace` is empty for
    /// cluster-wide kinds.
    pub fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Object> {
        let resource = self.resource(gvr)?;
        let stored = self.store.get(&resource.storage, &key(&resource, namespace, name));
        let stored = stored.ok_or_else(|| Status::not_found(gvr, name))?;
        Ok(converted(&resource, versions::served_here(&resource, &stored)?.object()))
    }

    /// All objects of a namespace, or of all where `namespace` is empty.
    pub fn list(&self, gvr: &Gvr, namespace: &str) -> Result<Vec<Object>> {
        let resource = self.resource(gvr)?;
        let prefix = super::list::prefix(&resource, namespace);
        let view = self.store.list(&resource.storage, &prefix);
        let objects = view.items.iter().map(|s| {
            let stored = versions::served_here(&resource, s)?;
            Ok(converted(&resource, stored.object()))
        });
        objects.collect()
    }

    pub async fn create(
        &self,
        user: &User,
        gvr: &Gvr,
        namespace: &str,
        mut new: Object,
        dry_run: bool,
    ) -> Result<Object> {
        let resource = self.resource(gvr)?;
        new.set_gvk(&resource.gvk);
        resource.schema.normalize(&mut new)?;
        let ask = ask(user, &resource, "", namespace, "", dry_run);
        object(&resource, &write::create(self, &ask, new).await?)
    }

    /// Reads, changes and writes until nobody else wrote in between. `subresource` is `""`, `status`, or a part.
    #[allow(clippy::too_many_arguments, reason = "each is a part of the request's address")]
    pub async fn modify(
        &self,
        user: &User,
        gvr: &Gvr,
        subresource: &str,
        namespace: &str,
        name: &str,
        dry_run: bool,
        change: &(dyn Fn(&mut Object) -> Result<()> + Send + Sync),
    ) -> Result<Object> {
        let resource = self.resource(gvr)?;
        let ask = ask(user, &resource, subresource, namespace, name, dry_run);
        let mut edit = |old: &Object| changed(&resource, old, change);
        object(&resource, &write::update(self, &ask, UpdateRules::default(), &mut edit).await?)
    }

    /// The write that [`Server::modify`] would make, not made, for another to take along; `None` where it would change nothing.
    pub(crate) async fn stage(
        &self,
        user: &User,
        gvr: &Gvr,
        subresource: &str,
        namespace: &str,
        name: &str,
        change: &(dyn Fn(&mut Object) -> Result<()> + Send + Sync),
    ) -> Result<Option<Write>> {
        let resource = self.resource(gvr)?;
        let ask = ask(user, &resource, subresource, namespace, name, false);
        write::stage(self, &ask, &mut |old| changed(&resource, old, change)).await
    }

    /// Deletes as a client would; answers the object as it stands afterwards, or a `Status` object.
    pub async fn delete(
        &self,
        user: &User,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        how: &Deletion,
    ) -> Result<Value> {
        let resource = self.resource(gvr)?;
        let ask = ask(user, &resource, "", namespace, name, how.dry_run);
        Ok(delete::delete(self, &ask, how).await?.body)
    }

    fn resource(&self, gvr: &Gvr) -> Result<Arc<Resource>> {
        self.registry.lookup(gvr).ok_or_else(Status::no_such_path)
    }
}

fn ask<'a>(
    user: &'a User,
    resource: &'a Resource,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
    dry_run: bool,
) -> Ask<'a> {
    // What the server does within a client's request has no owner; the client's own write has one.
    let manager = (user.name == names::USER_APISERVER).then_some(super::tracking::SERVER);
    Ask { user, resource, subresource, namespace, name, now: Timestamp::now(), dry_run, manager }
}

/// The object with a change made to it.
fn changed(
    resource: &Resource,
    old: &Object,
    change: &(dyn Fn(&mut Object) -> Result<()> + Send + Sync),
) -> Result<Object> {
    let mut new = old.clone();
    change(&mut new)?;
    resource.schema.normalize(&mut new)?;
    Ok(new)
}

fn object(resource: &Resource, written: &Written) -> Result<Object> {
    let object = serde_json::from_slice(&written.value).map_err(Status::internal)?;
    Ok(converted(resource, Object(object)))
}
