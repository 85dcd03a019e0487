//! The netlink sockets: links, addresses and routes (rtnetlink).

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use rtnetlink::{
    Handle, IpVersion, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo},
        rule::{RuleAttribute, RuleMessage},
    },
};
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Host, Interface, LocalPorts, Route, features,
    message::{interface, own_address, route},
    neighbours::Neighbours,
};
use crate::address::Family;

/// Changes that come this close together are told once.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// However many changes there are, they are told this far apart: a snapshot
/// with routes to 16,384 addresses takes a quarter of a second.
const TOLD_INTERVAL: Duration = Duration::from_secs(1);
/// Questions to the kernel under way at a time. Its answers must fit the
/// socket's buffer.
const QUESTIONS: usize = 64;
/// How long a dump waits for another, and how often it looks.
const DUMP_TIMEOUT: Duration = Duration::from_secs(2);
const DUMP_AGAIN: Duration = Duration::from_millis(2);

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("could not open a netlink socket")]
    Open(#[from] io::Error),
    #[error("the kernel did not answer about the host's {what}")]
    Query {
        what: &'static str,
        #[source]
        source: rtnetlink::Error,
    },
    #[error("could not {action} {address}: {source}")]
    Address {
        action: &'static str,
        address: IpAddr,
        source: rtnetlink::Error,
    },
    #[error("could not remove the clsact qdisc")]
    Qdisc(#[source] rtnetlink::Error),
    #[error("could not remove a filter that a former xlb has left")]
    Filter(#[source] rtnetlink::Error),
}

/// The host's network configuration may be another than it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostChanged;

/// Sockets to ask the kernel. A clone uses the same ones.
#[derive(Clone)]
pub struct Netlink {
    pub(super) routes: Handle,
    generic: genetlink::GenetlinkHandle,
    snapshots: Arc<AtomicU32>,
    /// Held by the dump that is under way.
    turn: Arc<Mutex<()>>,
}

impl Netlink {
    /// # Errors
    /// If the kernel gives no netlink socket.
    pub fn open() -> Result<Self, HostError> {
        let (connection, routes, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let (connection, generic, _) = genetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self {
            routes,
            generic,
            snapshots: Arc::new(AtomicU32::new(1)),
            turn: Arc::default(),
        })
    }

    /// Tells whenever links, addresses, routes or rules have changed, or the
    /// link-layer address of a neighbour; several
    /// changes in a row as one, and at most one a second.
    ///
    /// # Errors
    /// If the kernel gives no netlink socket.
    pub fn watch(&self) -> Result<mpsc::Receiver<HostChanged>, HostError> {
        let (connection, _handle, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv4Netconf,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Ipv6Netconf,
            MulticastGroup::Neigh,
        ])?;
        tokio::spawn(connection);
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut neighbours = Neighbours::default();
            let mut messages = messages.filter(|(message, _)| ready(neighbours.is_news(message)));
            let mut earliest = Instant::now();
            while messages.next().await.is_some() {
                let tell = sleep_until(earliest.max(Instant::now() + DEBOUNCE));
                let later = messages.by_ref().take_until(tell);
                later.for_each(|_| ready(())).await;
                earliest = Instant::now() + TOLD_INTERVAL;
                if sender.send(HostChanged).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// Takes a snapshot, with the routes to `destinations`.
    ///
    /// # Errors
    /// If the kernel doesn't answer. A destination without route is none.
    pub async fn snapshot(
        &self,
        destinations: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Host, HostError> {
        let mut host = Host {
            interfaces: self.interfaces().await?,
            number: self.snapshots.fetch_add(1, Ordering::Relaxed).max(1),
            policy_rules: self.policy_rules().await?,
            local_ports: LocalPorts::read(),
            routes: BTreeMap::new(),
        };
        self.addresses(&mut host.interfaces).await?;
        let indices: Vec<u32> = host.interfaces.keys().copied().collect();
        let questions = indices.into_iter().map(|index| {
            let mut generic = self.generic.clone();
            async move { (index, features::of(&mut generic, index).await) }
        });
        let mut features = stream::iter(questions).buffer_unordered(QUESTIONS);
        while let Some((index, features)) = features.next().await {
            if let Some(interface) = host.interfaces.get_mut(&index) {
                interface.xdp_features = features;
            }
        }
        // Many targets may be ports of one address.
        let destinations: BTreeSet<_> = destinations.into_iter().collect();
        let questions = destinations
            .into_iter()
            .map(async |destination| (destination, self.route(destination).await));
        let mut routes = stream::iter(questions).buffer_unordered(QUESTIONS);
        while let Some((destination, route)) = routes.next().await {
            if let Some(route) = route? {
                host.routes.insert(destination, route);
            }
        }
        Ok(host)
    }

    async fn interfaces(&self) -> Result<BTreeMap<u32, Interface>, HostError> {
        let links = self.dump(|| self.routes.link().get().execute()).await;
        let links = links.map_err(unanswered("interfaces"))?;
        let interfaces = links.iter().map(interface);
        Ok(interfaces.map(|it| (it.index, it)).collect())
    }

    async fn addresses(&self, interfaces: &mut BTreeMap<u32, Interface>) -> Result<(), HostError> {
        let messages = self.dump(|| self.routes.address().get().execute()).await;
        for message in messages.map_err(unanswered("addresses"))? {
            let Some(interface) = interfaces.get_mut(&message.header.index) else {
                continue;
            };
            interface.addresses.extend(own_address(&message));
        }
        for interface in interfaces.values_mut() {
            interface
                .addresses
                .sort_by_key(|&address| Family::of(address));
        }
        Ok(())
    }

    async fn policy_rules(&self) -> Result<bool, HostError> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules = self.dump(|| self.routes.rule().get(version.clone()).execute());
            let rules = rules.await.map_err(unanswered("policy rules"))?;
            if !rules.iter().all(is_kernels_own) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All that the kernel answers to a dump. A socket can have one at a time,
    /// and another is refused meanwhile (`__netlink_dump_start`,
    /// net/netlink/af_netlink.c). So they take turns, and wait out one that
    /// nobody listens to any more, whose end isn't told.
    pub(super) async fn dump<T, S>(
        &self,
        request: impl Fn() -> S,
    ) -> Result<Vec<T>, rtnetlink::Error>
    where
        S: Stream<Item = Result<T, rtnetlink::Error>>,
    {
        let _turn = self.turn.lock().await;
        let deadline = Instant::now() + DUMP_TIMEOUT;
        loop {
            match request().try_collect().await {
                Err(rtnetlink::Error::NetlinkError(error))
                    if error.raw_code() == -libc::EBUSY && Instant::now() < deadline =>
                {
                    sleep(DUMP_AGAIN).await;
                }
                answered => return answered,
            }
        }
    }

    async fn route(&self, destination: IpAddr) -> Result<Option<Route>, HostError> {
        let request = match destination {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(v4, Family::V4.bits())
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(v6, Family::V6.bits())
                .build(),
        };
        let mut routes = self.routes.route().get(request).execute();
        match routes.try_next().await {
            Ok(message) => Ok(message.as_ref().and_then(route)),
            // Unreachable, prohibited or without route: none that would help.
            Err(rtnetlink::Error::NetlinkError(error)) if is_no_route(error.raw_code()) => Ok(None),
            Err(source) => Err(unanswered("routes")(source)),
        }
    }

    /// Adds a single address to an interface, to be used at once.
    ///
    /// # Errors
    /// If the kernel refuses. An address that is there already is no error.
    pub async fn add_address(&self, index: u32, address: IpAddr) -> Result<(), HostError> {
        let bits = Family::of(address).bits();
        let mut request = self.routes.address().add(index, address, bits);
        if address.is_ipv6() {
            for_others_only(request.message_mut());
        }
        match request.execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => {
                Ok(())
            }
            added => added.map_err(|source| HostError::Address {
                action: "add",
                address,
                source,
            }),
        }
    }

    /// Removes a single address from an interface.
    ///
    /// # Errors
    /// If the kernel refuses. An address that isn't there is no error.
    pub async fn remove_address(&self, index: u32, address: IpAddr) -> Result<(), HostError> {
        let bits = Family::of(address).bits();
        // What names an address to be added names it to be removed too.
        let mut request = self.routes.address().add(index, address, bits);
        let message = request.message_mut().clone();
        match self.routes.address().del(message).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if is_gone(error.raw_code()) => Ok(()),
            removed => removed.map_err(|source| HostError::Address {
                action: "remove",
                address,
                source,
            }),
        }
    }
}

pub(super) fn unanswered(what: &'static str) -> impl Fn(rtnetlink::Error) -> HostError {
    move |source| HostError::Query { what, source }
}

/// Makes an IPv6 address that clients use, and this host never by itself.
fn for_others_only(message: &mut AddressMessage) {
    // Nobody else has it, or it wouldn't be a VIP: no second of waiting for
    // duplicate address detection.
    message.header.flags = AddressHeaderFlags::Nodad;
    message
        .attributes
        .push(AddressAttribute::Flags(AddressFlags::Nodad));
    // Of a preferred one a /128 would be the first choice as the source of
    // this host's own connections (RFC 6724, section 5, rules 3 and 8).
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_preferred = 0;
    lifetime.ifa_valid = u32::MAX;
    message
        .attributes
        .push(AddressAttribute::CacheInfo(lifetime));
}

/// Whether a rule is one of those that every host has: look at the tables
/// local, main and default (`fib_default_rules_init`, net/ipv4/fib_rules.c).
fn is_kernels_own(rule: &RuleMessage) -> bool {
    let priority = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        });
    let all = rule.header.src_len == 0 && rule.header.dst_len == 0 && rule.header.tos == 0;
    all && matches!(priority.unwrap_or(0), 0 | 0x7FFE | 0x7FFF)
}

fn is_no_route(code: i32) -> bool {
    matches!(
        -code,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL
    )
}

pub(super) fn is_gone(code: i32) -> bool {
    matches!(
        -code,
        libc::ENODEV | libc::ENOENT | libc::EADDRNOTAVAIL | libc::EINVAL
    )
}
