//! Wire-order values: ports and addresses as they stand in a packet.

/// A 16-bit big-endian value, such as a port.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Be16(u16);

impl Be16 {
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    pub const fn from_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    pub const fn to_bytes(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }

    /// The value in the host's order.
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The bits as they lie in memory: for sums and hashes that don't care
    /// about the order as long as it is always the same.
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// An IPv4 address in wire order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ipv4(u32);

impl Ipv4 {
    pub const UNSPECIFIED: Self = Self(0);

    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    pub const fn to_bytes(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// The bits as they lie in memory, see [`Be16::raw`].
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl From<core::net::Ipv4Addr> for Ipv4 {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self::from_bytes(address.octets())
    }
}

impl From<Ipv4> for core::net::Ipv4Addr {
    fn from(address: Ipv4) -> Self {
        address.to_bytes().into()
    }
}

/// An address family of the data path: what differs between them is the
/// address's width, and so how it is hashed and summed.
pub trait Address: Copy + Eq + Default {
    /// The address as 64 bits for the flow hash.
    fn fold(self) -> u64;
    /// The target's address out of a map value that has room for any family.
    fn from_wide(wide: [u8; 16]) -> Self;
    fn is_unspecified(self) -> bool;
}

impl Address for Ipv4 {
    fn fold(self) -> u64 {
        u64::from(self.0)
    }

    fn from_wide(wide: [u8; 16]) -> Self {
        Self::from_bytes([wide[0], wide[1], wide[2], wide[3]])
    }

    fn is_unspecified(self) -> bool {
        self.0 == 0
    }
}

crate::map_value!(Be16, Ipv4);
