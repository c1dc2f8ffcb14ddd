//! Hostile documents of other servers.

use serde_json::Map;

use super::RemoteSwagger;
use crate::aggregation;

/// A document (OpenAPI v2) of a server of `example.com/v1`, published beside itself.
pub(crate) fn document(bytes: &[u8]) {
    if let Ok(list) = serde_json::from_slice(bytes) {
        aggregation::hostile_discovery(&list);
    }
    let Some(remote) = RemoteSwagger::new("example.com", "v1", bytes) else { return };
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for _ in 0..2 {
        remote.merge(&mut paths, &mut definitions);
    }
}
