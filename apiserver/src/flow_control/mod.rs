//! API priority and fairness: who waits for whom when more is asked than can be answered at once.
//!
//! FlowSchemas say to which priority level a request belongs, and whose flow it is; a level has seats of its own and lends
//! what it does not need. Where a level's seats are taken, requests wait in queues that flows are dealt over, so that
//! one flow fills few of them (`dispatch`). A request holds its seats until its answer's head is there; dropping it
//! gives them back, wherever it was.

mod bodies;
mod dangling;
mod dispatch;
mod schemas;
mod streams;
mod width;

use std::sync::Arc;
use std::time::Duration;

use coracle_api::{Gvr, Object};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::authn::User;
use crate::cluster::Cluster;
use crate::metrics::{Counted, FlowLabels, Metrics};
use crate::request::RequestInfo;
use crate::status::Status;

pub use bodies::Bodies;
pub use dangling::run as tell_dangling;
use dispatch::{Arrival, Dispatcher, Ticket};
use schemas::Schemas;
pub use streams::{Held, Streams};
pub use width::width;

const FLOW_SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// The server's seats and who may have them.
pub struct FlowControl {
    seats: u32,
    current: Mutex<Option<([u64; 2], Arc<Schemas>)>>,
    dispatcher: Arc<Mutex<Dispatcher>>,
}

/// Where a request belongs.
#[derive(Clone, Debug)]
pub struct Flow {
    pub schema: Arc<str>,
    pub level: Arc<str>,
    schema_uid: Arc<str>,
    level_uid: Arc<str>,
    /// Whether its level has no bound.
    exempt: bool,
    /// Of the schema and the user or namespace that it tells apart.
    hash: u64,
}

/// Seats that are held until this is dropped.
pub struct Seated {
    dispatcher: Arc<Mutex<Dispatcher>>,
    ticket: Ticket,
}

/// All FlowSchemas, and all levels.
fn objects(cluster: &dyn Cluster) -> [Vec<Object>; 2] {
    schemas::KINDS.map(|storage| {
        let (group, plural) = storage.split_once('/').unwrap_or_default();
        cluster.list(&Gvr::new(group, "v1", plural), "")
    })
}

// === impl FlowControl ===

impl FlowControl {
    /// `seats` are what all levels share: upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight` together.
    pub fn new(seats: u32) -> Self {
        FlowControl {
            seats,
            current: Mutex::default(),
            dispatcher: Arc::new(Mutex::new(Dispatcher::new(seats))),
        }
    }

    /// The flow of a request, by the FlowSchemas as they are now.
    pub fn classify(&self, cluster: &dyn Cluster, user: &User, info: &RequestInfo) -> Flow {
        self.schemas(cluster).classify(user, info)
    }

    fn schemas(&self, cluster: &dyn Cluster) -> Arc<Schemas> {
        let seen = schemas::KINDS.map(|storage| cluster.generation(storage));
        let mut current = self.current.lock();
        if let Some((at, schemas)) = &*current
            && *at == seen
        {
            return schemas.clone();
        }
        let [schemas, levels] = objects(cluster);
        let made = Arc::new(Schemas::of(&schemas, &levels));
        self.dispatcher.lock().configure(made.levels(self.seats));
        *current = Some((seen, made.clone()));
        made
    }

    /// Waits for `width` seats, at most for so long.
    ///
    /// # Errors
    /// 429 where the level does not queue, the flow's queues are full, or the time is over.
    pub async fn enter(
        &self,
        metrics: &Metrics,
        flow: &Flow,
        width: u32,
        patience: Duration,
    ) -> Result<Seated, Status> {
        let labels =
            FlowLabels { priority_level: flow.level.to_string(), flow_schema: flow.schema.to_string() };
        let arrival = self.dispatcher.lock().arrive(&flow.level, flow.hash, width);
        let seated = |ticket| {
            metrics.flows.dispatched(&labels);
            Seated { dispatcher: self.dispatcher.clone(), ticket }
        };
        let reason = match arrival {
            Arrival::Seated(ticket) => return Ok(seated(ticket)),
            Arrival::Refused(reason) => reason,
            Arrival::Waiting(ticket, turn) => {
                // Given back, or out of the queue, when the client goes away here.
                let place = Seated { dispatcher: self.dispatcher.clone(), ticket };
                let waiting = metrics.flows.waiting(&labels);
                let _counted = Counted::new(waiting);
                match tokio::time::timeout(patience, turn).await {
                    Ok(Ok(())) => {
                        metrics.flows.dispatched(&labels);
                        return Ok(place);
                    }
                    // The level is gone, or it took too long.
                    Ok(Err(_)) | Err(_) => "time-out",
                }
            }
        };
        metrics.flows.rejected(&labels, reason);
        Err(Status::too_many_requests("Too many requests, please try again later.", 1))
    }

    /// Makes the numbers those of now: the levels' seats, and nothing of what is no longer there.
    pub fn show(&self, cluster: &dyn Cluster, metrics: &Metrics) {
        let schemas = self.schemas(cluster);
        metrics.flows.retain(|labels| schemas.counts(&labels.flow_schema, &labels.priority_level));
        metrics.flows.show(&self.levels());
    }

    /// The numbers of each level that `/metrics` shows: name, seats taken, nominal seats.
    fn levels(&self) -> Vec<(Arc<str>, u32, u32)> {
        self.dispatcher.lock().levels()
    }
}

// === impl Flow ===

impl Flow {
    /// Says in an answer which objects decided.
    pub fn mark(&self, headers: &mut HeaderMap) {
        for (name, uid) in [(FLOW_SCHEMA, &self.schema_uid), (PRIORITY_LEVEL, &self.level_uid)] {
            if let Ok(uid) = HeaderValue::from_str(uid) {
                headers.insert(name, uid);
            }
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.dispatcher.lock().leave(&self.ticket);
    }
}
