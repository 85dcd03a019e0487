//! Replies that this host itself sends or forwards: those of local targets,
//! and of remote ones where XDP isn't attached to the interface that they come
//! in by. They get the listener's address and port back.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use lb_common::{
    Ipv4, Ipv6,
    counters::DropReason,
    flow::{Endpoints, TCP},
};

use network_types::udp::UdpHdr;

use crate::{
    family::Family,
    flow::{self, Hook, Known},
    fragment, icmp,
    max_segment::{self, Replaced},
    nat::{self, TCP_CHECKSUM, UDP_CHECKSUM},
    packet::Packet,
    parse::{
        self, Parsed,
        ethernet::{self, Link},
        transport::TCP_DATA_OFFSET,
    },
    stats,
    work::{User, Work},
};

/// Headers are at most this long, mostly; more of an skb than that is never
/// made linear.
const HEADERS: u32 = 14 + 8 + 60 + 8 + 60 + 20;

/// Rewrites a packet if it is a reply of a flow. Anything else is an error with
/// a reason that isn't a drop.
#[inline(always)]
pub fn reply(ctx: &TcContext) -> Result<(), DropReason> {
    match translate(ctx) {
        Err(DropReason::Truncated) => {
            // The headers may lie in the skb's fragments.
            ctx.pull_data(HEADERS.min(ctx.len()))
                .map_err(|_| DropReason::Truncated)?;
            translate(ctx)
        }
        result => result,
    }
}

#[inline(always)]
fn translate(ctx: &TcContext) -> Result<(), DropReason> {
    let link = ethernet::parse(&Packet::of_skb(ctx))?;
    match link.ethertype {
        Ipv4::ETHERTYPE => reply_of::<Ipv4>(ctx.skb.skb, &link),
        Ipv6::ETHERTYPE => reply_of::<Ipv6>(ctx.skb.skb, &link),
        _ => Err(DropReason::NotIp),
    }
}

#[inline(always)]
fn reply_of<F: Family>(skb: *mut __sk_buff, link: &Link) -> Result<(), DropReason> {
    let work = Work::<F>::of_this_cpu(User::Egress).ok_or(DropReason::Internal)?;
    work.parsed.tags = link.tags;
    parse(skb, work, link.length)?;
    if work.parsed.ip.protocol == F::ICMP {
        // What it quotes may not be linear, without being missed so far.
        let ctx = TcContext::new(skb);
        if Packet::of_skb(&ctx).length() < HEADERS.min(ctx.len()) as usize {
            return Err(DropReason::Truncated);
        }
        find_error(skb, work)?;
        return rewrite_error(skb, work);
    }
    find(skb, work)?;
    rewrite(skb, work)
}

#[inline(never)]
fn parse<F: Family>(
    skb: *mut __sk_buff,
    work: &mut Work<F>,
    network: usize,
) -> Result<(), DropReason> {
    work.look_at_the_clock();
    let packet = Packet::of_skb(&TcContext::new(skb));
    parse::packet(&packet, network, Hook::Egress, &mut work.parsed)
}

#[inline(never)]
fn find_error<F: Family>(skb: *mut __sk_buff, work: &mut Work<F>) -> Result<(), DropReason> {
    icmp::find_on_egress(&Packet::of_skb(&TcContext::new(skb)), work)
}

#[inline(never)]
fn rewrite_error<F: Family>(skb: *mut __sk_buff, work: &mut Work<F>) -> Result<(), DropReason> {
    icmp::translate_on_egress(&Packet::of_skb(&TcContext::new(skb)), work)
}

#[inline(never)]
fn find<F: Family>(skb: *mut __sk_buff, work: &mut Work<F>) -> Result<(), DropReason> {
    let ctx = &TcContext::new(skb);
    match flow::find(work, Hook::Egress) {
        Known::Flow => {}
        // Its client has been told, or will be when it goes on.
        Known::Over => return Err(DropReason::FlowReset),
        Known::Nothing => return Err(DropReason::NotOurs),
    }
    fragment::remember(&work.parsed, Hook::Egress, work.now);
    count(ctx, work);
    Ok(())
}

