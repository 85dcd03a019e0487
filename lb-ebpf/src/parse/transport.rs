//! TCP (RFC 9293) and UDP (RFC 768) headers, as far as a balancer reads them.

use lb_common::{Be16, counters::DropReason, flow, tcp::Flags};
use network_types::{tcp::TcpHdr, udp::UdpHdr};

use super::{Ip, Part};
use crate::{family::Family, packet::Packet};

/// Offset of the flags byte in a TCP header; the data offset is before it.
const TCP_FLAGS: usize = 13;
pub const TCP_DATA_OFFSET: usize = 12;

pub struct Header {
    pub source_port: Be16,
    pub destination_port: Be16,
    pub flags: Flags,
}

#[inline(always)]
pub fn parse<F: Family>(packet: &Packet, ip: &Ip<F>) -> Result<Header, DropReason> {
    let flags = match ip.protocol {
        flow::TCP => tcp_flags(packet, ip)?,
        flow::UDP => udp_flags(packet, ip)?,
        _ => return Err(DropReason::OtherProtocol),
    };
    let [source_port, destination_port]: [Be16; 2] =
        packet.read(ip.payload()).ok_or(DropReason::Truncated)?;
    Ok(Header {
        source_port,
        destination_port,
        flags,
    })
}

#[inline(always)]
fn tcp_flags<F: Family>(packet: &Packet, ip: &Ip<F>) -> Result<Flags, DropReason> {
    if usize::from(ip.payload_length) < TcpHdr::LEN {
        return Err(DropReason::BadTcpHeader);
    }
    let header: [u8; TcpHdr::LEN] = packet.read(ip.payload()).ok_or(DropReason::Truncated)?;
    let length = u16::from(header[TCP_DATA_OFFSET] >> 4) * 4;
    if usize::from(length) < TcpHdr::LEN || length > ip.payload_length {
        return Err(DropReason::BadTcpHeader);
    }
    Ok(Flags(header[TCP_FLAGS]))
}

#[inline(always)]
fn udp_flags<F: Family>(packet: &Packet, ip: &Ip<F>) -> Result<Flags, DropReason> {
    if usize::from(ip.payload_length) < UdpHdr::LEN {
        return Err(DropReason::BadUdpLength);
    }
    let header: UdpHdr = packet.read(ip.payload()).ok_or(DropReason::Truncated)?;
    let length = u16::from_be_bytes(header.len);
    // A first fragment's length is that of the whole datagram.
    let beyond = ip.fragment.part == Part::Whole && length > ip.payload_length;
    if usize::from(length) < UdpHdr::LEN || beyond {
        return Err(DropReason::BadUdpLength);
    }
    Ok(Flags(0))
}
