//! Services in nftables: the state of Services and EndpointSlices rendered to one table, replaced in one transaction.

pub const TABLE: &str = "coracle";
