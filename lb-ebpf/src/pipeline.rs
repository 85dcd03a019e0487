//! The packet's way: parse → filter → flow → listener → security group → limits →
//! select → next hop → rewrite or encapsulate → transmit.
//!
//! Most of what isn't ours gets as far as `enter`, in the program itself. Most of
//! what is goes the rest in one function, `steady`; what that can't do is a stage
//! with a stack frame of its own each. What one found the next finds in [`Work`].
//! Until `leave` (or `icmp::forward`, `tunnel::relay`) nothing in the packet has
//! been touched, so whatever fails before leaves it as it came.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{Ipv4, Ipv6, counters::DropReason};

use crate::{
    encap,
    family::Family,
    filter,
    flow::{self, Glance, Hook, Known},
    fragment, icmp, limit, link, listener, max_segment, nat, outcome,
    packet::Packet,
    parse::{self, ethernet::Link},
    reset,
    route::{self, Request},
    security_group, select, stats,
    transmit::{self, Way},
    tunnel,
    work::{User, Work},
};

/// Balances one frame: says how it goes on, rewritten, or why not.
#[inline(always)]
pub fn ingress<F: Family>(ctx: *mut xdp_md, link: &Link) -> Result<Way, DropReason> {
    let work = Work::<F>::of_this_cpu(User::Ingress).ok_or(DropReason::Internal)?;
    work.parsed.tags = link.tags;
    match forward(ctx, work, link.length) {
        Ok(()) => Ok(work.way),
        Err(reason) => answer(ctx, work, reason),
    }
}

#[inline(always)]
fn forward<F: Family>(
    ctx: *mut xdp_md,
    work: &mut Work<F>,
    network: usize,
) -> Result<(), DropReason> {
    enter(ctx, work, network)?;
    if work.parsed.ip.protocol == F::ICMP {
        return report(ctx, work);
    }
    steady(ctx, work)?;
    let begins = match work.glance {
        Glance::Steady => return Ok(()),
        Glance::Nothing => true,
        Glance::Unsettled => match find(work) {
            Known::Flow => false,
            Known::Over => return Err(DropReason::FlowReset),
            Known::Nothing => true,
        },
    };
    if begins {
        admit(ctx, work)?;
        F::search(work);
        begin(work)?;
    }
    account(work);
    send(ctx, work)
}

/// What is done before anything is looked up: all that most packets meet that
/// aren't ours.
#[inline(always)]
fn enter<F: Family>(
    ctx: *mut xdp_md,
    work: &mut Work<F>,
    network: usize,
) -> Result<(), DropReason> {
    work.mtu = 0;
    let packet = Packet::of_xdp(&XdpContext::new(ctx));
    parse::packet(&packet, network, Hook::Ingress, &mut work.parsed)?;
    if work.parsed.ip.protocol != F::ICMP {
        filter::check(&work.parsed)?;
    }
    work.look_at_the_clock();
    Ok(())
}

/// All the rest of the way of most packets: those that change nothing about their
/// flow, and are no SYN. One function, for a return costs as much as dozens of
/// instructions where the CPU must not predict it; and not one with the rest,
/// which needs the stack. What it can't do it leaves to the stages behind it.
#[inline(never)]
fn steady<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    work.glance = flow::glance(work, Hook::Ingress);
    if work.glance == Glance::Steady {
        account(work);
        leave(ctx, work, false)?;
    }
    Ok(())
}

/// Finds the flow of a packet that isn't steady.
#[inline(never)]
fn find<F: Family>(work: &mut Work<F>) -> Known {
    flow::find(work, Hook::Ingress)
}

/// An ICMP error about a flow's packet, or about one that a tunnel carries.
#[inline(always)]
fn report<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    match icmp::find(ctx, work) {
        Err(DropReason::NotOurs) if tunnel::find(ctx, work) => return tunnel::relay(ctx, work),
        found => found?,
    }
    if work.flow.is_dsr() {
        send(ctx, work)
    } else {
        icmp::forward(ctx, work)
    }
}

/// What goes nowhere but is answered; anything else is just the reason.
#[inline(always)]
fn answer<F: Family>(
    ctx: *mut xdp_md,
    work: &mut Work<F>,
    reason: DropReason,
) -> Result<Way, DropReason> {
    match reason {
        DropReason::EchoAnswered => icmp::echo(ctx, work)?,
        DropReason::FlowReset => reset::answer(ctx, work)?,
        DropReason::TooBig => icmp::too_big(ctx, work)?,
        _ => return Err(reason),
    }
    stats::count(reason);
    work.answered = reason as u32;
    Ok(work.way)
}

