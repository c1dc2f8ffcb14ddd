//! The kernel's side of the pod network: veth pairs, addresses and routes through rtnetlink.
//!
//! Nothing here forks or changes the namespace of a runtime thread: work inside a pod's namespace goes through a
//! netlink socket that a throw-away OS thread opened in there.

use std::collections::HashSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use futures::{Stream, StreamExt, TryStreamExt};
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressScope;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{
    AddressMessageBuilder, Error, Handle, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder,
};
use tokio::task::JoinHandle;

use super::{Cidr, GATEWAY, NetError};

/// Marks the routes that are ours, so that they can be told from the administrator's and removed.
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(0xc7);
/// Every link on the host side begins with this; the rest is a digest of the pod's uid.
pub(super) const LINK_PREFIX: &str = "cor";
const LOOPBACK_INDEX: u32 = 1;

/// A netlink connection in one network namespace.
pub(super) struct Links {
    handle: Handle,
    task: JoinHandle<()>,
}

/// The way to the pods of another node: over that node, out of the link that both are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NodeRoute {
    pub(super) pods: Cidr,
    pub(super) node: Ipv4Addr,
    pub(super) link: u32,
}

/// Something of the pod network that is not there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// A pod's link is gone or down.
    Link(String),
    Route(Cidr),
    /// An address of the loopback device.
    Address,
}

// === impl Links ===

