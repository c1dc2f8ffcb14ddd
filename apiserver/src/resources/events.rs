//! `events.k8s.io`: the newer form of events, stored with the core ones.

use crate::resource::{NAMESPACED, Row};

const KIND: Row = Row { group: "events.k8s.io", ..NAMESPACED };

pub(super) static ROWS: &[Row] =
    &[Row { kind: "Event", plural: "events", short: &["ev"], storage: "/events", ..KIND }];
