//! The target array: id → target.

use crate::wire::Be16;

/// A target as the data path sees it. One cache line.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TargetEntry {
    /// The target's address, wire order, IPv4 in the first four bytes. All
    /// zero: a port of this host at whatever address the client used.
    pub address: [u8; 16],
    /// The address that `SOURCE_NAT` writes as the source, like `address`.
    pub source: [u8; 16],
    pub port: Be16,
    /// Bits, see the constants.
    pub flags: u16,
    /// Moves on whenever the id gets another meaning; 0 is never used.
    pub generation: u32,
    /// First and last source port (host order) that `SOURCE_NAT` may write.
    pub first_source_port: u16,
    pub last_source_port: u16,
    pub padding: [u8; 20],
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

    #[inline(always)]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

crate::map_value!(TargetEntry);
