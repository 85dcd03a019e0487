//! What the configuration sets once for the whole data path, in a map of one
//! element so that it can change while traffic runs, and what the agent tells
//! about the host's interfaces.

use crate::{flow, tcp::State};

/// Idle times in seconds, and the key of the flow hash.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Key of the flow hash: every node of a cluster must have the same one,
    /// and a sender who knows it can aim at one target.
    pub hash_key: u64,
    /// TCP before the handshake is complete.
    pub half_open_timeout: u32,
    pub established_timeout: u32,
    /// TCP after both FINs or a RST.
    pub closing_timeout: u32,
    pub udp_timeout: u32,
    /// Answers of the routing table are kept for the rest of a second, unless
    /// this changes; 0: none is kept, as the host has policy rules that may look
    /// at more of a packet than its destination.
    pub route_epoch: u32,
    /// Second of CLOCK_MONOTONIC until which no flow begins, because all flows
    /// are being moved to other maps; 0: they may. A time, so that it ends even
    /// if the agent does.
    pub paused_until: u32,
}

impl Settings {
    /// Whether a flow may begin now (seconds of CLOCK_MONOTONIC).
    #[inline(always)]
    pub const fn is_paused(&self, now: u32) -> bool {
        self.paused_until.wrapping_sub(now) as i32 > 0
    }

    /// Seconds without a packet after which a flow in this state is over.
    #[inline(always)]
    pub const fn timeout(&self, state: State, protocol: u8) -> u32 {
        if protocol == flow::UDP {
            self.udp_timeout
        } else if state.is_closed() {
            self.closing_timeout
        } else if !state.has(State::CONFIRMED) {
            self.half_open_timeout
        } else {
            self.established_timeout
        }
    }
}

/// How the data path may send out of an interface.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct InterfaceEntry {
    /// Index of the device that frames really leave by: itself, or a VLAN
    /// device's parent.
    pub device: u32,
    /// Bits, see the constants.
    pub flags: u16,
    /// VLAN tags that frames must bear on `device`, outermost first; only the
    /// first `tag_count` count. TPID and VLAN id, host order.
    pub tag_count: u16,
    pub tags: [VlanTag; crate::limits::MAX_VLAN_TAGS],
}

/// A VLAN tag without priority bits, in host order.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct VlanTag {
    /// 0x8100 or 0x88A8.
    pub protocol: u16,
    /// 12 bits.
    pub id: u16,
}

impl InterfaceEntry {
    /// `XDP_TX` out of `device` works.
    pub const TRANSMIT: u16 = 0x01;
    /// Redirecting XDP frames to `device` works.
    pub const REDIRECT: u16 = 0x02;
}

crate::map_value!(Settings, InterfaceEntry, VlanTag);
