//! ICMP for IPv4 (RFC 792) and IPv6 (RFC 4443): errors about packets of a flow
//! reach the flow's other side; echo at an address that only xlb has is
//! answered; and a packet that doesn't fit gets "too big".

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_csum_diff, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use lb_common::{
    Be16, Ipv4, Ipv6,
    checksum::Delta,
    counters::DropReason,
    flow::{Endpoints, FlowKey, TCP, UDP},
    listener::VipEntry,
};

use crate::{
    family::{Family, NewHeader},
    flow::{self, Hook},
    limit, link, listener, nat,
    packet::Packet,
    parse::{Ip, Part},
    pipeline,
    route::{self, Request},
    transmit::{self, Way},
    work::{Work, copy},
};

/// Bytes of an ICMP header, behind which an error quotes a packet.
pub const HEADER: usize = 8;
/// Offsets of its checksum, and of the MTU that "too big" tells: IPv6's is the
/// lower half of a word.
pub const CHECKSUM: usize = 2;
pub const MTU: usize = 6;
const TIME_TO_LIVE: u8 = 64;
/// Bytes of a packet that doesn't fit that "too big" quotes. With headers it
/// stays below what every path takes (576 bytes for IPv4, 1,280 for IPv6).
const QUOTED: usize = 512;
/// Bytes behind its IP header that a quote always has (RFC 792).
pub const LEAST_QUOTED: usize = 8;
/// Bytes that are quoted of a packet in a tunnel, if there are so many: enough
/// for any IP header and the beginning of what it carries.
pub const QUOTED_INSIDE: usize = 128;

/// Finds the flow that an ICMP packet which comes in is about.
#[inline(never)]
pub fn find<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    let packet = Packet::of_xdp(&XdpContext::new(ctx));
    match kind(&packet, work)? {
        [kind, 0] if kind == F::ECHO_REQUEST => match listener::vip(&work.parsed.ip.destination) {
            Some(vip) if vip.has(VipEntry::OWNED) => {
                link::check_destination(&packet)?;
                Err(DropReason::EchoAnswered)
            }
            _ => Err(DropReason::NotOurs),
        },
        [kind, _] => find_quoted(&packet, work, kind, Hook::Ingress),
    }
}

/// The same for one that this host sends or forwards.
#[inline(always)]
pub fn find_on_egress<F: Family>(packet: &Packet, work: &mut Work<F>) -> Result<(), DropReason> {
    let [kind, _] = kind(packet, work)?;
    find_quoted(packet, work, kind, Hook::Egress)
}

/// Type and code.
#[inline(always)]
fn kind<F: Family>(packet: &Packet, work: &Work<F>) -> Result<[u8; 2], DropReason> {
    let ip = &work.parsed.ip;
    if ip.fragment.part != Part::Whole {
        return Err(DropReason::Fragment);
    }
    if usize::from(ip.payload_length) < HEADER {
        return Err(DropReason::NotOurs);
    }
    packet.read(ip.payload()).ok_or(DropReason::Truncated)
}

#[inline(always)]
fn find_quoted<F: Family>(
    packet: &Packet,
    work: &mut Work<F>,
    kind: u8,
    hook: Hook,
) -> Result<(), DropReason> {
    read_quote(packet, &work.parsed.ip, kind, &mut work.quote).ok_or(DropReason::NotOurs)?;
    let flow = flow::peek(&work.quote.key, hook).ok_or(DropReason::NotOurs)?;
    work.set_flow(flow);
    Ok(())
}

/// Sends an error on to the flow's other side.
#[inline(always)]
pub fn forward<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    if !work.flow.is_local() {
        next_hop(ctx, work)?;
        rewrite(ctx, work)?;
        let (ctx, tags) = (&XdpContext::new(ctx), &work.parsed.tags);
        work.way = transmit::leave(ctx, &work.next_hop, tags, None)?;
        return Ok(());
    }
    rewrite(ctx, work)?;
    work.way = Way::Stack;
    Ok(())
}

#[inline(never)]
fn next_hop<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    let ctx = &XdpContext::new(ctx);
    let outer = outer(work);
    let (ip, tags) = (&mut work.parsed.ip, &work.parsed.tags);
    ip.time_to_live = pipeline::routed(ip.time_to_live)?;
    let request = Request {
        source: outer.source,
        destination: outer.destination,
        protocol: F::ICMP,
        type_of_service: ip.type_of_service,
        length: ip.length,
    };
    // An error is never answered by another (RFC 1122, section 3.2.2).
    let mut mtu = 0;
    let next_hop = route::find(ctx, tags, &request, work.now, &mut mtu)?;
    copy(next_hop, &mut work.next_hop);
    Ok(())
}

