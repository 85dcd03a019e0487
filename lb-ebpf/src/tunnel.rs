//! What routers between xlb and a `dsr` target report about the packets that
//! xlb made (RFC 2003, section 4; RFC 2473, section 8): it is told to whoever
//! has sent the packet inside, of that packet, and in its family.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_tail, programs::XdpContext};
use lb_common::{
    Be16, Ipv4, Ipv6,
    counters::DropReason,
    flow::{Endpoints, FlowKey, TCP, UDP},
    target::{Encapsulation, TargetEntry},
    wire::Wide,
};

use crate::{
    encap::{IPV4_INSIDE, IPV6_INSIDE},
    family::Family,
    flow::{self, Hook},
    icmp::{self, Message},
    link, maps,
    packet::{Packet, bounded, opaque},
    parse::Part,
    route::{self, Request},
    transmit,
    work::{Work, address},
};

/// An error about a packet of a tunnel.
#[repr(C)]
pub struct Report {
    /// Where the tunnel led, an address of the error's family.
    to: Wide,
    /// The ends of the packet inside.
    client: Wide,
    vip: Wide,
    /// Of the packet inside, from the frame's start, and how many bytes of it
    /// are there.
    inside: u16,
    present: u16,
    /// What fits through the tunnel; 0 if that isn't what is reported.
    mtu: u16,
    /// UDP's destination port, 0 in plain IP.
    port: Be16,
    encapsulation: Encapsulation,
    inside_v6: bool,
}

/// Whether an ICMP packet that is of no flow is a report about one's tunnel.
#[inline(never)]
pub fn find<O: Family>(ctx: *mut xdp_md, work: &mut Work<O>) -> bool {
    if read(ctx, work).is_none() {
        return false;
    }
    if work.report.inside_v6 {
        is_ours::<O, Ipv6>(ctx, work).is_some()
    } else {
        is_ours::<O, Ipv4>(ctx, work).is_some()
    }
}

/// Tells the sender of the packet inside.
#[inline(always)]
pub fn relay<O: Family>(ctx: *mut xdp_md, work: &mut Work<O>) -> Result<(), DropReason> {
    if work.report.inside_v6 {
        tell::<O, Ipv6>(ctx, work)
    } else {
        tell::<O, Ipv4>(ctx, work)
    }
}

/// Reads what an error says about an encapsulated packet.
#[inline(never)]
fn read<O: Family>(ctx: *mut xdp_md, work: &mut Work<O>) -> Option<()> {
    let packet = Packet::of_xdp(&XdpContext::new(ctx));
    let (ip, report) = (&work.parsed.ip, &mut work.report);
    if ip.fragment.part != Part::Whole || usize::from(ip.payload_length) < icmp::HEADER {
        return None;
    }
    let kind: [u8; 2] = packet.read(ip.payload())?;
    if !O::is_loss(kind[0]) {
        return None;
    }
    let quoted = O::parse_quoted(&packet, ip.payload() + icmp::HEADER).ok()?;
    if quoted.source != ip.destination || quoted.fragment.part == Part::Later {
        return None;
    }
    let middle = match quoted.protocol {
        IPV4_INSIDE | IPV6_INSIDE => {
            report.port = Be16::new(0);
            report.encapsulation = Encapsulation::Ipip;
            0
        }
        UDP => {
            let [_, port]: [Be16; 2] = packet.read(quoted.payload())?;
            report.port = port;
            // Geneve's version is 0, and GUE's first bits are IP's version.
            let first: u8 = packet.read(quoted.payload() + 8)?;
            report.encapsulation = match first {
                0 => Encapsulation::Geneve,
                _ => Encapsulation::Gue,
            };
            report.encapsulation.overhead()
        }
        _ => return None,
    };
    let inside = quoted.payload() + middle;
    let version: u8 = packet.read(opaque(inside))?;
    report.inside_v6 = version >> 4 == 6;
    report.inside = inside as u16;
    report.present = (ip.payload() as u16 + ip.payload_length).checked_sub(inside as u16)?;
    report.to = quoted.destination.to_wide();
    report.mtu = 0;
    if kind == O::TOO_BIG {
        let mtu: Be16 = packet.read(ip.payload() + icmp::MTU)?;
        // Of a router that can't tell it is 0, and nothing is left inside.
        let overhead = (inside - quoted.network()) as u16;
        report.mtu = mtu.get().checked_sub(overhead).filter(|&left| left > 0)?;
    }
    Some(())
}

