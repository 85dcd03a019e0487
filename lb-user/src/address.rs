//! Addresses, their families and prefixes, as the agent handles them. In the
//! maps each family has types of its own; here one type has both.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bits of an address.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    #[must_use]
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix that `address` is in. `None` if it has fewer bits.
    #[must_use]
    pub fn around(address: IpAddr, length: u8) -> Option<Self> {
        let open = Family::of(address).bits().checked_sub(length)?;
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(open.into()).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(open.into()).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        };
        Some(Self { address, length })
    }

    /// The lowest one.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Bits that all have in common.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Self::around(address, self.length) == Some(self)
    }

    /// Bits that differ.
    #[must_use]
    pub fn open_bits(self) -> u8 {
        Family::of(self.address).bits() - self.length
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Whether an address has a meaning beyond its own link.
#[must_use]
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// `10.0.0.1:80`, `[2001:db8::1]:80`, or `:80` without an address.
#[must_use]
pub fn with_port(address: Option<IpAddr>, port: impl fmt::Display) -> String {
    match address {
        Some(IpAddr::V4(v4)) => format!("{v4}:{port}"),
        Some(IpAddr::V6(v6)) => format!("[{v6}]:{port}"),
        None => format!(":{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_contains_its_addresses_and_no_others() {
        let prefix =
            |address: &str, length| Prefix::around(address.parse().unwrap(), length).unwrap();
        let cases = [
            (prefix("10.1.0.0", 16), "10.1.255.9", true),
            (prefix("10.1.0.0", 16), "10.2.0.0", false),
            (prefix("10.1.0.0", 16), "a01::", false),
            (prefix("0.0.0.0", 0), "::", false),
            (prefix("2001:db8::", 32), "2001:db8:ffff::1", true),
            (prefix("2001:db8::", 32), "2001:db9::", false),
        ];
        for (prefix, address, expected) in cases {
            assert_eq!(
                prefix.contains(address.parse().unwrap()),
                expected,
                "{address} in {prefix}"
            );
        }
    }

    #[test]
    fn addresses_are_shown_as_they_are_written() {
        let shown = |address: &str| with_port(address.parse().ok(), 80);
        assert_eq!(shown("10.0.0.1"), "10.0.0.1:80");
        assert_eq!(shown("2001:db8::1"), "[2001:db8::1]:80");
        assert_eq!(with_port(None, "*"), ":*");
    }

    #[test]
    fn a_prefix_of_either_family_may_be_everything_or_one_address() {
        for address in ["10.1.2.3", "2001:db8::1"] {
            let address: IpAddr = address.parse().unwrap();
            let family = Family::of(address);
            let all = Prefix::around(address, 0).unwrap();
            assert_eq!(all.address(), family.unspecified());
            let one = Prefix::around(address, family.bits()).unwrap();
            assert_eq!((one.address(), one.open_bits()), (address, 0));
            assert!(all.contains(address) && one.contains(address));
        }
    }
}
