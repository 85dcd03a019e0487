//! The frame that a packet would come in by, and what is read of the one that
//! leaves.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, LinkSlice, NetSlice,
    SlicedPacket, TcpHeader, TransportSlice, UdpHeader, ip_number,
};
use lb_common::flow;
use serde::{Deserialize, Serialize};

use super::Ends;

/// Flags of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TcpFlags {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

impl TcpFlags {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::SynAck => "syn_ack",
            Self::Ack => "ack",
            Self::Fin => "fin",
            Self::Rst => "rst",
        }
    }
}

/// What of a packet the data path may look at, besides its ends.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Of TCP.
    pub flags: TcpFlags,
    /// Bytes behind the TCP or UDP header.
    pub payload: u16,
    pub time_to_live: u8,
    /// The interface's link-layer address, as it lies in memory.
    pub mac: [u8; 6],
}

/// Who sends the frame: any link-layer address will do, so one that is nobody's
/// (locally administered).
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 0];

/// The frame's bytes; `None` if the packet would be too long, or its ends are of
/// different families.
#[must_use]
pub fn build(ends: &Ends, shape: &Shape) -> Option<Vec<u8>> {
    let payload = vec![0; shape.payload.into()];
    let transport = transport(ends, shape, &payload)?;
    let length = transport.len() + payload.len();
    let mut frame = Vec::new();
    let link = |ether_type| Ethernet2Header {
        source: SENDER,
        destination: shape.mac,
        ether_type,
    };
    match (ends.source.ip(), ends.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4Header::new(
                u16::try_from(length).ok()?,
                shape.time_to_live,
                IpNumber(ends.protocol),
                source.octets(),
                destination.octets(),
            )
            .ok()?;
            header.dont_fragment = true;
            header.header_checksum = header.calc_header_checksum();
            frame.extend_from_slice(&link(EtherType::IPV4).to_bytes());
            frame.extend_from_slice(&header.to_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                payload_length: u16::try_from(length).ok()?,
                next_header: IpNumber(ends.protocol),
                hop_limit: shape.time_to_live,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            frame.extend_from_slice(&link(EtherType::IPV6).to_bytes());
            frame.extend_from_slice(&header.to_bytes());
        }
        _ => return None,
    }
    frame.extend_from_slice(&transport);
    frame.extend_from_slice(&payload);
    Some(frame)
}

/// The TCP or UDP header.
fn transport(ends: &Ends, shape: &Shape, payload: &[u8]) -> Option<Vec<u8>> {
    let (from, to) = (ends.source.port(), ends.destination.port());
    let addresses = (ends.source.ip(), ends.destination.ip());
    if ends.protocol == flow::UDP {
        let header = match addresses {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                UdpHeader::without_ipv4_checksum(from, to, payload.len())
                    .ok()
                    .map(|mut header| {
                        let sum = header.calc_checksum_ipv4_raw(
                            source.octets(),
                            destination.octets(),
                            payload,
                        );
                        header.checksum = sum.unwrap_or(0);
                        header
                    })
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                UdpHeader::without_ipv4_checksum(from, to, payload.len())
                    .ok()
                    .map(|mut header| {
                        let sum = header.calc_checksum_ipv6_raw(
                            source.octets(),
                            destination.octets(),
                            payload,
                        );
                        header.checksum = sum.unwrap_or(0);
                        header
                    })
            }
            _ => None,
        };
        return header.map(|header| header.to_bytes().to_vec());
    }
    let mut header = TcpHeader::new(from, to, 1, 0xFFFF);
    header.syn = matches!(shape.flags, TcpFlags::Syn | TcpFlags::SynAck);
    header.fin = shape.flags == TcpFlags::Fin;
    header.rst = shape.flags == TcpFlags::Rst;
    header.ack = shape.flags != TcpFlags::Syn;
    header.checksum = match addresses {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), payload)
        }
        _ => return None,
    }
    .ok()?;
    Some(header.to_bytes().to_vec())
}

/// What a frame that leaves says of its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    /// Of the outermost header; port 0 where that has none.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub time_to_live: u8,
}

/// `None` if it isn't IP.
#[must_use]
pub fn read(frame: &[u8]) -> Option<Outside> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(LinkSlice::Ethernet2(link)) = &packet.link else {
        return None;
    };
    let (source, destination, time_to_live): (IpAddr, IpAddr, u8) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.ttl(),
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.hop_limit(),
            )
        }
        NetSlice::Arp(_) => return None,
    };
    let (from, to) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => (0, 0),
    };
    Some(Outside {
        source_mac: link.source(),
        destination_mac: link.destination(),
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
        time_to_live,
    })
}

/// Protocol numbers of the two that flows can have are the same everywhere.
const _: () = assert!(ip_number::TCP.0 == flow::TCP && ip_number::UDP.0 == flow::UDP);
