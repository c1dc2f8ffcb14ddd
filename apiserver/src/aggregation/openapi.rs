//! Another server's OpenAPI documents: where that of the third version is, which is asked of the server whenever a client
//! wants it, and its part of the one of the second version, which this server answers.

use http::StatusCode;
use serde_json::Value;

use super::discovery::get;
use super::remote::Remote;
use crate::Server;
use crate::apart;
use crate::openapi::RemoteSwagger;

/// The URL of the group version's document with its hash, as the server's index says; `None` where it has none.
pub(super) async fn fetch(server: &Server, remote: &Remote) -> Option<String> {
    let (code, _, body) = get(server, remote, "/openapi/v3", "application/json").await.ok()?;
    if code != StatusCode::OK {
        return None;
    }
    let index: Value = serde_json::from_slice(&body).ok()?;
    let path = crate::openapi::path(&remote.group, &remote.version);
    let url = index["paths"][&path]["serverRelativeURL"].as_str()?;
    // A server's word is not to lead clients elsewhere on this one.
    url.starts_with(&format!("/openapi/v3/{path}")).then(|| url.to_owned())
}

/// What the server's document of the second version says of the group version; `None` where it has none.
pub(super) async fn swagger(server: &Server, remote: &Remote) -> Option<RemoteSwagger> {
    let (code, _, body) = get(server, remote, "/openapi/v2", "application/json").await.ok()?;
    if code != StatusCode::OK {
        return None;
    }
    let (group, version) = (remote.group.clone(), remote.version.clone());
    let read = move || RemoteSwagger::new(&group, &version, &body);
    apart::spawn(read).await.ok().flatten()
}