/// Whether the packet inside is of a `dsr` flow, and was sent to where its
/// target is.
#[inline(never)]
fn is_ours<O: Family, F: Family>(ctx: *mut xdp_md, work: &mut Work<O>) -> Option<()> {
    let packet = Packet::of_xdp(&XdpContext::new(ctx));
    let report = &mut work.report;
    let inside = F::parse_quoted(&packet, bounded(report.inside.into())).ok()?;
    let headers = inside.payload() - inside.network();
    let needed = headers + icmp::LEAST_QUOTED;
    let is_whole = matches!(inside.protocol, TCP | UDP)
        && inside.fragment.part != Part::Later
        && needed <= usize::from(report.present)
        && needed <= usize::from(quoted::<F>(report.present));
    if !is_whole {
        return None;
    }
    let [source_port, destination_port]: [Be16; 2] = packet.read(inside.payload())?;
    let key = FlowKey::new(
        Endpoints {
            source: inside.source,
            destination: inside.destination,
            source_port,
            destination_port,
        },
        inside.protocol,
    );
    report.client = inside.source.to_wide();
    report.vip = inside.destination.to_wide();
    let flow = flow::peek(&key, Hook::Ingress)?;
    let target = maps::TARGETS.get(flow.target)?;
    // Of `dsr` then: no other target has an encapsulation.
    let is_way = Encapsulation::from_wire(target.encapsulation) == report.encapsulation
        && target.has(TargetEntry::IPV6) == (O::INDEX == Ipv6::INDEX)
        && O::from_wide(report.to) == address(&target.address)
        && (report.port == Be16::new(0) || report.port == target.encapsulation_port);
    is_way.then_some(())
}

/// Bytes that are quoted of a packet of which so many are there.
#[inline(always)]
fn quoted<F: Family>(present: u16) -> u16 {
    let bytes = if usize::from(present) < icmp::QUOTED_INSIDE {
        F::HEADER + icmp::LEAST_QUOTED
    } else {
        icmp::QUOTED_INSIDE
    };
    bytes as u16
}

/// Makes the error one about the packet inside, which stays where it is.
#[inline(never)]
fn tell<O: Family, F: Family>(ctx: *mut xdp_md, work: &mut Work<O>) -> Result<(), DropReason> {
    let ctx = &XdpContext::new(ctx);
    let (network, tags, report) = (work.parsed.ip.network(), &work.parsed.tags, &work.report);
    let quoted = quoted::<F>(report.present);
    let length = F::HEADER + icmp::HEADER + usize::from(quoted);
    let message = Message::<F> {
        source: address(&report.vip),
        destination: address(&report.client),
        kind: if report.mtu == 0 {
            F::UNREACHABLE
        } else {
            F::TOO_BIG
        },
        mtu: report.mtu,
    };
    let request = Request {
        source: message.source,
        destination: message.destination,
        protocol: F::ICMP,
        type_of_service: 0,
        length: length as u16,
    };
    let next_hop = route::find(ctx, tags, &request, work.now, &mut 0)?;
    let surplus = bounded(report.inside.into()) - (network + F::HEADER + icmp::HEADER);
    let packet = link::resize(ctx, tags, surplus as i32, F::ETHERTYPE)?;
    let rest = packet.whole_length().saturating_sub(network + length);
    // SAFETY: `ctx` is this program's own context.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, -(rest as i32)) } != 0 {
        return Err(DropReason::Internal);
    }
    icmp::write(&Packet::of_xdp(ctx), network, &message, quoted.into())
        .ok_or(DropReason::Internal)?;
    work.way = transmit::leave(ctx, next_hop, tags, None)?;
    Ok(())
}
