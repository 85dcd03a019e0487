//! The target array: id → target.

use crate::wire::{Be16, Wide};

/// A target as the data path sees it. One cache line.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TargetEntry {
    /// The target's address. All zero: a port of this host at whatever address
    /// the client used.
    pub address: Wide,
    /// The address that `SOURCE_NAT` writes as the source, or the outer source
    /// address of an encapsulation.
    pub source: Wide,
    /// 0: the port that the client used.
    pub port: Be16,
    /// Bits, see the constants.
    pub flags: u16,
    /// Moves on whenever the id gets another meaning; 0 is never used.
    pub generation: u32,
    /// First and last source port (host order) that `SOURCE_NAT` may write.
    pub first_source_port: u16,
    pub last_source_port: u16,
    /// Established flows that the target may have; 0 is no limit.
    pub max_flows: u32,
    /// Geneve's virtual network identifier, 24 bits, host order.
    pub virtual_network: u32,
    /// UDP destination port of GUE and Geneve.
    pub encapsulation_port: Be16,
    /// Largest segment size that a SYN may offer (bytes); 0 leaves it.
    pub max_segment: u16,
    /// An [`Encapsulation`].
    pub encapsulation: u8,
    /// Low bits of an IPv4 outer source address, or of the last word of an
    /// IPv6 one, that vary by flow.
    pub source_bits: u8,
    pub padding: [u16; 3],
}

impl TargetEntry {
    /// New flows may be sent here.
    pub const ACCEPTS: u16 = 0x01;
    /// Known flows go on being sent here.
    pub const KEEPS: u16 = 0x02;
    /// The target is an address of this host.
    pub const LOCAL: u16 = 0x04;
    /// The source is rewritten too, so that replies come back through here
    /// (`preserve_client_ip = false`).
    pub const SOURCE_NAT: u16 = 0x08;
    /// Addresses are IPv6.
    pub const IPV6: u16 = 0x10;
    /// Packets go on as they came, and replies past this host (`dsr`).
    pub const DSR: u16 = 0x20;

    #[inline(always)]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// How packets reach a `dsr` target.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Encapsulation {
    /// In a frame to its MAC address; the target is on a network of this host.
    #[default]
    None = 0,
    /// IP in IP (RFC 2003, RFC 2473, RFC 4213).
    Ipip = 1,
    /// Generic UDP Encapsulation, variant 1: IP directly in UDP
    /// (draft-ietf-intarea-gue, section 4).
    Gue = 2,
    /// Geneve with IP inside (RFC 8926).
    Geneve = 3,
}

impl Encapsulation {
    #[inline(always)]
    pub const fn from_wire(value: u8) -> Self {
        match value {
            1 => Self::Ipip,
            2 => Self::Gue,
            3 => Self::Geneve,
            _ => Self::None,
        }
    }

    /// Bytes between the outer IP header and the packet.
    #[inline(always)]
    pub const fn overhead(self) -> usize {
        match self {
            Self::None | Self::Ipip => 0,
            Self::Gue => 8,
            Self::Geneve => 8 + 8,
        }
    }
}

crate::map_value!(TargetEntry);