#[inline(never)]
fn rewrite<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    let packet = Packet::of_xdp(&XdpContext::new(ctx));
    translate(&packet, work).ok_or(DropReason::Internal)
}

/// Translates an error that this host sends or forwards.
#[inline(always)]
pub fn translate_on_egress<F: Family>(packet: &Packet, work: &Work<F>) -> Result<(), DropReason> {
    translate(packet, work).ok_or(DropReason::Internal)
}

/// A packet that an error quotes.
#[repr(C)]
pub struct Quote<F> {
    ip: Ip<F>,
    /// Of the flow's direction that goes against it: the one that the error
    /// itself goes in.
    key: FlowKey<F>,
    /// Its transport checksum is quoted too.
    has_checksum: bool,
}

/// Reads an error's quote. Eight bytes of transport header are enough, and all
/// that RFC 792 promises.
#[inline(always)]
fn read_quote<F: Family>(
    packet: &Packet,
    ip: &Ip<F>,
    kind: u8,
    quote: &mut Quote<F>,
) -> Option<()> {
    if !F::is_error(kind) {
        return None;
    }
    let quoted = F::parse_quoted(packet, ip.payload() + HEADER).ok()?;
    let end = ip.payload() + usize::from(ip.payload_length);
    let is_ours = quoted.source == ip.destination
        && matches!(quoted.protocol, TCP | UDP)
        && quoted.fragment.part != Part::Later
        && quoted.payload() + 8 <= end;
    if !is_ours {
        return None;
    }
    let [source_port, destination_port]: [Be16; 2] = packet.read(quoted.payload())?;
    let endpoints = Endpoints {
        source: quoted.source,
        destination: quoted.destination,
        source_port,
        destination_port,
    };
    quote.has_checksum =
        quoted.protocol == UDP || quoted.payload() + nat::TCP_CHECKSUM + size_of::<u16>() <= end;
    quote.key = FlowKey::new(endpoints.reversed(), quoted.protocol);
    quote.ip = quoted;
    Some(())
}

/// The error's own addresses on its way. Its source stays, a router's mostly,
/// unless the flow hides what is behind it.
#[inline(always)]
fn outer<F: Family>(work: &Work<F>) -> Endpoints<F> {
    let to = &work.flow.rewrite;
    let hidden = to.source != work.quote.key.endpoints.source;
    Endpoints {
        source: if hidden {
            to.source
        } else {
            work.parsed.ip.source
        },
        destination: to.destination,
        ..Endpoints::default()
    }
}

/// Makes the quote what the error's receiver has sent, and sends the error
/// there. Every checksum is mended, the quoted ones too.
#[inline(always)]
fn translate<F: Family>(packet: &Packet, work: &Work<F>) -> Option<()> {
    let (ip, quote, flow, outer) = (&work.parsed.ip, &work.quote, &work.flow, outer(work));
    let (from, to) = (quote.key.endpoints.reversed(), flow.rewrite.reversed());
    let transport = nat::delta(&from, &to);
    // What changes in the message, for its own checksum.
    let mut changes = transport;
    if quote.has_checksum {
        let (before, after) = nat::mend(packet, quote.ip.protocol, quote.ip.payload(), transport)?;
        changes = changes.word(before, after);
    }
    nat::write_ports(packet, quote.ip.payload(), &to)?;
    let before = F::header_checksum(packet, quote.ip.network())?;
    F::rewrite_header(packet, quote.ip.network(), &to, quote.ip.time_to_live)?;
    changes = changes.word(before, F::header_checksum(packet, quote.ip.network())?);
    if F::ICMP_PSEUDO_HEADER {
        changes = ip.source.replace(outer.source, changes);
        changes = ip.destination.replace(outer.destination, changes);
    }
    let at = ip.payload() + CHECKSUM;
    packet.write(at, changes.apply(packet.read(at)?))?;
    F::rewrite_header(packet, ip.network(), &outer, ip.time_to_live)
}

/// Answers an echo request to an address that no interface has.
#[inline(never)]
pub fn echo<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    let ctx = &XdpContext::new(ctx);
    write_reply(&Packet::of_xdp(ctx), &work.parsed.ip).ok_or(DropReason::Internal)?;
    work.way = transmit::back(ctx, &work.parsed.tags).ok_or(DropReason::EchoAnswered)?;
    Ok(())
}

