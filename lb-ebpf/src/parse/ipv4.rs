//! The IPv4 header (RFC 791).

use lb_common::{Ipv4, counters::DropReason};
use network_types::ip::Ipv4Hdr;

use super::{Fragment, Ip, Part};
use crate::packet::Packet;

/// Bits of the word with the fragment offset.
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1FFF;

#[inline(always)]
pub fn parse(packet: &Packet, network: usize) -> Result<Ip<Ipv4>, DropReason> {
    let (header, header_length) = header(packet, network)?;
    let length = match u16::from_be_bytes(header.tot_len) {
        // The kernel's own super-packets above 64 KiB ("BIG TCP") carry no
        // length. From the wire this can't be: there the room is an MTU, and
        // the checks below still hold.
        0 if packet.whole_length() > usize::from(u16::MAX) => u16::MAX,
        length => length,
    };
    if length < header_length || !packet.holds(network + usize::from(length)) {
        return Err(DropReason::BadTotalLength);
    }
    Ok(ip(&header, header_length, network, length))
}

/// Parses the header of a packet that an ICMP message quotes, and that may end
/// anywhere behind it.
#[inline(always)]
pub fn parse_quoted(packet: &Packet, network: usize) -> Result<Ip<Ipv4>, DropReason> {
    let (header, header_length) = header(packet, network)?;
    let length = u16::from_be_bytes(header.tot_len);
    if length < header_length {
        return Err(DropReason::BadTotalLength);
    }
    Ok(ip(&header, header_length, network, length))
}

#[inline(always)]
fn header(packet: &Packet, network: usize) -> Result<(Ipv4Hdr, u16), DropReason> {
    let header: Ipv4Hdr = packet.read(network).ok_or(DropReason::Truncated)?;
    let header_length = u16::from(header.vihl & 0x0F) * 4;
    if header.vihl >> 4 != 4 || usize::from(header_length) < Ipv4Hdr::LEN {
        return Err(DropReason::BadIpHeader);
    }
    Ok((header, header_length))
}

#[inline(always)]
fn ip(header: &Ipv4Hdr, header_length: u16, network: usize, length: u16) -> Ip<Ipv4> {
    let bits = u16::from_be_bytes(header.frags);
    Ip {
        source: Ipv4::from_bytes(header.src_addr),
        destination: Ipv4::from_bytes(header.dst_addr),
        protocol: header.proto,
        type_of_service: header.tos,
        time_to_live: header.ttl,
        length,
        network: network as u16,
        payload: network as u16 + header_length,
        payload_length: length - header_length,
        fragment: Fragment {
            part: match (bits & OFFSET, bits & MORE_FRAGMENTS) {
                (0, 0) => Part::Whole,
                (0, _) => Part::First,
                _ => Part::Later,
            },
            identification: u32::from(u16::from_ne_bytes(header.id)),
        },
        whole: bits & DONT_FRAGMENT != 0,
    }
}
