//! The book: what is known of each attack before it is played.

use std::fmt;

use anyhow::Result;
use futures::future::BoxFuture;

use super::scene::Scene;
use super::{api, images, peers, pods};

/// One attack.
#[derive(Clone)]
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// Numbers in the list of findings, and names of the same idea elsewhere.
    pub(super) findings: &'static str,
    pub(super) by: By,
    pub(super) does: &'static str,
    pub(super) must: &'static str,
    /// Whether it is part of the quick book.
    pub(super) quick: bool,
    pub(super) how: How,
}

/// Who somebody is for the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Has an address and no name.
    Peer,
    /// A token that reads one namespace.
    Viewer,
    /// A token that is bound to `admin` in one namespace.
    Tenant,
    /// A token that is bound to `cluster-admin` in one namespace.
    Owner,
    /// A node that is no machine.
    Node,
    /// The administrator: what operators, and mistakes, do with many rights.
    Operator,
    /// A process in a pod.
    Pod,
    /// Who serves images.
    Registry,
}

#[derive(Clone, Copy)]
pub(super) enum How {
    /// Requests with the answers they must get.
    Asks(&'static [Ask]),
    /// A pod, and what must become of it.
    Pod(&'static pods::Pod),
    /// What needs no namespace.
    Peer(Program),
    /// What gets a namespace of its own, which is deleted afterwards.
    Tenant(Program),
}

/// Gives how it was refused, or what became of it; an error is a fault.
pub(super) type Program = for<'a> fn(&'a Scene<'a>) -> BoxFuture<'a, Result<String>>;

/// One request. In its texts `{ns}` is the attacker's namespace, and `{canary}` a directory of the host's.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    pub(super) by: By,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) headers: &'static [(&'static str, &'static str)],
    pub(super) body: &'static str,
    /// Any of these.
    pub(super) codes: &'static [u16],
}

// === impl Ask ===

impl Ask {
    pub(super) const GET: Ask =
        Ask { by: By::Tenant, method: "GET", path: "", headers: &[], body: "", codes: &[403] };
    pub(super) const POST: Ask =
        Ask { method: "POST", headers: &[("content-type", "application/json")], ..Ask::GET };
    pub(super) const PUT: Ask = Ask { method: "PUT", ..Ask::POST };
    pub(super) const DELETE: Ask = Ask { method: "DELETE", ..Ask::GET };
    pub(super) const PATCH: Ask =
        Ask { method: "PATCH", headers: &[("content-type", "application/merge-patch+json")], ..Ask::GET };
}

// === impl By ===

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Peer => "TCP peer",
            By::Viewer => "read-only token",
            By::Tenant => "tenant user",
            By::Owner => "namespaced cluster-admin",
            By::Node => "node identity",
            By::Operator => "operator",
            By::Pod => "pod",
            By::Registry => "registry",
        })
    }
}

/// All attacks, in the order they are played.
pub(super) fn all() -> Vec<Attack> {
    [peers::ATTACKS, api::attacks().as_slice(), pods::attacks().as_slice(), images::attacks().as_slice()]
        .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_the_quick_book_has_every_kind_of_attacker() {
        let all = all();
        let names: std::collections::BTreeSet<&str> = all.iter().map(|a| a.name).collect();
        assert_eq!(names.len(), all.len());
        let quick: Vec<By> = all.iter().filter(|a| a.quick).map(|a| a.by).collect();
        for by in [By::Peer, By::Viewer, By::Tenant, By::Owner, By::Node, By::Pod, By::Registry] {
            assert!(quick.contains(&by), "the quick book has no {by}");
        }
    }
}
