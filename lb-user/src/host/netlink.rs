//! The netlink sockets: links, addresses and routes (rtnetlink).

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use lb_common::settings::VlanTag;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{
            InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};
use tokio::sync::mpsc;

use super::{Host, Interface, Route, Vlan, features};

/// Changes that come this close together are told once.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Prefix length of a single address.
const SINGLE: u8 = 32;

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
        address: Ipv4Addr,
        source: rtnetlink::Error,
    },
    #[error("could not remove the clsact qdisc")]
    Qdisc(#[source] rtnetlink::Error),
}

/// The host's network configuration may be another than it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostChanged;

/// Sockets to ask the kernel.
pub struct Netlink {
    routes: Handle,
    generic: genetlink::GenetlinkHandle,
}

impl Netlink {
    /// # Errors
    /// If the kernel gives no netlink socket.
    pub fn open() -> Result<Self, HostError> {
        let (connection, routes, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let (connection, generic, _) = genetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { routes, generic })
    }

    /// Tells whenever links, addresses or routes have changed; several changes
    /// in a row as one.
    ///
    /// # Errors
    /// If the kernel gives no netlink socket.
    pub fn watch(&self) -> Result<mpsc::Receiver<HostChanged>, HostError> {
        let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Netconf,
        ])?;
        tokio::spawn(connection);
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while messages.next().await.is_some() {
                tokio::time::sleep(DEBOUNCE).await;
                while futures_util::FutureExt::now_or_never(messages.next())
                    .flatten()
                    .is_some()
                {}
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
        &mut self,
        destinations: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Result<Host, HostError> {
        let mut host = Host {
            interfaces: self.interfaces().await?,
            routes: BTreeMap::new(),
        };
        self.addresses(&mut host.interfaces).await?;
        for (&index, interface) in &mut host.interfaces {
            interface.xdp_features = features::of(&mut self.generic, index).await;
        }
        for destination in destinations {
            if let Some(route) = self.route(destination).await? {
                host.routes.insert(destination, route);
            }
        }
        Ok(host)
    }

    async fn interfaces(&self) -> Result<BTreeMap<u32, Interface>, HostError> {
        let mut links = self.routes.link().get().execute();
        let mut interfaces = BTreeMap::new();
        let failed = |source| HostError::Query {
            what: "interfaces",
            source,
        };
        while let Some(link) = links.try_next().await.map_err(failed)? {
            let interface = interface(&link);
            interfaces.insert(interface.index, interface);
        }
        Ok(interfaces)
    }

    async fn addresses(&self, interfaces: &mut BTreeMap<u32, Interface>) -> Result<(), HostError> {
        let mut addresses = self.routes.address().get().execute();
        let failed = |source| HostError::Query {
            what: "addresses",
            source,
        };
        while let Some(message) = addresses.try_next().await.map_err(failed)? {
            let Some(interface) = interfaces.get_mut(&message.header.index) else {
                continue;
            };
            // `Local` is the interface's own address, where the peer's differs.
            let own = message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                    _ => None,
                });
            interface.addresses.extend(own);
        }
        Ok(())
    }

    async fn route(&self, destination: Ipv4Addr) -> Result<Option<Route>, HostError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(destination, SINGLE)
            .build();
        let mut routes = self.routes.route().get(request).execute();
        match routes.try_next().await {
            Ok(message) => Ok(message.as_ref().and_then(route)),
            // Unreachable, prohibited or without route: none that would help.
            Err(rtnetlink::Error::NetlinkError(error)) if is_no_route(error.raw_code()) => Ok(None),
            Err(source) => Err(HostError::Query {
                what: "routes",
                source,
            }),
        }
    }

    /// Adds a single address to an interface.
    ///
    /// # Errors
    /// If the kernel refuses. An address that is there already is no error.
    pub async fn add_address(&self, index: u32, address: Ipv4Addr) -> Result<(), HostError> {
        match self
            .routes
            .address()
            .add(index, address.into(), SINGLE)
            .execute()
            .await
        {
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
    pub async fn remove_address(&self, index: u32, address: Ipv4Addr) -> Result<(), HostError> {
        let message = rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(address, SINGLE)
            .build();
        match self.routes.address().del(message).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if is_gone(error.raw_code()) => Ok(()),
            removed => removed.map_err(|source| HostError::Address {
                action: "remove",
                address,
                source,
            }),
        }
    }

    /// Removes the clsact qdisc of an interface.
    ///
    /// # Errors
    /// If the kernel refuses. An interface that is gone, or has none, is no
    /// error.
    pub async fn remove_clsact(&self, index: u32) -> Result<(), HostError> {
        use rtnetlink::packet_route::tc::TcHandle;
        let Ok(index) = i32::try_from(index) else {
            return Ok(());
        };
        let mut qdiscs = self.routes.qdisc();
        let mut request = qdiscs.del(index);
        let header = &mut request.message_mut().header;
        header.parent = TcHandle::CLSACT;
        // By convention the clsact qdisc's handle is its parent's major number.
        header.handle = TcHandle {
            major: TcHandle::CLSACT.major,
            minor: 0,
        };
        match request.execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if is_gone(error.raw_code()) => Ok(()),
            removed => removed.map_err(HostError::Qdisc),
        }
    }
}

