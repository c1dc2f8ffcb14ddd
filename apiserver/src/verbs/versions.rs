//! Stored objects as a resource serves them, and back, where a webhook makes its versions. For all other kinds this costs
//! nothing: what converts them is a function, [`super::write::converted`].

use std::sync::Arc;

use coracle_api::Object;

use crate::Server;
use crate::crd::VersionHook;
use crate::resource::Resource;
use crate::status::{Result, Status};
use crate::store::{Event, Stored};

/// What one call to a webhook carries at most.
const BATCH_OBJECTS: usize = 500;
const BATCH_BYTES: usize = 1 << 20;

/// One object, as it is made now.
pub(super) async fn served(server: &Server, resource: &Resource, stored: Arc<Stored>) -> Result<Arc<Stored>> {
    let Some(conversion) = &resource.by_webhook else { return Ok(stored) };
    let to = resource.gvk.api_version();
    match local(conversion, &stored, &to) {
        Ok(there) => Ok(there),
        Err(object) => {
            let mut made = conversion.convert(server, vec![object], &to).await?;
            let made = made.pop().ok_or_else(|| Status::internal("nothing converted"))?;
            Ok(stored.restated(&made))
        }
    }
}

/// Many objects, as they were first made since they are stored; those that were not yet are made together.
pub(super) async fn all_served(
    server: &Server,
    resource: &Resource,
    mut items: Vec<Arc<Stored>>,
) -> Result<Vec<Arc<Stored>>> {
    let Some(conversion) = &resource.by_webhook else { return Ok(items) };
    let to = resource.gvk.api_version();
    let (mut places, mut objects, mut bytes) = (vec![], vec![], 0);
    for at in 0..items.len() {
        if let Some(made) = items[at].forms.version(conversion.edition, &to) {
            items[at] = made;
            continue;
        }
        match local(conversion, &items[at], &to) {
            Ok(there) => items[at] = there,
            Err(object) => {
                bytes += items[at].value.len();
                places.push(at);
                objects.push(object);
            }
        }
        if objects.len() >= BATCH_OBJECTS || bytes >= BATCH_BYTES {
            let batch = (std::mem::take(&mut places), std::mem::take(&mut objects));
            make(server, conversion, &to, batch, &mut items).await?;
            bytes = 0;
        }
    }
    make(server, conversion, &to, (places, objects), &mut items).await?;
    Ok(items)
}

async fn make(
    server: &Server,
    conversion: &VersionHook,
    to: &str,
    (places, objects): (Vec<usize>, Vec<Object>),
    items: &mut [Arc<Stored>],
) -> Result<()> {
    let made = conversion.convert(server, objects, to).await?;
    for (at, object) in places.into_iter().zip(made) {
        let stored = &items[at];
        let made = stored.restated(&object);
        stored.forms.keep_version(conversion.edition, to, &made);
        items[at] = made;
    }
    Ok(())
}

/// What happened, to objects of the version that is served.
pub(super) async fn events_served(
    server: &Server,
    resource: &Resource,
    mut events: Vec<Event>,
) -> Result<Vec<Event>> {
    if resource.by_webhook.is_none() {
        return Ok(events);
    }
    let both = events.iter().flat_map(|e| [Some(&e.object), e.previous.as_ref()].into_iter().flatten());
    let mut made = all_served(server, resource, both.cloned().collect()).await?.into_iter();
    for event in &mut events {
        let mut place = |stored: &mut Arc<Stored>| {
            if let Some(next) = made.next() {
                *stored = next;
            }
        };
        place(&mut event.object);
        event.previous.as_mut().map(&mut place);
    }
    Ok(events)
}

/// An object in the stored version.
pub(super) async fn to_stored(
    server: &Server,
    resource: &Resource,
    object: &Object,
) -> Result<Option<Object>> {
    match &resource.by_webhook {
        Some(conversion) if object.api_version() != conversion.stored => {
            let made = conversion.convert(server, vec![object.clone()], &conversion.stored).await?;
            Ok(made.into_iter().next())
        }
        _ => Ok(None),
    }
}

/// One object without asking anybody, for those who cannot wait.
pub(super) fn served_here(resource: &Resource, stored: &Arc<Stored>) -> Result<Arc<Stored>> {
    let Some(conversion) = &resource.by_webhook else { return Ok(stored.clone()) };
    let to = resource.gvk.api_version();
    let kept = stored.forms.version(conversion.edition, &to);
    kept.map_or_else(|| local(conversion, stored, &to), Ok).map_err(|object| {
        Status::new(
            500,
            "",
            format!("conversion webhook for {} failed: it cannot be asked here", object.gvk()),
        )
    })
}

/// An object that is of the right version already; or the one to be converted.
fn local(conversion: &VersionHook, stored: &Arc<Stored>, to: &str) -> Result<Arc<Stored>, Object> {
    let object = stored.object();
    if object.api_version() != to {
        return Err(object);
    }
    let mut present = object.clone();
    conversion.catch_up(&mut present);
    Ok(if present == object { stored.clone() } else { stored.restated(&present) })
}