impl Links {
    /// A connection in the namespace of this process.
    pub(super) fn host() -> Result<Links, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Links { handle, task: tokio::spawn(connection) })
    }

    /// Word of every change of the host's own links, addresses and ways to other nodes.
    ///
    /// On a connection of its own: the kernel's notes carry the numbers of the requests they come from, and would be
    /// taken for the answers to ours.
    pub(super) fn changes() -> Result<impl Stream<Item = ()> + Unpin, NetError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let connection = Links { handle, task: tokio::spawn(connection) };
        Ok(messages.filter_map(move |(message, _)| {
            let _kept = &connection;
            let tells = match &message.payload {
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
                ) => !name_of(link).is_some_and(is_pod_link),
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
                ) => of_nodes(route),
                _ => true,
            };
            std::future::ready(tells.then_some(()))
        }))
    }

    /// Word of what was taken away from the host's network: links of pods, routes of ours, addresses on loopback.
    pub(super) fn losses() -> Result<impl Stream<Item = Loss> + Unpin, NetError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let connection = Links { handle, task: tokio::spawn(connection) };
        Ok(messages.filter_map(move |(message, _)| {
            let _kept = &connection;
            let loss = match &message.payload {
                NetlinkPayload::InnerMessage(message) => loss(message),
                // Word was lost: everything is looked at.
                NetlinkPayload::Overrun(_) => Some(Loss::Address),
                _ => None,
            };
            std::future::ready(loss)
        }))
    }

    /// A connection inside another namespace. The socket keeps its namespace, whoever uses it.
    fn inside(netns: &File) -> Result<Links, NetError> {
        let runtime = tokio::runtime::Handle::current();
        std::thread::scope(|scope| {
            let opener = scope.spawn(|| {
                let _guard = runtime.enter();
                setns(netns, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
                rtnetlink::new_connection()
            });
            let (connection, handle, _) = opener.join().expect("opening a socket does not panic")?;
            Ok(Links { handle, task: runtime.spawn(connection) })
        })
    }

    /// Puts an address of host scope on the loopback device: local, but never chosen as a source towards others.
    pub(super) async fn add_local_address(&self, addr: Ipv4Addr) -> Result<(), NetError> {
        let mut message =
            AddressMessageBuilder::<Ipv4Addr>::new().index(LOOPBACK_INDEX).address(addr, 32).build();
        message.header.scope = AddressScope::Host;
        let mut request = self.handle.address().add(LOOPBACK_INDEX, IpAddr::V4(addr), 32).replace();
        *request.message_mut() = message;
        request.execute().await.map_err(NetError::netlink("add an address to lo"))
    }

    pub(super) async fn remove_local_address(&self, addr: Ipv4Addr) -> Result<(), NetError> {
        let message =
            AddressMessageBuilder::<Ipv4Addr>::new().index(LOOPBACK_INDEX).address(addr, 32).build();
        ignoring(&[libc::EADDRNOTAVAIL], self.handle.address().del(message).execute().await)
            .map_err(NetError::netlink("remove an address from lo"))
    }

    /// Sends what goes to `cidr` from this node to the loopback device, where the service rules catch it first.
    pub(super) async fn route_to_loopback(&self, cidr: Cidr, source: Ipv4Addr) -> Result<(), NetError> {
        self.route_from_host(
            (cidr.address(), cidr.prefix()),
            LOOPBACK_INDEX,
            source,
            "route the service range",
        )
        .await
    }

    /// Makes the pod's veth pair with one end as `eth0` inside `netns`, and configures both ends.
    pub(super) async fn connect_pod(&self, pod: &PodLink<'_>) -> Result<(), NetError> {
        let netns =
            File::open(pod.netns).map_err(|source| NetError::Namespace { path: pod.netns.into(), source })?;
        let peer = LinkUnspec::new_with_name("eth0").mtu(pod.mtu).setns_by_fd(netns.as_raw_fd()).build();
        let veth = LinkVeth::new(pod.name, "eth0")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(pod.mtu)
            .build();
        self.handle.link().add(veth).execute().await.map_err(NetError::netlink("add the pod's veth pair"))?;
        // Before it is up: no word of the pod's is heard until it can only speak for itself.
        guard(pod.name)?;
        let index = self.index(pod.name).await?.ok_or(NetError::LinkGone)?;
        self.set_up(index).await?;
        let inside = Links::inside(&netns)?;
        let (inner, outer) = tokio::join!(inside.configure_pod_end(pod.addr), self.route_pod(index, pod));
        inner.and(outer)
    }

    async fn set_up(&self, index: u32) -> Result<(), NetError> {
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.map_err(NetError::netlink("set the pod's link up"))
    }

    /// The host's end of a pod's link, up and with its route, where the link is there.
    pub(super) async fn mend_pod(
        &self,
        name: &str,
        addr: Ipv4Addr,
        node_ip: Ipv4Addr,
    ) -> Result<bool, NetError> {
        let Some(index) = self.index(name).await? else { return Ok(false) };
        self.set_up(index).await?;
        self.route_from_host((addr, 32), index, node_ip, "route to the pod").await?;
        Ok(true)
    }

    async fn configure_pod_end(&self, addr: Ipv4Addr) -> Result<(), NetError> {
        let lo = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
        self.handle.link().set(lo).execute().await.map_err(NetError::netlink("set lo up"))?;
        let eth0 = self.index("eth0").await?.ok_or(NetError::LinkGone)?;
        self.handle
            .address()
            .add(eth0, IpAddr::V4(addr), 32)
            .execute()
            .await
            .map_err(NetError::netlink("give the pod its address"))?;
        // The kernel cannot do this when it makes the pair: an end without its peer cannot be up.
        self.set_up(eth0).await?;
        let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(GATEWAY, 32)
            .output_interface(eth0)
            .scope(RouteScope::Link)
            .build();
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(GATEWAY).output_interface(eth0).build();
        for route in [gateway, default] {
            self.handle
                .route()
                .add(route)
                .execute()
                .await
                .map_err(NetError::netlink("route inside the pod"))?;
        }
        Ok(())
    }

    async fn route_pod(&self, index: u32, pod: &PodLink<'_>) -> Result<(), NetError> {
        self.route_from_host((pod.addr, 32), index, pod.node_ip, "route to the pod").await
    }

    /// A route of ours on the host: straight out of a link, with the node's address as source.
    async fn route_from_host(
        &self,
        (address, prefix): (Ipv4Addr, u8),
        link: u32,
        source: Ipv4Addr,
        action: &'static str,
    ) -> Result<(), NetError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, prefix)
            .output_interface(link)
            .pref_source(source)
            .scope(RouteScope::Link)
            .protocol(ROUTE_PROTOCOL)
            .build();
        self.handle.route().add(route).replace().execute().await.map_err(NetError::netlink(action))
    }

    /// Removes a link with all its routes; its other end goes with it. Absent is fine.
    pub(super) async fn remove(&self, name: &str) -> Result<(), NetError> {
        match self.index(name).await? {
            Some(index) => ignoring(&[libc::ENODEV], self.handle.link().del(index).execute().await)
                .map_err(NetError::netlink("remove the pod's link")),
            None => Ok(()),
        }
    }

    /// Names of the pod links that exist on the host.
    pub(super) async fn pod_links(&self) -> Result<Vec<String>, NetError> {
        self.pod_links_where(|_| true).await
    }

    /// Those of them that are up.
    pub(super) async fn pod_links_up(&self) -> Result<Vec<String>, NetError> {
        self.pod_links_where(|link| link.header.flags.contains(LinkFlags::Up)).await
    }

    async fn pod_links_where(&self, wanted: impl Fn(&LinkMessage) -> bool) -> Result<Vec<String>, NetError> {
        let mut list = self.handle.link().get().execute();
        let mut found = Vec::new();
        while let Some(link) = list.try_next().await.map_err(NetError::netlink("list links"))? {
            if wanted(&link) {
                found.extend(name_of(&link).filter(|name| is_pod_link(name)).map(str::to_owned));
            }
        }
        Ok(found)
    }

    async fn index(&self, name: &str) -> Result<Option<u32>, NetError> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = ignoring_to_none(libc::ENODEV, found.try_next().await);
        Ok(link.map_err(NetError::netlink("look up a link"))?.map(|link| link.header.index))
    }

    /// The link that leads to an address without a router in between.
    pub(super) async fn direct_link(&self, addr: Ipv4Addr) -> Result<Option<u32>, NetError> {
        let question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(addr, 32).build();
        let mut found = self.handle.route().get(question).execute();
        let no_way = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL];
        let route = match found.try_next().await {
            Err(error) if errno(&error).is_some_and(|e| no_way.contains(&e)) => None,
            other => other.map_err(NetError::netlink("look up the way to a node"))?,
        };
        let Some(route) = route else { return Ok(None) };
        let (mut link, mut router) = (None, false);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::Gateway(_) => router = true,
                _ => {}
            }
        }
        Ok(link.filter(|index| !router && *index != LOOPBACK_INDEX))
    }

    /// The name of a link, unless it is gone.
    pub(super) async fn name(&self, index: u32) -> Result<Option<String>, NetError> {
        let mut found = self.handle.link().get().match_index(index).execute();
        let link = ignoring_to_none(libc::ENODEV, found.try_next().await);
        let link = link.map_err(NetError::netlink("look up a link"))?;
        Ok(link.as_ref().and_then(name_of).map(str::to_owned))
    }

    pub(super) async fn add_node_route(&self, route: NodeRoute) -> Result<(), NetError> {
        let request = self.handle.route().add(message_of(route)).replace();
        request.execute().await.map_err(NetError::netlink("route to another node"))
    }

    pub(super) async fn remove_node_route(&self, route: NodeRoute) -> Result<(), NetError> {
        ignoring(&[libc::ESRCH], self.handle.route().del(message_of(route)).execute().await)
            .map_err(NetError::netlink("remove a route to another node"))
    }

    /// The routes to other nodes that we made, in this run or an earlier one.
    pub(super) async fn node_routes(&self) -> Result<Vec<NodeRoute>, NetError> {
        Ok(self.our_routes().await?.iter().filter_map(node_route).collect())
    }

    /// The single addresses and ranges of the host's own routes of ours: to this node's pods and services.
    pub(super) async fn own_routes(&self) -> Result<HashSet<Cidr>, NetError> {
        Ok(self.our_routes().await?.iter().filter_map(destination).collect())
    }

    /// Removes every route we made: for a purge.
    pub(super) async fn remove_our_routes(&self) -> Result<(), NetError> {
        for route in self.our_routes().await? {
            ignoring(&[libc::ESRCH], self.handle.route().del(route).execute().await)
                .map_err(NetError::netlink("remove a route"))?;
        }
        Ok(())
    }

    async fn our_routes(&self) -> Result<Vec<RouteMessage>, NetError> {
        let all = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let ours = all.try_filter(|route| std::future::ready(route.header.protocol == ROUTE_PROTOCOL));
        ours.try_collect().await.map_err(NetError::netlink("list routes"))
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a pod's veth pair is made of.
pub(super) struct PodLink<'a> {
    pub(super) name: &'a str,
    pub(super) netns: &'a Path,
    pub(super) addr: Ipv4Addr,
    pub(super) node_ip: Ipv4Addr,
    pub(super) mtu: u32,
}

