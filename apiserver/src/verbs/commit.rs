//! The gate before the store: nothing is committed that could not be read again, or that is larger than an object may be.

use std::sync::Arc;

use coracle_api::Object;

use super::versions;
use super::write::Ask;
use crate::Server;
use crate::admission::Attributes;
use crate::codec::{self, depth};
use crate::limits;
use crate::patch::apply::MANAGED_FIELDS;
use crate::resource::Resource;
use crate::status::{Result, Status};
use crate::store::{Change, CommitError, Draft, Expect, Holding, Stored, Write};

/// Why nothing was written.
pub(super) enum Unwritten {
    /// Another write came first.
    Raced,
    /// One came before what was to be written with this.
    Stale,
    /// The object is larger than one may be.
    TooLarge,
    Failed(Status),
}

// === impl Unwritten ===

impl Unwritten {
    /// The failure; `None` where another write came first.
    pub(super) fn status(self) -> Option<Status> {
        match self {
            Unwritten::Raced | Unwritten::Stale => None,
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
            CommitError::Stale => Unwritten::Stale,
            CommitError::Closed => Unwritten::Failed(Status::unavailable("apiserver is shutting down")),
            other @ CommitError::Failed(_) => Unwritten::Failed(Status::internal(other)),
        }
    }
}

/// What a write takes along: it happens with the write, or not at all, whatever becomes of the request.
#[derive(Default)]
pub(super) struct Along<'a> {
    /// Set aside in memory.
    pub(super) hold: Holding,
    /// The books of quotas; made anew, for what is asked, where somebody else has written one of them meanwhile.
    pub(super) charges: Vec<Write>,
    pub(super) what: Option<&'a Attributes<'a>>,
}

/// Writes an object in its stored version. `before`: what it replaces, stored and as it was read.
pub(super) async fn put(
    server: &Server,
    ask: &Ask<'_>,
    key: &str,
    before: Option<(&Arc<Stored>, &Object)>,
    new: &mut Object,
    along: Along<'_>,
) -> Result<Arc<Stored>, Unwritten> {
    let Along { hold, mut charges, what } = along;
    let write = write(server, ask, key, before, new).await?;
    let Some(what) = what.filter(|_| !charges.is_empty()) else {
        return Ok(server.store.commit_with(write, charges, hold).await?);
    };
    loop {
        match server.store.commit_with(write.clone(), charges, hold.clone()).await {
            Err(CommitError::Stale) => {
                let old = before.map(|(_, old)| old);
                let anew = server.access.admission.charge(server, what, new, old).await;
                charges = anew.map_err(Unwritten::Failed)?;
            }
            other => return Ok(other?),
        }
    }
}

/// The write of an object, encoded. One that is too large with the record of its owners is stored without it, as upstream
/// does, but for server-side apply.
pub(super) async fn write(
    server: &Server,
    ask: &Ask<'_>,
    key: &str,
    before: Option<(&Arc<Stored>, &Object)>,
    new: &mut Object,
) -> Result<Write, Unwritten> {
    let resource = ask.resource;
    let draft = match draft(server, resource, new, before).await {
        Err(Unwritten::TooLarge) if ask.manager.is_some() && new.remove(&MANAGED_FIELDS).is_some() => {
            draft(server, resource, new, before).await
        }
        other => other,
    }?;
    let expect = before.map_or(Expect::Absent, |(stored, _)| Expect::Revision(stored.revision));
    Ok(Write { resource: resource.storage.clone(), key: key.into(), expect, change: Change::Put(draft) })
}

/// Removes an object, which gives up what it holds; watchers see this last state.
pub(super) async fn remove(
    server: &Server,
    resource: &Resource,
    key: &str,
    (stored, old): (&Stored, &Object),
    last: &Object,
) -> Result<Arc<Stored>, Unwritten> {
    let made = in_store(server, resource, last).await?;
    let draft = server.store.draft(&resource.storage, made.as_ref().unwrap_or(last));
    let expect = Expect::Revision(stored.revision);
    let change = Change::Delete(draft);
    let write = Write { resource: resource.storage.clone(), key: key.into(), expect, change };
    // What is stored is what it holds.
    let hold = resource.strategy.give_up(server, old);
    Ok(server.store.commit_with(write, vec![], hold).await?)
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