/// Turns the request around. Its checksum doesn't notice the addresses, which
/// only change places.
#[inline(always)]
fn write_reply<F: Family>(packet: &Packet, ip: &Ip<F>) -> Option<()> {
    let at = ip.payload() + CHECKSUM;
    let word = |kind| u16::from_ne_bytes([kind, 0]);
    let change = Delta::NONE.word(word(F::ECHO_REQUEST), word(F::ECHO_REPLY));
    packet.write(at, change.apply(packet.read(at)?))?;
    packet.write(ip.payload(), F::ECHO_REPLY)?;
    let back = Endpoints {
        source: ip.destination,
        destination: ip.source,
        ..Endpoints::default()
    };
    F::rewrite_header(packet, ip.network(), &back, TIME_TO_LIVE)
}

/// Makes a packet that was too big for its way an error about itself, which
/// tells its sender how much fits, as often as a router may tell.
#[inline(never)]
pub fn too_big<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    let ctx = &XdpContext::new(ctx);
    let (ip, tags) = (&work.parsed.ip, &work.parsed.tags);
    let may_be_told = work.mtu != 0 && ip.protocol != F::ICMP && ip.fragment.part != Part::Later;
    if !may_be_told || !limit::icmp_error(work.now) {
        return Err(DropReason::TooBig);
    }
    let room = F::HEADER + HEADER;
    let packet = link::resize(ctx, tags, -(room as i32), F::ETHERTYPE)?;
    let length = ip.network() + room + QUOTED;
    let surplus = packet
        .whole_length()
        .checked_sub(length)
        .ok_or(DropReason::TooBig)?;
    // SAFETY: `ctx` is this program's own context.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, -(surplus as i32)) } != 0 {
        return Err(DropReason::TooBig);
    }
    let message = Message {
        source: ip.destination,
        destination: ip.source,
        kind: F::TOO_BIG,
        mtu: work.mtu,
    };
    write(&Packet::of_xdp(ctx), ip.network(), &message, QUOTED).ok_or(DropReason::TooBig)?;
    work.way = transmit::back(ctx, tags).ok_or(DropReason::TooBig)?;
    Ok(())
}

/// An error of xlb's own.
pub struct Message<F> {
    pub source: F,
    pub destination: F,
    /// Type and code.
    pub kind: [u8; 2],
    /// What fits, at the least [`Family::LEAST_MTU`] for whoever is told; 0 where
    /// that isn't the matter.
    pub mtu: u16,
}

/// Writes the headers of a message in front of the `quoted` bytes that it
/// quotes; `None` if they aren't there.
#[inline(always)]
pub fn write<F: Family>(
    packet: &Packet,
    network: usize,
    message: &Message<F>,
    quoted: usize,
) -> Option<()> {
    let header = NewHeader {
        source: message.source,
        destination: message.destination,
        protocol: F::ICMP,
        type_of_service: 0,
        time_to_live: TIME_TO_LIVE,
        whole: true,
        identification: 0,
        payload_length: (HEADER + quoted) as u16,
        flow_label: 0,
    };
    let at = network + F::HEADER;
    let kind = u16::from_ne_bytes(message.kind);
    let mtu = match message.mtu {
        0 => 0,
        fits => Be16::new(fits.max(F::LEAST_MTU)).raw(),
    };
    let start = match F::ICMP_PSEUDO_HEADER {
        true => F::pseudo_header(
            header.source,
            header.destination,
            F::ICMP,
            header.payload_length,
        ),
        false => Delta::NONE,
    };
    let quote = sum(packet, at + HEADER, quoted)?;
    let check = start.add_sum(quote).add(kind).add(mtu).finish();
    packet.write(at, [kind, check, 0, mtu])?;
    F::write_header(packet, network, &header)
}

/// The ones' complement sum of so many bytes. Of a few numbers only: the
/// verifier wants to see each, and others aren't needed.
#[inline(always)]
fn sum(packet: &Packet, at: usize, length: usize) -> Option<u32> {
    const LEAST_V4: usize = <Ipv4 as Family>::HEADER + LEAST_QUOTED;
    const LEAST_V6: usize = <Ipv6 as Family>::HEADER + LEAST_QUOTED;
    match length {
        QUOTED => sum_of::<QUOTED>(packet, at),
        QUOTED_INSIDE => sum_of::<QUOTED_INSIDE>(packet, at),
        LEAST_V4 => sum_of::<LEAST_V4>(packet, at),
        LEAST_V6 => sum_of::<LEAST_V6>(packet, at),
        _ => None,
    }
}

#[inline(always)]
fn sum_of<const N: usize>(packet: &Packet, at: usize) -> Option<u32> {
    let bytes = packet.at::<[u8; N]>(at)?;
    let nothing = core::ptr::null_mut();
    // SAFETY: `bytes` points to N bytes of the packet, which `at` checked.
    let sum = unsafe { bpf_csum_diff(nothing, 0, bytes.cast(), N as u32, 0) };
    Some(sum as u32)
}
