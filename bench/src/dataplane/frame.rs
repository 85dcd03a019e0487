//! The frames that are measured with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use etherparse::PacketBuilder;

/// Of the interface that frames come in by, and of who sends them.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// Bytes of a whole frame: a small packet that holds every header.
const LENGTH: usize = 98;

/// Which address and port the harness varies; numbers as bench/ebpf has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Varies {
    Nothing = 0,
    SourceV4 = 1,
    DestinationV4 = 2,
    SourceV6 = 3,
    DestinationV6 = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Syn,
    SynAck,
    Ack,
    Udp,
}

pub type End = (IpAddr, u16);

/// A frame with right checksums.
pub fn build(transport: Transport, from: End, to: End) -> Result<Vec<u8>> {
    let link = PacketBuilder::ethernet2(CLIENT_MAC, HOST_MAC);
    let ip = match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("{} and {} are of two families", from.0, to.0),
    };
    let network = if from.0.is_ipv4() { 20 } else { 40 };
    let mut bytes = Vec::new();
    if transport == Transport::Udp {
        let payload = [0; LENGTH];
        let length = LENGTH - 14 - network - 8;
        ip.udp(from.1, to.1).write(&mut bytes, &payload[..length])?;
        return Ok(bytes);
    }
    let tcp = ip.tcp(from.1, to.1, 1_000, 64_000);
    let tcp = match transport {
        Transport::Syn => tcp.syn(),
        Transport::SynAck => tcp.syn().ack(2_000),
        _ => tcp.ack(2_000),
    };
    let payload = [0; LENGTH];
    let length = LENGTH - 14 - network - 20;
    tcp.write(&mut bytes, &payload[..length])?;
    Ok(bytes)
}

/// Addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    pub v6: bool,
    /// The first of those that vary; their low 20 bits are zero.
    pub client: IpAddr,
    /// The listener's.
    pub vip: IpAddr,
    /// No listener's.
    pub other: IpAddr,
    /// A target, in the interface's own network, and this host there.
    pub target: IpAddr,
    pub host: IpAddr,
    /// The way to the clients.
    pub gateway: IpAddr,
}

pub const V4: Net = Net {
    v6: false,
    client: v4(10, 32, 0, 0),
    vip: v4(192, 0, 2, 1),
    other: v4(192, 0, 2, 2),
    target: v4(10, 0, 1, 4),
    host: v4(10, 0, 1, 1),
    gateway: v4(10, 0, 1, 2),
};

pub const V6: Net = Net {
    v6: true,
    client: v6(0x32, 0),
    vip: v6(0xF, 1),
    other: v6(0xF, 2),
    target: v6(1, 4),
    host: v6(1, 1),
    gateway: v6(1, 2),
};

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(network: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xFD00, 0xB, network, 0, 0, 0, 0, host))
}
