//! The rewrite of a packet's addresses and ports, in either direction.

use lb_common::{
    Be16,
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
    let from = &parsed.key.endpoints;
    let addresses = F::delta(from, to);
    let all = addresses
        .port(from.source_port, to.source_port)
        .port(from.destination_port, to.destination_port);

    if parsed.key.protocol() == TCP {
        let at = parsed.transport + TCP_CHECKSUM;
        packet.write(at, all.apply(packet.read(at)?))?;
    } else {
        let at = parsed.transport + UDP_CHECKSUM;
        let sum: u16 = packet.read(at)?;
        if sum != 0 {
            packet.write(at, all.apply_udp(sum))?;
        }
    }
    write_ports(packet, parsed, to)?;
    F::rewrite_header(packet, parsed.network, to, addresses, time_to_live)
}

#[inline(always)]
pub fn write_ports<F: Family>(
    packet: &Packet,
    parsed: &Parsed<F>,
    to: &Endpoints<F>,
) -> Option<()> {
    packet.write::<[Be16; 2]>(parsed.transport, [to.source_port, to.destination_port])
}
