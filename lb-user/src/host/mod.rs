//! What the agent knows of the host's network configuration: a snapshot by
//! netlink, and word of when to take a new one.

mod clsact;
mod features;
mod local_ports;
mod message;
mod neighbours;
mod netlink;

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::settings::VlanTag;

use crate::address::Family;

pub use clsact::Filter;
pub use local_ports::LocalPorts;
pub use netlink::{HostChanged, HostError, Netlink};

/// The host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Every interface, by its index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Of the snapshot: each has a higher one than those before; never 0.
    pub number: u32,
    /// Whether the routing table's answers may depend on more of a packet than
    /// its destination: there are rules besides the kernel's own.
    pub policy_rules: bool,
    /// The ports of this host's own connections.
    pub local_ports: LocalPorts,
    /// The routes that were asked for, by destination. A destination without
    /// any route isn't there.
    pub routes: BTreeMap<IpAddr, Route>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// Set up by the administrator (`ip link set … up`).
    pub up: bool,
    /// Its link-layer address, six bytes as they lie in memory; of an Ethernet
    /// interface only.
    pub mac: Option<u64>,
    /// Whether frames have an Ethernet header here, which the data path needs.
    pub ethernet: bool,
    /// The kind of a virtual device: `veth`, `vlan`, `bond` …
    pub kind: Option<String>,
    pub vlan: Option<Vlan>,
    /// Index of the bridge or bond that this is a port of.
    pub controller: Option<u32>,
    /// IPv4 ones first. Of IPv6 link-local ones too.
    pub addresses: Vec<IpAddr>,
    /// The largest packet that it sends (bytes).
    pub mtu: u32,
    /// What the driver can do with XDP; `None` if the kernel doesn't tell
    /// (before Linux 6.3).
    pub xdp_features: Option<XdpFeatures>,
    /// The id of the XDP program that is attached.
    pub xdp_program: Option<u32>,
    pub receive_queues: u32,
    pub forwarding: Forwarding,
}

/// Whether packets that come in by an interface are forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    pub v4: bool,
    pub v6: bool,
}

impl Forwarding {
    #[must_use]
    pub fn of(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// A VLAN device's place on its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    pub parent: u32,
    pub tag: VlanTag,
}

/// `enum netdev_xdp_act` of linux/netdev.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// Programs run in the driver.
    const BASIC: u64 = 1;
    /// They take frames of several buffers.
    const RX_SG: u64 = 1 << 5;
    /// The device takes frames that are redirected to it.
    const NDO_XMIT: u64 = 1 << 2;
    /// Those of several buffers too.
    const NDO_XMIT_SG: u64 = 1 << 6;
    /// The largest packet (bytes) that a frame of one buffer has room for: a
    /// page but for the room in front (`XDP_PACKET_HEADROOM`), what the kernel
    /// keeps behind it (`skb_shared_info`) and the Ethernet header.
    pub const SINGLE_BUFFER: u32 = 4_096 - 256 - 320 - 14;

    /// Whether there is native XDP for small packets.
    #[must_use]
    pub fn has_basic(self) -> bool {
        self.0 & Self::BASIC != 0
    }

    /// Whether there is native XDP for packets of up to `mtu` bytes.
    #[must_use]
    pub fn has_native(self, mtu: u32) -> bool {
        self.has_basic() && (mtu <= Self::SINGLE_BUFFER || self.0 & Self::RX_SG != 0)
    }

    /// Whether frames with packets of up to `mtu` bytes can be redirected to
    /// the device. It loses those that it doesn't take, and nobody counts them.
    #[must_use]
    pub fn takes_redirects(self, mtu: u32) -> bool {
        let needed = match mtu > Self::SINGLE_BUFFER {
            true => Self::NDO_XMIT | Self::NDO_XMIT_SG,
            false => Self::NDO_XMIT,
        };
        self.0 & needed == needed
    }
}

/// How this host reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// It is this host's own.
    Local,
    Unicast(Way),
}

/// The way to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index of the interface that leads there.
    pub interface: u32,
    /// The address that this host would send from.
    pub source: IpAddr,
    /// Whether it is on another network, behind a router.
    pub gateway: bool,
}

impl Host {
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces
            .values()
            .find(|interface| interface.name == name)
    }

    /// Whether the kernel tells what drivers can do with XDP.
    #[must_use]
    pub fn tells_xdp_features(&self) -> bool {
        let mut interfaces = self.interfaces.values();
        interfaces.any(|interface| interface.xdp_features.is_some())
    }

    /// Whether an interface of this host has the address.
    #[must_use]
    pub fn owns(&self, address: IpAddr) -> bool {
        self.interfaces
            .values()
            .any(|interface| interface.addresses.contains(&address))
    }
}
