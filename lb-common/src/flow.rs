//! The flow table's keys and values.
//!
//! A flow has two entries, one a direction. An entry's key is the packet as it
//! arrives, its value the packet as it leaves and whose it is, so that a packet
//! of a known flow needs this one look-up only. The key of the other direction
//! follows from the entry: see [`Endpoints::reversed`].

use crate::{
    tcp::{Direction, Flags, State},
    wire::{Address, Be16, Ipv4, Ipv6},
};

/// Source and destination of a packet: half a flow key, and all of a rewrite.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Endpoints<A> {
    pub source: A,
    pub destination: A,
    pub source_port: Be16,
    pub destination_port: Be16,
}

impl<A: Address> Endpoints<A> {
    /// The same, seen from the other side.
    #[inline(always)]
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// IP protocol numbers that flows can have (IANA).
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// A packet's 5-tuple as it arrives. 16 bytes for IPv4: two words to hash.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FlowKey<A> {
    pub endpoints: Endpoints<A>,
    /// [`TCP`] or [`UDP`]; a whole word, which leaves no padding to be zeroed.
    pub protocol: u32,
}

impl<A: Address> FlowKey<A> {
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.protocol as u8
    }

    #[inline(always)]
    pub fn new(endpoints: Endpoints<A>, protocol: u8) -> Self {
        Self {
            endpoints,
            protocol: u32::from(protocol),
        }
    }
}

/// What happens to the packets of one direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FlowEntry<A> {
    /// What the packet leaves with. A [`FlowEntry::DSR`] flow leaves as it came.
    pub rewrite: Endpoints<A>,
    /// The target's id, an index of the target array.
    pub target: u32,
    /// The target's generation when the flow began. Another one in the target
    /// array means that the id has been given to somebody else since.
    pub generation: u32,
    /// Seconds of CLOCK_MONOTONIC at the last packet, written at most once a
    /// second.
    pub last_seen: u32,
    /// The listener's id, an index of the listener counters.
    pub listener: u16,
    /// [`State`] bits.
    pub state: u8,
    /// Bits, see the constants.
    pub flags: u8,
}

impl<A: Address> FlowEntry<A> {
    /// This entry is of the target → client direction.
    pub const REPLY: u8 = 0x01;
    /// The target is this host: forward packets go up the stack, replies are
    /// rewritten on egress.
    pub const LOCAL: u8 = 0x02;
    /// Replies don't come by here, so there is no entry for them.
    pub const DSR: u8 = 0x04;

    #[inline(always)]
    pub fn direction(&self) -> Direction {
        if self.flags & Self::REPLY != 0 {
            Direction::Reply
        } else {
            Direction::Forward
        }
    }

    #[inline(always)]
    pub fn is_local(&self) -> bool {
        self.flags & Self::LOCAL != 0
    }

    #[inline(always)]
    pub fn is_dsr(&self) -> bool {
        self.flags & Self::DSR != 0
    }

    /// The state after a packet of this direction.
    #[inline(always)]
    pub fn state_after(&self, flags: Flags) -> State {
        if self.is_dsr() {
            self.state().after_one_sided(flags)
        } else {
            self.state().after(self.direction(), flags)
        }
    }

    #[inline(always)]
    pub fn state(&self) -> State {
        State(self.state)
    }

    /// Both entries of a flow seen from one: `key`'s peer and its value. What
    /// one entry says is enough to make the other.
    #[inline(always)]
    pub fn peer(&self, key: &FlowKey<A>) -> (FlowKey<A>, Self) {
        let mut peer = *self;
        peer.rewrite = key.endpoints.reversed();
        peer.flags ^= Self::REPLY;
        (self.peer_key(key.protocol()), peer)
    }

    /// The key of the flow's other direction: what the peer answers to.
    #[inline(always)]
    pub fn peer_key(&self, protocol: u8) -> FlowKey<A> {
        FlowKey::new(self.rewrite.reversed(), protocol)
    }
}

pub type FlowKey4 = FlowKey<Ipv4>;
pub type FlowEntry4 = FlowEntry<Ipv4>;
pub type FlowKey6 = FlowKey<Ipv6>;
pub type FlowEntry6 = FlowEntry<Ipv6>;

crate::map_value!(
    FlowKey<Ipv4>,
    FlowEntry<Ipv4>,
    Endpoints<Ipv4>,
    FlowKey<Ipv6>,
    FlowEntry<Ipv6>,
    Endpoints<Ipv6>,
);