/// Finds the listener of a packet that belongs to no flow, and whether it may
/// begin one.
#[inline(never)]
fn admit<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    let packet = Packet::of_xdp(&XdpContext::new(ctx));
    let listener = listener::find(&work.parsed.key)
        .and_then(|listener| link::check_destination(&packet).map(|()| listener));
    work.listener = listener.inspect_err(|_| fragment::pass(&work.parsed.ip))?;
    if flow::settings().is_paused(work.now) {
        return Err(DropReason::Paused);
    }
    security_group::check(&work.listener, work.parsed.ip.source)?;
    limit::admit(&work.listener, work.parsed.ip.source, work.now)
}

/// Begins the flow.
#[inline(never)]
fn begin<F: Family>(work: &mut Work<F>) -> Result<(), DropReason> {
    select::record(work)?;
    stats::new_flow(&work.flow);
    Ok(())
}

#[inline(always)]
fn account<F: Family>(work: &mut Work<F>) {
    fragment::remember(&work.parsed, Hook::Ingress, work.now);
    stats::traffic(&work.flow, 1, u64::from(work.parsed.ip.length));
}

/// Sends a packet that isn't steady.
#[inline(always)]
fn send<F: Family>(ctx: *mut xdp_md, work: &mut Work<F>) -> Result<(), DropReason> {
    outcome::unpack(F::send(ctx, work))
}

/// Sending an IPv4 packet, a global function (see `outcome.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_send_v4(ctx: *mut xdp_md, work: *mut Work<Ipv4>) -> u32 {
    // SAFETY: the verifier sees to it that the pointer is null or valid.
    outcome::pack(match unsafe { work.as_mut() } {
        Some(work) => leave(ctx, work, true),
        None => Err(DropReason::Internal),
    })
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_send_v6(ctx: *mut xdp_md, work: *mut Work<Ipv6>) -> u32 {
    // SAFETY: as above.
    outcome::pack(match unsafe { work.as_mut() } {
        Some(work) => leave(ctx, work, true),
        None => Err(DropReason::Internal),
    })
}

/// Of what can't be a SYN nothing is looked at that only those have: `may_be_syn`
/// is a constant wherever this stands.
#[inline(always)]
fn leave<F: Family>(
    ctx: *mut xdp_md,
    work: &mut Work<F>,
    may_be_syn: bool,
) -> Result<(), DropReason> {
    if work.flow.is_dsr() {
        encap::forward(ctx, work, may_be_syn)
    } else {
        translate(ctx, work, may_be_syn)
    }
}

/// Rewrites a packet and sends it on to where its flow goes.
#[inline(always)]
fn translate<F: Family>(
    ctx: *mut xdp_md,
    work: &mut Work<F>,
    may_be_syn: bool,
) -> Result<(), DropReason> {
    let ctx = &XdpContext::new(ctx);
    let (parsed, flow) = (&work.parsed, &work.flow);
    if flow.is_local() {
        let packet = Packet::of_xdp(ctx);
        max_segment::clamp(&packet, parsed, flow, may_be_syn);
        work.way = Way::Stack;
        // A local target's replies don't come in by XDP, so this is forward.
        return nat::rewrite(&packet, parsed, &flow.rewrite, parsed.ip.time_to_live);
    }
    let time_to_live = routed(parsed.ip.time_to_live)?;
    let request = Request {
        source: flow.rewrite.source,
        destination: flow.rewrite.destination,
        protocol: parsed.ip.protocol,
        type_of_service: parsed.ip.type_of_service,
        length: parsed.ip.length,
    };
    let next_hop = route::find(ctx, &parsed.tags, &request, work.now, &mut work.mtu)?;
    let packet = Packet::of_xdp(ctx);
    max_segment::clamp(&packet, parsed, flow, may_be_syn);
    nat::rewrite(&packet, parsed, &flow.rewrite, time_to_live)?;
    work.way = transmit::leave(ctx, next_hop, &parsed.tags, None)?;
    Ok(())
}

/// The time to live behind this hop (RFC 1812, section 5.3.1).
#[inline(always)]
pub fn routed(time_to_live: u8) -> Result<u8, DropReason> {
    if time_to_live <= 1 {
        return Err(DropReason::TtlExpired);
    }
    Ok(time_to_live - 1)
}
