//! Wire-order values: ports and addresses as they stand in a packet.

use crate::{checksum::Delta, hash};

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

/// An IPv6 address in wire order. Four words, so that map keys need no padding.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ipv6([u32; 4]);

impl Ipv6 {
    pub const UNSPECIFIED: Self = Self([0; 4]);

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    pub const fn to_bytes(self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let (a, b) = (a.to_ne_bytes(), b.to_ne_bytes());
        let (c, d) = (c.to_ne_bytes(), d.to_ne_bytes());
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// The words as they lie in memory, see [`Be16::raw`].
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }
}

impl From<core::net::Ipv6Addr> for Ipv6 {
    fn from(address: core::net::Ipv6Addr) -> Self {
        Self::from_bytes(address.octets())
    }
}

impl From<Ipv6> for core::net::Ipv6Addr {
    fn from(address: Ipv6) -> Self {
        address.to_bytes().into()
    }
}

/// An address of any family, as map values hold it: wire order, IPv4 in the
/// first word and the others zero. Which family it is stands beside it.
pub type Wide = [u32; 4];

/// [`Wide`] of an address of either family.
pub const fn wide(address: core::net::IpAddr) -> Wide {
    match address {
        core::net::IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        core::net::IpAddr::V6(v6) => Ipv6::from_bytes(v6.octets()).words(),
    }
}

/// An address family of the data path: what differs between them is the
/// address's width, and so how it is hashed and summed.
pub trait Address: Copy + Eq + Default {
    /// Mixes the address into the state of the flow hash.
    #[must_use]
    fn hash_into(self, state: u64) -> u64;
    /// Replaces `self` by `other` in a checksum.
    #[must_use]
    fn replace(self, other: Self, delta: Delta) -> Delta;
    fn from_wide(wide: Wide) -> Self;
    fn to_wide(self) -> Wide;
    fn is_unspecified(self) -> bool;
}

impl Address for Ipv4 {
    #[inline(always)]
    fn hash_into(self, state: u64) -> u64 {
        hash::mix(state ^ u64::from(self.0))
    }

    #[inline(always)]
    fn replace(self, other: Self, delta: Delta) -> Delta {
        delta.long(self.0, other.0)
    }

    #[inline(always)]
    fn from_wide(wide: Wide) -> Self {
        Self(wide[0])
    }

    #[inline(always)]
    fn to_wide(self) -> Wide {
        [self.0, 0, 0, 0]
    }

    #[inline(always)]
    fn is_unspecified(self) -> bool {
        self.0 == 0
    }
}

impl Address for Ipv6 {
    #[inline(always)]
    fn hash_into(self, state: u64) -> u64 {
        let [a, b, c, d] = self.0;
        let state = hash::mix(state ^ (u64::from(a) << 32 | u64::from(b)));
        hash::mix(state ^ (u64::from(c) << 32 | u64::from(d)))
    }

    #[inline(always)]
    fn replace(self, other: Self, delta: Delta) -> Delta {
        delta
            .long(self.0[0], other.0[0])
            .long(self.0[1], other.0[1])
            .long(self.0[2], other.0[2])
            .long(self.0[3], other.0[3])
    }

    #[inline(always)]
    fn from_wide(wide: Wide) -> Self {
        Self(wide)
    }

    #[inline(always)]
    fn to_wide(self) -> Wide {
        self.0
    }

    #[inline(always)]
    fn is_unspecified(self) -> bool {
        self.0 == [0; 4]
    }
}

crate::map_value!(Be16, Ipv4, Ipv6);