fn is_no_route(code: i32) -> bool {
    matches!(
        -code,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL
    )
}

fn is_gone(code: i32) -> bool {
    matches!(
        -code,
        libc::ENODEV | libc::ENOENT | libc::EADDRNOTAVAIL | libc::EINVAL
    )
}

fn interface(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        // The loopback's frames have one too, with addresses of zeros.
        ethernet: matches!(
            link.header.link_layer_type,
            LinkLayerType::Ether | LinkLayerType::Loopback
        ),
        ..Interface::default()
    };
    let mut parent = None;
    let mut tag = None;
    // The parent is in another namespace, and its index means nothing in ours.
    let mut elsewhere = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Controller(index) => interface.controller = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => interface.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vlan(vlan)) => tag = Some(vlan_tag(vlan)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    parent = parent.filter(|_| !elsewhere);
    interface.vlan = parent.zip(tag).map(|(parent, tag)| Vlan { parent, tag });
    interface.forwarding = forwarding(&interface.name);
    interface
}

fn vlan_tag(infos: &[InfoVlan]) -> VlanTag {
    let mut tag = VlanTag {
        protocol: 0x8100,
        id: 0,
    };
    for info in infos {
        match info {
            InfoVlan::Id(id) => tag.id = *id,
            InfoVlan::Protocol(protocol) => tag.protocol = u16::from(*protocol),
            _ => {}
        }
    }
    tag
}

/// The kernel shows this by netlink too, but only in a family of its own.
fn forwarding(interface: &str) -> bool {
    // A dot in a name (eth0.10) stands as it is in /proc.
    fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/forwarding"))
        .is_ok_and(|value| value.trim() != "0")
}

fn route(message: &RouteMessage) -> Option<Route> {
    if message.header.address_family != AddressFamily::Inet {
        return None;
    }
    match message.header.kind {
        RouteType::Local => return Some(Route::Local),
        RouteType::Unicast => {}
        _ => return None,
    }
    let mut interface = None;
    let mut source = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            _ => {}
        }
    }
    Some(Route::Unicast {
        interface: interface?,
        source: source?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::link::{InfoKind, VlanProtocol};

    fn vlan(more: &[LinkAttribute]) -> LinkMessage {
        let data = vec![
            InfoVlan::Protocol(VlanProtocol::Ieee8021Ad),
            InfoVlan::Id(10),
        ];
        let infos = vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(data)),
        ];
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = vec![
            LinkAttribute::IfName("eth0.10".to_owned()),
            LinkAttribute::Link(7),
            LinkAttribute::LinkInfo(infos),
        ];
        message.attributes.extend_from_slice(more);
        message
    }

    #[test]
    fn a_vlan_names_its_parent_and_tag() {
        let tag = VlanTag {
            protocol: 0x88A8,
            id: 10,
        };
        assert_eq!(interface(&vlan(&[])).vlan, Some(Vlan { parent: 7, tag }));
    }

    /// The parent's index is one of its own namespace; here it may be any
    /// interface's, even the VLAN's own.
    #[test]
    fn a_parent_in_another_namespace_is_none() {
        let interface = interface(&vlan(&[LinkAttribute::LinkNetNsId(0)]));
        assert_eq!(
            (interface.vlan, interface.kind.as_deref()),
            (None, Some("vlan"))
        );
    }

    #[test]
    fn a_port_names_its_bridge() {
        assert_eq!(
            interface(&vlan(&[LinkAttribute::Controller(3)])).controller,
            Some(3)
        );
    }
}
