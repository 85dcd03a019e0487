//! Replies that this host itself sends or forwards: those of local targets,
//! and of remote ones where XDP isn't attached to the interface that they come
//! in by. They get the listener's address and port back.

use aya_ebpf::{bindings::BPF_F_MARK_MANGLED_0, programs::TcContext};
use lb_common::{
    Address, Ipv4,
    counters::DropReason,
    flow::{Endpoints, FlowEntry, TCP},
};

use crate::{
    family::{Family, PSEUDO_HEADER},
    flow::{self, Clock, Hook},
    nat::{self, TCP_CHECKSUM, UDP_CHECKSUM},
    packet::Packet,
    parse::{self, Parsed},
    stats,
};

/// Headers are at most this long; more of an skb than that is never read.
const HEADERS: u32 = 14 + 8 + 60 + 20;

/// Rewrites a packet if it is a reply of a flow. Anything else is an error with
/// a reason that isn't a drop.
#[inline(always)]
pub fn reply(ctx: &TcContext) -> Result<(), DropReason> {
    let parsed = match parse_skb(ctx) {
        Err(DropReason::Truncated) => {
            // The headers may lie in the skb's fragments.
            ctx.pull_data(HEADERS.min(ctx.len()))
                .map_err(|_| DropReason::Truncated)?;
            parse_skb(ctx)?
        }
        parsed => parsed?,
    };
    let clock = Clock::now()?;
    let flow = flow::find(&parsed, &clock, Hook::Egress).ok_or(DropReason::NotOurs)?;
    let segments = u64::from(segments(ctx)).max(1);
    stats::traffic(
        &flow,
        segments,
        u64::from(ctx.len()) - parsed.network as u64,
    );
    rewrite(ctx, &parsed, &flow).ok_or(DropReason::Internal)
}

#[inline(always)]
fn parse_skb(ctx: &TcContext) -> Result<Parsed<Ipv4>, DropReason> {
    parse::parse(&Packet::of_skb(ctx), ctx.len() as usize)
}

/// Packets that a super-packet will become on the wire.
#[inline(always)]
fn segments(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel translates this read of the context.
    unsafe { (*ctx.skb.skb).gso_segs }
}

/// Checksums go through the helpers, since only the kernel knows whether the
/// skb's is complete or still to be filled in by the device.
#[inline(always)]
fn rewrite<F: Family>(ctx: &TcContext, parsed: &Parsed<F>, flow: &FlowEntry<F>) -> Option<()> {
    let (from, to) = (&parsed.key.endpoints, &flow.rewrite);
    let (at, flags) = if parsed.key.protocol() == TCP {
        (parsed.transport + TCP_CHECKSUM, 0)
    } else {
        (
            parsed.transport + UDP_CHECKSUM,
            u64::from(BPF_F_MARK_MANGLED_0),
        )
    };
    F::replace_in_checksum(ctx, at, from, to, flags | PSEUDO_HEADER)?;
    replace_port(ctx, at, from, to, flags)?;
    // Anew, for the helpers have moved what the verifier knows of the packet.
    let packet = Packet::of_skb(ctx);
    nat::write_ports(&packet, parsed, to)?;
    F::rewrite_header(
        &packet,
        parsed.network,
        to,
        F::delta(from, to),
        parsed.time_to_live,
    )
}

/// A reply's destination port, the client's, is never rewritten.
#[inline(always)]
fn replace_port<F: Address>(
    ctx: &TcContext,
    checksum: usize,
    from: &Endpoints<F>,
    to: &Endpoints<F>,
    flags: u64,
) -> Option<()> {
    let (from, to) = (from.source_port.raw().into(), to.source_port.raw().into());
    ctx.l4_csum_replace(checksum, from, to, flags | size_of::<u16>() as u64)
        .ok()
}
