//! TCP (RFC 9293) and UDP (RFC 768) headers, as far as a balancer reads them.

use lb_common::{Be16, counters::DropReason, flow, tcp::Flags};
use network_types::{tcp::TcpHdr, udp::UdpHdr};

use super::{Ip, Part};
use crate::{family::Family, packet::Packet};

/// Offset of the data offset in a TCP header; the flags are behind it.
pub const TCP_DATA_OFFSET: usize = 12;

pub struct Header {
    pub source_port: Be16,
    pub destination_port: Be16,
    pub flags: Flags,
}

#[inline(always)]
pub fn parse<F: Family>(packet: &Packet, ip: &Ip<F>) -> Result<Header, DropReason> {
    match ip.protocol {
        flow::TCP => tcp(packet, ip),
        flow::UDP => udp(packet, ip),
        _ => Err(DropReason::OtherProtocol),
    }
}

#[inline(always)]
fn tcp<F: Family>(packet: &Packet, ip: &Ip<F>) -> Result<Header, DropReason> {
    if usize::from(ip.payload_length) < TcpHdr::LEN {
        return Err(DropReason::BadTcpHeader);
    }
    let halves: [Be16; TcpHdr::LEN / 2] = packet.read(ip.payload()).ok_or(DropReason::Truncated)?;
    let offset_and_flags = halves[TCP_DATA_OFFSET / 2].get();
    let length = (offset_and_flags >> 12) * 4;
    if usize::from(length) < TcpHdr::LEN || length > ip.payload_length {
        return Err(DropReason::BadTcpHeader);
    }
    Ok(Header {
        source_port: halves[0],
        destination_port: halves[1],
        flags: Flags(offset_and_flags as u8),
    })
}

#[inline(always)]
fn udp<F: Family>(packet: &Packet, ip: &Ip<F>) -> Result<Header, DropReason> {
    if usize::from(ip.payload_length) < UdpHdr::LEN {
        return Err(DropReason::BadUdpLength);
    }
    let halves: [Be16; UdpHdr::LEN / 2] = packet.read(ip.payload()).ok_or(DropReason::Truncated)?;
    let length = halves[2].get();
    // A first fragment's length is that of the whole datagram.
    let beyond = ip.fragment.part == Part::Whole && length > ip.payload_length;
    if usize::from(length) < UdpHdr::LEN || beyond {
        return Err(DropReason::BadUdpLength);
    }
    Ok(Header {
        source_port: halves[0],
        destination_port: halves[1],
        flags: Flags(0),
    })
}
