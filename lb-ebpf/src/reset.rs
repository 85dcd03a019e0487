//! RST: what TCP gets whose flow was idle for too long or has lost its target
//! (RFC 9293, section 3.10.7.1: what a host without the connection answers).

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_tail, programs::XdpContext};
use lb_common::{Be16, counters::DropReason, flow::TCP, tcp::Flags};
use network_types::tcp::TcpHdr;

use crate::{
    family::{Family, NewHeader},
    packet::Packet,
    parse::{Parsed, transport::TCP_DATA_OFFSET},
    transmit,
    work::Work,
};

const TIME_TO_LIVE: u8 = 64;

/// Turns the packet into a RST to its sender. A RST is never answered, nor a
/// fragment that has no numbers.
#[inline(never)]
pub fn answer<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    let ctx = &XdpContext::new(ctx);
    let parsed = &work.parsed;
    if !parsed.has_transport() || parsed.flags.has(Flags::RST) {
        return Err(DropReason::FlowReset);
    }
    let packet = Packet::of_xdp(ctx);
    let numbers = Numbers::answering(&packet, parsed).ok_or(DropReason::Internal)?;
    let length = parsed.ip.network() + F::HEADER + TcpHdr::LEN;
    let surplus = packet.whole_length().saturating_sub(length);
    // SAFETY: `ctx` is this program's own context. The frame had these headers
    // already, so it only gets shorter.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, -(surplus as i32)) } != 0 {
        return Err(DropReason::FlowReset);
    }
    write(&Packet::of_xdp(ctx), parsed, &numbers).ok_or(DropReason::Internal)?;
    work.way = transmit::back(ctx, &parsed.tags).ok_or(DropReason::FlowReset)?;
    Ok(())
}

/// Sequence and acknowledgment number of a RST, wire order, and its flags.
struct Numbers {
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
}

impl Numbers {
    #[inline(always)]
    fn answering<F: Family>(packet: &Packet, parsed: &Parsed<F>) -> Option<Self> {
        let tcp = parsed.ip.payload();
        if parsed.flags.has(Flags::ACK) {
            return Some(Self {
                sequence: packet.read(tcp + 8)?,
                acknowledgment: 0,
                flags: Flags::RST,
            });
        }
        let words: u8 = packet.read(tcp + TCP_DATA_OFFSET)?;
        let sequence: u32 = packet.read(tcp + 4)?;
        let header = u16::from(words >> 4) * 4;
        let data = u32::from(parsed.ip.payload_length.saturating_sub(header));
        let fin = u32::from(parsed.flags.has(Flags::FIN));
        let after = u32::from_be(sequence).wrapping_add(data + fin);
        Some(Self {
            sequence: 0,
            acknowledgment: after.to_be(),
            flags: Flags::RST | Flags::ACK,
        })
    }
}

#[inline(always)]
fn write<F: Family>(packet: &Packet, parsed: &Parsed<F>, numbers: &Numbers) -> Option<()> {
    let from = parsed.key.endpoints.reversed();
    let header = NewHeader {
        source: from.source,
        destination: from.destination,
        protocol: TCP,
        type_of_service: 0,
        time_to_live: TIME_TO_LIVE,
        whole: true,
        identification: 0,
        payload_length: TcpHdr::LEN as u16,
        flow_label: 0,
    };
    F::write_header(packet, parsed.ip.network(), &header)?;
    let flags = Be16::new(0x5000 | u16::from(numbers.flags));
    let sum = F::pseudo_header(from.source, from.destination, TCP, TcpHdr::LEN as u16)
        .add(from.source_port.raw())
        .add(from.destination_port.raw())
        .add_long(numbers.sequence)
        .add_long(numbers.acknowledgment)
        .add(flags.raw())
        .finish();
    let tcp = parsed.ip.network() + F::HEADER;
    packet.write(tcp, [from.source_port, from.destination_port])?;
    packet.write(tcp + 4, numbers.sequence)?;
    packet.write(tcp + 8, numbers.acknowledgment)?;
    packet.write(tcp + 12, [flags.raw(), 0, sum, 0])
}
