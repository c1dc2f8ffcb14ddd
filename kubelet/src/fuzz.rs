//! What fuzzing calls, and tests call with the corpus of `fuzz/`: one entry for each family of parsers that meet bytes
//! of registries, images, containers, clients or the network. Each asks more than "no panic": what is written is read
//! again as the same, and nothing is made outside of the place that is meant.

pub(crate) use coracle_api::fuzz::{Place, first_line, parts};

use crate::{dns, images, net, pods, probes, runtime, shim, streaming};

/// An image's user, and its `/etc/passwd` and `/etc/group`.
pub fn accounts(bytes: &[u8]) {
    runtime::hostile_accounts(bytes);
}

/// What other DNS servers answer.
pub fn answers(bytes: &[u8]) {
    dns::hostile::answer(bytes);
}

/// Archives of images, of Docker's kind and of OCI's.
pub fn archives(bytes: &[u8]) {
    images::hostile::archive(bytes);
}

/// Env files, references to variables, and resolver settings.
pub fn environments(bytes: &[u8]) {
    pods::hostile::environment(bytes);
}

/// Layers: tar headers, extensions, sparse maps, whiteouts, links.
pub fn layers(bytes: &[u8]) {
    images::hostile::layer(bytes);
}

/// Output of containers, written as a log and shown; logs that others wrote; queries for them.
pub fn logs(bytes: &[u8]) {
    streaming::hostile::log(bytes);
    shim::hostile::output(bytes);
    pods::hostile::last_words(bytes);
}

/// References, manifests, configurations, indexes, and what else registries answer.
pub fn manifests(bytes: &[u8]) {
    images::hostile::document(bytes);
}

/// DNS queries.
pub fn names(bytes: &[u8]) {
    dns::hostile::query(bytes);
}

/// Notes of the kernel about tables of packet filters.
pub fn netlink(bytes: &[u8]) {
    net::hostile_notes(bytes);
}

/// What probed servers answer, by HTTP and gRPC.
pub fn probe_replies(bytes: &[u8]) {
    probes::hostile::reply(bytes);
}

/// Files in which the node's state is kept, and what others say of ids.
pub fn records(bytes: &[u8]) {
    net::hostile_record(bytes);
    runtime::hostile_records(bytes);
}

/// Requests to a shim, its files, and what the kernel tells of mounts.
pub fn shims(bytes: &[u8]) {
    shim::hostile::request(bytes);
}

/// Frames of SPDY connections, messages of WebSockets, and the queries that open them.
pub fn spdy(bytes: &[u8]) {
    streaming::hostile::frames(bytes);
}

/// What the API server says of who asks the node, and whether they may.
pub fn verdicts(bytes: &[u8]) {
    streaming::hostile::verdict(bytes);
}

/// Runs what only looks asynchronous: all its bytes are there.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(future)
}

#[cfg(test)]
mod tests {
    coracle_api::replayed! { accounts answers archives environments layers logs manifests names netlink probe_replies records shims spdy verdicts }
}
