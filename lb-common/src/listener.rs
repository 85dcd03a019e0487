//! The listener maps: (address, protocol, port) → listener, and address → what
//! else xlb does there.

use crate::wire::{Be16, Ipv4, Ipv6};

/// A single port, or behind a prefix length a range of ports: the port comes
/// last, so that a trie can leave its low bits open.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ListenerKey<A> {
    pub address: A,
    /// [`crate::flow::TCP`] or [`crate::flow::UDP`].
    pub protocol: u8,
    pub padding: u8,
    pub port: Be16,
}

impl<A> ListenerKey<A> {
    /// Bits of the whole key: a trie's prefix length for a single port.
    pub const BITS: u32 = (size_of::<Self>() * 8) as u32;

    #[inline(always)]
    pub fn new(address: A, port: Be16, protocol: u8) -> Self {
        Self {
            address,
            protocol,
            padding: 0,
            port,
        }
    }
}

/// One address of a listener. A listener for every address of an interface, or
/// for several ports, has several entries with the same `id`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ListenerEntry {
    /// The listener's id, an index of the listener counters.
    pub id: u32,
    /// The group's id, an index of the outer Maglev map.
    pub group: u32,
    /// Slots of the group's Maglev table. Never 0.
    pub table_size: u32,
    /// Bits, see the constants.
    pub flags: u16,
    /// The security group's id; 0 for none.
    pub security_group: u16,
}

impl ListenerEntry {
    /// The source address alone picks the target.
    pub const HASH_SOURCE: u16 = 0x01;
    /// The destination port alone picks the target.
    pub const HASH_PORT: u16 = 0x02;
    /// New flows are limited, see [`ListenerLimits`].
    pub const LIMITED: u16 = 0x04;

    #[inline(always)]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// What a listener admits; 0 is no limit.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ListenerLimits {
    /// New flows a second.
    pub new_flows: u32,
    /// New flows a second from one source prefix.
    pub new_flows_per_source: u32,
    /// Bits of a source prefix, for IPv4 and for IPv6.
    pub prefix_v4: u32,
    pub prefix_v6: u32,
}

/// Events counted in one second of CLOCK_MONOTONIC.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Window {
    pub second: u32,
    pub count: u32,
}

/// Whose new flows are counted together.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SourceRateKey {
    /// The prefix, its other bits zero.
    pub prefix: crate::wire::Wide,
    pub listener: u32,
}

/// What xlb does at an address that a listener has.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct VipEntry {
    /// Bits, see the constants.
    pub flags: u32,
}

impl VipEntry {
    /// No interface has the address, so the kernel does nothing with it: xlb
    /// answers its echo requests.
    pub const OWNED: u32 = 0x01;
    /// Listeners with port ranges are here, in the trie.
    pub const RANGES: u32 = 0x02;

    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

pub type ListenerKey4 = ListenerKey<Ipv4>;
pub type ListenerKey6 = ListenerKey<Ipv6>;

crate::map_value!(
    ListenerKey<Ipv4>,
    ListenerKey<Ipv6>,
    ListenerEntry,
    ListenerLimits,
    Window,
    SourceRateKey,
    VipEntry,
);
