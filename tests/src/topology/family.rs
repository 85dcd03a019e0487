//! The rig's addresses in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The address in this family of whoever has this one: 10.0.2.15 has
    /// fd00:10:0:2::15 too (in hexadecimal, fd00:a:0:2::f).
    #[must_use]
    pub const fn of(self, address: Ipv4Addr) -> IpAddr {
        let [a, b, c, d] = address.octets();
        match self {
            Self::V4 => IpAddr::V4(address),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(
                0xFD00, a as u16, b as u16, c as u16, 0, 0, 0, d as u16,
            )),
        }
    }

    #[must_use]
    pub const fn at(self, address: Ipv4Addr, port: u16) -> SocketAddr {
        SocketAddr::new(self.of(address), port)
    }

    /// Bits of the rig's networks, and of a single address.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}