fn loss(message: &RouteNetlinkMessage) -> Option<Loss> {
    match message {
        RouteNetlinkMessage::DelLink(link) => {
            name_of(link).filter(|n| is_pod_link(n)).map(|n| Loss::Link(n.to_owned()))
        }
        RouteNetlinkMessage::NewLink(link) if !link.header.flags.contains(LinkFlags::Up) => {
            name_of(link).filter(|n| is_pod_link(n)).map(|n| Loss::Link(n.to_owned()))
        }
        RouteNetlinkMessage::DelRoute(route) if route.header.protocol == ROUTE_PROTOCOL => {
            destination(route).map(Loss::Route)
        }
        RouteNetlinkMessage::DelAddress(address) if address.header.index == LOOPBACK_INDEX => {
            Some(Loss::Address)
        }
        _ => None,
    }
}

fn destination(route: &RouteMessage) -> Option<Cidr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(a)) => {
            Some(Cidr::new(*a, route.header.destination_prefix_length))
        }
        _ => None,
    })
}

/// Whether a change of this route may change the way to another node: those to this node's pods do not.
fn of_nodes(route: &RouteMessage) -> bool {
    route.header.protocol != ROUTE_PROTOCOL || node_route(route).is_some()
}

/// Whether programs of the node reach pods behind this link by way of 127.0.0.1: node ports and host ports. The rules of the
/// pod network keep others from the node's loopback.
pub(super) fn route_loopback(link: &str, may: bool) -> Result<(), NetError> {
    super::sysctl(&format!("net/ipv4/conf/{link}/route_localnet"), if may { "1" } else { "0" })
}

