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
    let header = Header::read(packet, network)?;
    let length = match header.total_length() {
        // The kernel's own super-packets above 64 KiB ("BIG TCP") carry no
        // length. From the wire this can't be: there the room is an MTU, and
        // the checks below still hold.
        0 if packet.whole_length() > usize::from(u16::MAX) => u16::MAX,
        length => length,
    };
    if length < header.length() || !packet.holds(network + usize::from(length)) {
        return Err(DropReason::BadTotalLength);
    }
    Ok(header.ip(network, length))
}

/// Parses the header of a packet that an ICMP message quotes, and that may end
/// anywhere behind it.
#[inline(always)]
pub fn parse_quoted(packet: &Packet, network: usize) -> Result<Ip<Ipv4>, DropReason> {
    let header = Header::read(packet, network)?;
    let length = header.total_length();
    if length < header.length() {
        return Err(DropReason::BadTotalLength);
    }
    Ok(header.ip(network, length))
}

/// The header without options, taken apart in registers: what is stored byte by
/// byte and read back in words waits for the CPU's store buffer.
struct Header {
    /// Version, header length, type of service, total length, identification
    /// and fragment: 4, 4, 8, 16, 16 and 16 bits.
    first: u64,
    /// Time to live, protocol, checksum and source as they lie in memory.
    second: u64,
    /// The destination, likewise.
    third: u32,
}

impl Header {
    #[inline(always)]
    fn read(packet: &Packet, network: usize) -> Result<Self, DropReason> {
        const { assert!(Ipv4Hdr::LEN == 2 * size_of::<u64>() + size_of::<u32>()) };
        let words: [u32; 5] = packet.read(network).ok_or(DropReason::Truncated)?;
        let pair = |low: usize| u64::from(words[low]) | u64::from(words[low + 1]) << 32;
        let header = Self {
            first: u64::from_be(pair(0)),
            second: pair(2),
            third: words[4],
        };
        if header.first >> 60 != 4 || usize::from(header.length()) < Ipv4Hdr::LEN {
            return Err(DropReason::BadIpHeader);
        }
        Ok(header)
    }

    /// Bytes, options included.
    #[inline(always)]
    fn length(&self) -> u16 {
        (self.first >> 56 & 0x0F) as u16 * 4
    }

    /// Of the packet, as the header has it.
    #[inline(always)]
    fn total_length(&self) -> u16 {
        (self.first >> 32) as u16
    }

    #[inline(always)]
    fn ip(&self, network: usize, length: u16) -> Ip<Ipv4> {
        let bits = self.first as u16;
        Ip {
            source: Ipv4::from_bytes(((self.second >> 32) as u32).to_ne_bytes()),
            destination: Ipv4::from_bytes(self.third.to_ne_bytes()),
            protocol: (self.second >> 8) as u8,
            type_of_service: (self.first >> 48) as u8,
            time_to_live: self.second as u8,
            length,
            network: network as u16,
            payload: network as u16 + self.length(),
            payload_length: length - self.length(),
            fragment: Fragment {
                part: match (bits & OFFSET, bits & MORE_FRAGMENTS) {
                    (0, 0) => Part::Whole,
                    (0, _) => Part::First,
                    _ => Part::Later,
                },
                identification: u32::from(((self.first >> 16) as u16).to_be()),
            },
            whole: bits & DONT_FRAGMENT != 0,
        }
    }
}
