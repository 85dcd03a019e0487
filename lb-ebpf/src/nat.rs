//! The rewrite of a packet's addresses and ports, in either direction.

use lb_common::{
    Be16,
    checksum::Delta,
    counters::DropReason,
    flow::{Endpoints, TCP},
};

use crate::{family::Family, packet::Packet, parse::Parsed};

/// Offsets of the checksums from the start of a TCP and of a UDP header.
pub const TCP_CHECKSUM: usize = 16;
pub const UDP_CHECKSUM: usize = 6;

/// Makes the packet leave as `to`, with every checksum mended (RFC 1624).
#[inline(always)]
pub fn rewrite<F: Family>(
    packet: &Packet,
    parsed: &Parsed<F>,
    to: &Endpoints<F>,
    time_to_live: u8,
) -> Result<(), DropReason> {
    write(packet, parsed, to, time_to_live).ok_or(DropReason::Internal)
}

/// `None` can't be: the parser has reached every byte that is written here.
#[inline(always)]
fn write<F: Family>(
    packet: &Packet,
    parsed: &Parsed<F>,
    to: &Endpoints<F>,
    time_to_live: u8,
) -> Option<()> {
    if parsed.has_transport() {
        let delta = delta(&parsed.key.endpoints, to);
        mend(packet, parsed.key.protocol(), parsed.ip.payload(), delta)?;
        write_ports(packet, parsed.ip.payload(), to)?;
    }
    F::rewrite_header(packet, parsed.ip.network(), to, time_to_live)
}

/// The change of addresses and ports in a transport checksum.
#[inline(always)]
pub fn delta<F: Family>(from: &Endpoints<F>, to: &Endpoints<F>) -> Delta {
    F::delta(from, to)
        .port(from.source_port, to.source_port)
        .port(from.destination_port, to.destination_port)
}

/// Mends the checksum of the transport header at `at`; returns it before and
/// after. UDP's 0 is no checksum and stays (RFC 768).
#[inline(always)]
pub fn mend(packet: &Packet, protocol: u8, at: usize, delta: Delta) -> Option<(u16, u16)> {
    let tcp = protocol == TCP;
    let at = at + if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let mut change = (0, 0);
    packet.update(at, |before| {
        let after = match (tcp, before) {
            (true, _) => delta.apply(before),
            (false, 0) => 0,
            (false, _) => delta.apply_udp(before),
        };
        change = (before, after);
        after
    })?;
    Some(change)
}

#[inline(always)]
pub fn write_ports<F: Family>(packet: &Packet, at: usize, to: &Endpoints<F>) -> Option<()> {
    packet.write::<[Be16; 2]>(at, [to.source_port, to.destination_port])
}
