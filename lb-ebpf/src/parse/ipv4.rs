//! The IPv4 header (RFC 791).

use lb_common::{Ipv4, counters::DropReason};
use network_types::ip::Ipv4Hdr;

use crate::packet::Packet;

/// "More fragments" and the fragment offset: any of them makes a fragment.
const FRAGMENT_BITS: u16 = 0x3FFF;

pub struct Header {
    pub source: Ipv4,
    pub destination: Ipv4,
    pub protocol: u8,
    pub type_of_service: u8,
    pub time_to_live: u8,
    /// Of the packet, header included: at least the header's, at most what the
    /// frame holds.
    pub length: u16,
    /// Offset of what follows the header and its options.
    pub payload: usize,
    /// Bytes of what follows.
    pub payload_length: u16,
}

#[inline(always)]
pub fn parse(packet: &Packet, offset: usize, frame_length: usize) -> Result<Header, DropReason> {
    let header: Ipv4Hdr = packet.read(offset).ok_or(DropReason::Truncated)?;
    let header_length = u16::from(header.vihl & 0x0F) * 4;
    if header.vihl >> 4 != 4 || usize::from(header_length) < Ipv4Hdr::LEN {
        return Err(DropReason::BadIpHeader);
    }
    let room = frame_length - offset;
    let length = match u16::from_be_bytes(header.tot_len) {
        // The kernel's own super-packets above 64 KiB ("BIG TCP") carry no
        // length. From the wire this can't be: there `room` is an MTU, and the
        // checks below still hold.
        0 if room > usize::from(u16::MAX) => u16::MAX,
        length => length,
    };
    if length < header_length || usize::from(length) > room {
        return Err(DropReason::BadTotalLength);
    }
    if u16::from_be_bytes(header.frags) & FRAGMENT_BITS != 0 {
        return Err(DropReason::Fragment);
    }
    Ok(Header {
        source: Ipv4::from_bytes(header.src_addr),
        destination: Ipv4::from_bytes(header.dst_addr),
        protocol: header.proto as u8,
        type_of_service: header.tos,
        time_to_live: header.ttl,
        length,
        payload: offset + usize::from(header_length),
        payload_length: length - header_length,
    })
}