/// A pod speaks for its own address alone (strict reverse path), and tells this node of no way out (no IPv6, whose router
/// advertisements it could send: CVE-2020-10749).
fn guard(link: &str) -> Result<(), NetError> {
    super::sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "1")?;
    for (key, value) in [("accept_ra", "0"), ("disable_ipv6", "1")] {
        match super::sysctl(&format!("net/ipv6/conf/{link}/{key}"), value) {
            // A kernel without IPv6 needs no guard against it.
            Err(NetError::Sysctl { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn is_pod_link(name: &str) -> bool {
    name.strip_prefix(LINK_PREFIX)
        .is_some_and(|rest| rest.len() == 11 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn message_of(route: NodeRoute) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.pods.address(), route.pods.prefix())
        .gateway(route.node)
        .output_interface(route.link)
        .protocol(ROUTE_PROTOCOL)
        .build()
}

fn node_route(route: &RouteMessage) -> Option<NodeRoute> {
    let (mut pods, mut node, mut link) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(a)) => {
                pods = Some(Cidr::new(*a, route.header.destination_prefix_length));
            }
            RouteAttribute::Gateway(RouteAddress::Inet(a)) => node = Some(*a),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    Some(NodeRoute { pods: pods?, node: node?, link: link? })
}

fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

fn ignoring(errnos: &[i32], result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if errno(&error).is_some_and(|e| errnos.contains(&e)) => Ok(()),
        other => other,
    }
}

fn ignoring_to_none<T>(code: i32, result: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error) if errno(&error) == Some(code) => Ok(None),
        other => other,
    }
}
