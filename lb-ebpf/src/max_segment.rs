//! The clamp of the maximum segment size that a SYN offers (RFC 9293, section
//! 3.7.1), where a group asks for it.

use lb_common::{
    Be16,
    checksum::Delta,
    flow::{FlowEntry, TCP},
    tcp::Flags,
};
use network_types::tcp::TcpHdr;

use crate::{
    family::Family,
    maps, nat,
    packet::{Packet, opaque},
    parse::{Parsed, transport::TCP_DATA_OFFSET},
};

/// Options that are looked through. Every known stack puts this one first.
const OPTIONS: usize = 8;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAX_SEGMENT: u8 = 2;

/// A word of the TCP header that has been replaced: at an odd place each byte
/// counts in the other half of its word, so they stand as the checksum sees
/// them.
pub struct Replaced {
    pub from: u16,
    pub to: u16,
}

/// Lowers the offer of a SYN to what the flow's target allows. A SYN without
/// the option, or with options that lie, stays as it is. The checksum is the
/// caller's to mend.
#[inline(always)]
pub fn lower<F: Family>(
    packet: &Packet,
    parsed: &Parsed<F>,
    flow: &FlowEntry<F>,
) -> Option<Replaced> {
    let syn = parsed.key.protocol() == TCP && parsed.flags.has(Flags::SYN);
    if !syn || !parsed.has_transport() {
        return None;
    }
    let target = maps::TARGETS.get(flow.target)?;
    if target.max_segment == 0 {
        return None;
    }
    find(packet, parsed.ip.payload(), target.max_segment)
}

/// [`lower`] with the checksum mended, for a packet that may be a SYN.
#[inline(always)]
pub fn clamp<F: Family>(
    packet: &Packet,
    parsed: &Parsed<F>,
    flow: &FlowEntry<F>,
    may_be_syn: bool,
) {
    if may_be_syn && let Some(Replaced { from, to }) = lower(packet, parsed, flow) {
        let delta = Delta::NONE.word(from, to);
        // The header is there: its options were just read.
        let _ = nat::mend(packet, TCP, parsed.ip.payload(), delta);
    }
}

#[inline(always)]
fn find(packet: &Packet, tcp: usize, limit: u16) -> Option<Replaced> {
    let words: u8 = packet.read(tcp + TCP_DATA_OFFSET)?;
    let end = usize::from(words >> 4) * 4;
    let mut at = TcpHdr::LEN;
    for _ in 0..OPTIONS {
        if at + 4 > end {
            return None;
        }
        let [kind, length]: [u8; 2] = packet.read(opaque(tcp + at))?;
        match kind {
            END => return None,
            NO_OPERATION => at += 1,
            MAX_SEGMENT if length == 4 => return replace(packet, tcp, at + 2, limit),
            _ if length < 2 => return None,
            _ => at += usize::from(length),
        }
    }
    None
}

#[inline(always)]
fn replace(packet: &Packet, tcp: usize, at: usize, limit: u16) -> Option<Replaced> {
    let offered: Be16 = packet.read(opaque(tcp + at))?;
    if offered.get() <= limit {
        return None;
    }
    let lowered = Be16::new(limit);
    packet.write(opaque(tcp + at), lowered)?;
    let (from, to) = (offered.raw(), lowered.raw());
    Some(if at.is_multiple_of(2) {
        Replaced { from, to }
    } else {
        Replaced {
            from: from.swap_bytes(),
            to: to.swap_bytes(),
        }
    })
}
