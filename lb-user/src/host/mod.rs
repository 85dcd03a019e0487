//! What the agent knows of the host's network configuration: a snapshot by
//! netlink, and word of when to take a new one.

mod features;
mod netlink;

use std::{collections::BTreeMap, net::Ipv4Addr};

use lb_common::settings::VlanTag;

pub use netlink::{HostChanged, HostError, Netlink};

/// The host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Every interface, by its index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// The routes that were asked for, by destination. A destination without
    /// any route isn't there.
    pub routes: BTreeMap<Ipv4Addr, Route>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// Set up by the administrator (`ip link set … up`).
    pub up: bool,
    /// Whether frames have an Ethernet header here, which the data path needs.
    pub ethernet: bool,
    /// The kind of a virtual device: `veth`, `vlan`, `bond` …
    pub kind: Option<String>,
    pub vlan: Option<Vlan>,
    /// Index of the bridge or bond that this is a port of.
    pub controller: Option<u32>,
    pub addresses: Vec<Ipv4Addr>,
    /// What the driver can do with XDP; `None` if the kernel doesn't tell
    /// (before Linux 6.3).
    pub xdp_features: Option<XdpFeatures>,
    /// Whether IPv4 packets that come in here are forwarded.
    pub forwarding: bool,
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
    /// The device takes frames that are redirected to it.
    const NDO_XMIT: u64 = 1 << 2;

    #[must_use]
    pub fn takes_redirects(self) -> bool {
        self.0 & Self::NDO_XMIT != 0
    }
}

/// How this host reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// It is this host's own.
    Local,
    Unicast {
        /// Index of the interface that leads there.
        interface: u32,
        /// The address that this host would send from.
        source: Ipv4Addr,
    },
}

impl Host {
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces
            .values()
            .find(|interface| interface.name == name)
    }

    /// Whether an interface of this host has the address.
    #[must_use]
    pub fn owns(&self, address: Ipv4Addr) -> bool {
        self.interfaces
            .values()
            .any(|interface| interface.addresses.contains(&address))
    }
}
