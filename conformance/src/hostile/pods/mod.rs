//! Attackers in pods: rows of scripts, and sessions with containers.

mod files;
mod hogs;
mod kernel;
mod packets;
mod play;
mod runtime;
mod sessions;
mod shared;
mod websockets;

use super::book::Attack;
pub(super) use play::{end, manifest, play, start};

/// A pod, and what must become of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod {
    /// The Pod Security level of its namespace.
    pub(super) level: &'static str,
    /// JSON that is added to its spec; containers there are further ones.
    pub(super) spec: &'static str,
    /// JSON that is added to its container `c`.
    pub(super) container: &'static str,
    /// What `c` does, with `held` before each deed that must fail.
    pub(super) script: &'static str,
    /// Objects that are made before: the path below the namespace, and JSON.
    pub(super) objects: &'static [(&'static str, &'static str)],
    pub(super) ends: Ends,
}

/// What must become of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// The API server does not take it.
    Refused(&'static [u16]),
    /// The node does not run it, and says why.
    Never,
    /// Each of its deeds fails.
    Held,
    /// One of the two.
    NeverOrHeld,
    /// It goes on for so many seconds, a fifth of them in the quick book; then it is looked at, and deleted.
    Lasts(u64),
    /// It does not live, for this reason.
    Killed(&'static str),
    /// The node does not run it, or it does not live for this reason.
    NeverOrKilled(&'static str),
}

/// Uid 1000, no capabilities, the default filter.
pub(super) const RESTRICTED: Pod = Pod {
    level: "restricted",
    spec: r#"{"securityContext":{"runAsNonRoot":true,"runAsUser":1000,"seccompProfile":{"type":"RuntimeDefault"}}}"#,
    container: r#"{"securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}"#,
    script: "",
    objects: &[],
    ends: Ends::Held,
};

/// Root with the capabilities that containers have by default, and the default filter.
pub(super) const BASELINE: Pod = Pod {
    level: "baseline",
    spec: r#"{"securityContext":{"seccompProfile":{"type":"RuntimeDefault"}}}"#,
    container: "{}",
    ..RESTRICTED
};

pub(super) fn attacks() -> Vec<Attack> {
    [
        kernel::ATTACKS,
        runtime::ATTACKS,
        files::ATTACKS,
        hogs::ATTACKS,
        shared::ATTACKS,
        packets::ATTACKS,
        sessions::ATTACKS,
        websockets::ATTACKS,
    ]
    .concat()
}
