//! The gate before the store: nothing is committed that could not be read again, or that is larger than an object may be.

use std::sync::Arc;

use coracle_api::Object;

use super::versions;
use super::write::Ask;
use crate::Server;
use crate::codec::{self, depth};
use crate::limits;
use crate::patch::apply::MANAGED_FIELDS;
use crate::resource::Resource;
use crate::status::{Result, Status};
use crate::store::{Change, CommitError, Draft, Expect, Stored};

/// Why nothing was written.
pub(super) enum Unwritten {
    /// Another write came first.
    Raced,
    /// The object is larger than one may be.
    TooLarge,
    Failed(Status),
}

// === impl Unwritten ===

impl Unwritten {
    /// The failure; `None` where another write came first.
    pub(super) fn status(self) -> Option<Status> {
        match self {
            Unwritten::Raced => None,
            // Upstream passes on the words of its store, without a reason.
            Unwritten::TooLarge => Some(Status::new(500, "", "etcdserver: request is too large")),
            Unwritten::Failed(status) => Some(status),
        }
    }
}

impl From<CommitError> for Unwritten {
    fn from(e: CommitError) -> Self {
        match e {
            CommitError::Conflict(_) => Unwritten::Raced,
            CommitError::Closed => Unwritten::Failed(Status::unavailable("apiserver is shutting down")),
            other @ CommitError::Failed(_) => Unwritten::Failed(Status::internal(other)),
        }
    }
}

/// Writes an object in its stored version. `before`: what it replaces, stored and as it was read. An object that is too
/// large with the record of its owners is stored without it, as upstream does, but for server-side apply.
pub(super) async fn put(
    server: &Server,
    ask: &Ask<'_>,
    key: &str,
    before: Option<(&Arc<Stored>, &Object)>,
    new: &mut Object,
) -> Result<Arc<Stored>, Unwritten> {
    let resource = ask.resource;
    let draft = match draft(server, resource, new, before).await {
        Err(Unwritten::TooLarge) if ask.manager.is_some() && new.remove(&MANAGED_FIELDS).is_some() => {
            draft(server, resource, new, before).await
        }
        other => other,
    }?;
    let expect = before.map_or(Expect::Absent, |(stored, _)| Expect::Revision(stored.revision));
    Ok(server.store.commit(&resource.storage, key, expect, Change::Put(draft)).await?)
}

/// Removes an object; watchers see this last state.
pub(super) async fn remove(
    server: &Server,
    resource: &Resource,
    key: &str,
    stored: &Stored,
    last: &Object,
) -> Result<Arc<Stored>, Unwritten> {
    let made = in_store(server, resource, last).await?;
    let draft = server.store.draft(&resource.storage, made.as_ref().unwrap_or(last));
    let expect = Expect::Revision(stored.revision);
    let stored = server.store.commit(&resource.storage, key, expect, Change::Delete(draft)).await?;
    resource.strategy.deleted(server, last);
    Ok(stored)
}

/// An object encoded, if it may be stored. What was stored before there were limits may be changed as long as it does not
/// grow: else its finalizers could never be taken off.
async fn draft(
    server: &Server,
    resource: &Resource,
    object: &Object,
    before: Option<(&Arc<Stored>, &Object)>,
) -> Result<Draft, Unwritten> {
    let made = in_store(server, resource, object).await?;
    let object = made.as_ref().unwrap_or(object);
    if depth::exceeds(&object.0, limits::STORED_DEPTH) {
        let was = before.is_some_and(|(_, old)| depth::exceeds(&old.0, limits::STORED_DEPTH));
        if !was || depth::exceeds(&object.0, limits::BODY_DEPTH) {
            let why =
                format!("the object is nested too deeply: exceeded max depth of {}", limits::STORED_DEPTH);
            return Err(Unwritten::Failed(Status::bad_request(why)));
        }
    }
    let draft = server.store.draft(&resource.storage, object);
    let most = before.map_or(0, |(stored, _)| stored.value.len()).max(limits::STORED_BYTES);
    if draft.size() > most && stored_size(object, &draft) > most {
        return Err(Unwritten::TooLarge);
    }
    Ok(draft)
}

/// The object in the version that is stored, where it is another.
async fn in_store(
    server: &Server,
    resource: &Resource,
    object: &Object,
) -> Result<Option<Object>, Unwritten> {
    match &resource.conversion {
        None => versions::to_stored(server, resource, object).await.map_err(Unwritten::Failed),
        Some(conversion) => {
            let mut stored = object.clone();
            conversion.write(&mut stored);
            Ok(Some(stored))
        }
    }
}

/// What upstream would store: built-in kinds as protobuf, which is smaller than JSON.
fn stored_size(object: &Object, draft: &Draft) -> usize {
    codec::encode_message(&object.0).map_or(draft.size(), |message| message.len())
}
