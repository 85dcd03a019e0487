//! What differs between the address families' maps: their names, and the type
//! of an address in their keys.

use std::net::IpAddr;

use lb_common::{Address, Ipv4, Ipv6};

/// An address as its family's maps have it.
pub trait Keyed: Address + aya::Pod {
    const NAMES: Names;

    fn to_ip(self) -> IpAddr;
}

/// Names of a family's maps in the object.
#[derive(Debug)]
pub struct Names {
    pub listeners: &'static str,
    pub ranges: &'static str,
    pub vips: &'static str,
    pub security: &'static str,
    pub established: &'static str,
    pub half_open: &'static str,
}

impl Keyed for Ipv4 {
    const NAMES: Names = Names {
        listeners: "LISTENERS_V4",
        ranges: "LISTENER_RANGES_V4",
        vips: "VIPS_V4",
        security: "SECURITY_V4",
        established: "ESTABLISHED_V4",
        half_open: "HALF_OPEN_V4",
    };

    fn to_ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }
}

impl Keyed for Ipv6 {
    const NAMES: Names = Names {
        listeners: "LISTENERS_V6",
        ranges: "LISTENER_RANGES_V6",
        vips: "VIPS_V6",
        security: "SECURITY_V6",
        established: "ESTABLISHED_V6",
        half_open: "HALF_OPEN_V6",
    };

    fn to_ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }
}