/// Counts a reply as what it will be on the wire: a super-packet's headers
/// stand in each of its packets.
#[inline(always)]
fn count<F: Family>(ctx: &TcContext, work: &Work<F>) {
    let ip = &work.parsed.ip;
    let segments = u64::from(segments(ctx)).max(1);
    let transport = if ip.protocol == TCP {
        let words: u8 = Packet::of_skb(ctx)
            .read(ip.payload() + TCP_DATA_OFFSET)
            .unwrap_or_default();
        usize::from(words >> 4) * 4
    } else {
        UdpHdr::LEN
    };
    let headers = (ip.payload() - ip.network() + transport) as u64;
    let bytes = u64::from(ctx.len()) - ip.network() as u64 + (segments - 1) * headers;
    stats::traffic(&work.flow, segments, bytes);
}

/// Packets that a super-packet will become on the wire.
#[inline(always)]
fn segments(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel translates this read of the context.
    unsafe { (*ctx.skb.skb).gso_segs }
}

#[inline(never)]
fn rewrite<F: Family>(skb: *mut __sk_buff, work: &mut Work<F>) -> Result<(), DropReason> {
    let ctx = &TcContext::new(skb);
    let replaced = max_segment::lower(&Packet::of_skb(ctx), &work.parsed, &work.flow);
    if let Some(Replaced { from, to }) = replaced {
        let at = work.parsed.ip.payload() + TCP_CHECKSUM;
        ctx.l4_csum_replace(at, from.into(), to.into(), size_of::<u16>() as u64)
            .map_err(|_| DropReason::Internal)?;
    }
    write(ctx, &work.parsed, &work.flow.rewrite).ok_or(DropReason::Internal)
}

/// Checksums go through the helpers, since only the kernel knows whether the
/// skb's is complete or still to be filled in by the device.
#[inline(always)]
fn write<F: Family>(ctx: &TcContext, parsed: &Parsed<F>, to: &Endpoints<F>) -> Option<()> {
    let from = &parsed.key.endpoints;
    if parsed.has_transport() {
        let (at, flags) = if parsed.key.protocol() == TCP {
            (TCP_CHECKSUM, 0)
        } else {
            (UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0))
        };
        let at = parsed.ip.payload() + at;
        replace_address(ctx, at, from.source, to.source, flags)?;
        replace_address(ctx, at, from.destination, to.destination, flags)?;
        replace_ports(ctx, at, from, to, flags)?;
    }
    // Anew, for the helpers have moved what the verifier knows of the packet.
    let packet = Packet::of_skb(ctx);
    if parsed.has_transport() {
        nat::write_ports(&packet, parsed.ip.payload(), to)?;
    }
    F::rewrite_header(&packet, parsed.ip.network(), to, parsed.ip.time_to_live)
}

/// The pseudo-header's part.
#[inline(always)]
fn replace_address<F: Family>(
    ctx: &TcContext,
    checksum: usize,
    from: F,
    to: F,
    flags: u64,
) -> Option<()> {
    if from == to {
        return Some(());
    }
    let flags = flags | u64::from(BPF_F_PSEUDO_HDR) | size_of::<u32>() as u64;
    let words = size_of::<F>() / size_of::<u32>();
    let pairs = from.to_wide().into_iter().zip(to.to_wide()).take(words);
    for (from, to) in pairs {
        ctx.l4_csum_replace(checksum, from.into(), to.into(), flags)
            .ok()?;
    }
    Some(())
}

/// The ports' part.
#[inline(always)]
fn replace_ports<F: Family>(
    ctx: &TcContext,
    checksum: usize,
    from: &Endpoints<F>,
    to: &Endpoints<F>,
    flags: u64,
) -> Option<()> {
    let flags = flags | size_of::<u16>() as u64;
    for (from, to) in [
        (from.source_port, to.source_port),
        (from.destination_port, to.destination_port),
    ] {
        if from != to {
            ctx.l4_csum_replace(checksum, from.raw().into(), to.raw().into(), flags)
                .ok()?;
        }
    }
    Some(())
}
