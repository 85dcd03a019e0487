//! The listener map: (address, port, protocol) → listener.

use crate::wire::{Be16, Ipv4};

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ListenerKey<A> {
    pub address: A,
    pub port: Be16,
    /// [`crate::flow::TCP`] or [`crate::flow::UDP`].
    pub protocol: u8,
    pub padding: u8,
}

impl<A> ListenerKey<A> {
    #[inline(always)]
    pub fn new(address: A, port: Be16, protocol: u8) -> Self {
        Self {
            address,
            port,
            protocol,
            padding: 0,
        }
    }
}

/// One address of a listener. A listener for every address of an interface has
/// several entries with the same `id`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ListenerEntry {
    /// The listener's id, an index of the listener counters.
    pub id: u32,
    /// The group's id, an index of the outer Maglev map.
    pub group: u32,
    /// Slots of the group's Maglev table. Never 0.
    pub table_size: u32,
    pub padding: u32,
}

pub type ListenerKey4 = ListenerKey<Ipv4>;

crate::map_value!(ListenerKey<Ipv4>, ListenerEntry);
