//! What the kernel's messages about links, addresses and routes say.

use std::{fs, net::IpAddr};

use lb_common::settings::VlanTag;
use rtnetlink::packet_route::{
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use super::{Forwarding, Interface, Route, Vlan, Way};

pub(super) fn interface(link: &LinkMessage) -> Interface {
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
            LinkAttribute::Address(address) => interface.mac = mac(address),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::NumRxQueues(count) => interface.receive_queues = *count,
            LinkAttribute::Xdp(infos) => {
                interface.xdp_program = infos.iter().find_map(|info| match info {
                    LinkXdp::ProgId(id) => Some(*id),
                    _ => None,
                });
            }
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
    interface.forwarding = Forwarding {
        v4: forwarding("ipv4", &interface.name),
        v6: forwarding("ipv6", &interface.name),
    };
    interface
}

fn mac(address: &[u8]) -> Option<u64> {
    let [a, b, c, d, e, f] = *address else {
        return None;
    };
    Some(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
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
fn forwarding(family: &str, interface: &str) -> bool {
    // A dot in a name (eth0.10) stands as it is in /proc.
    fs::read_to_string(format!(
        "/proc/sys/net/{family}/conf/{interface}/forwarding"
    ))
    .is_ok_and(|value| value.trim() != "0")
}

/// The interface's own address; the other one is the peer's, if that differs.
pub(super) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut own = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => own = Some(*address),
            _ => {}
        }
    }
    own
}

pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    match message.header.kind {
        RouteType::Local => return Some(Route::Local),
        RouteType::Unicast => {}
        _ => return None,
    }
    let mut interface = None;
    let mut source = None;
    let mut gateway = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some((*v4).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some((*v6).into()),
            // `Via` is a gateway of the other family.
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => gateway = true,
            _ => {}
        }
    }
    Some(Route::Unicast(Way {
        interface: interface?,
        source: source?,
        gateway,
    }))
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
    fn an_interface_has_its_mtu() {
        let message = vlan(&[LinkAttribute::Mtu(9_000)]);
        assert_eq!(interface(&message).mtu, 9_000);
    }

    #[test]
    fn a_port_names_its_bridge() {
        assert_eq!(
            interface(&vlan(&[LinkAttribute::Controller(3)])).controller,
            Some(3)
        );
    }
}
