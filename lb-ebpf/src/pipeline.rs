//! The packet's way: parse → flow → listener → select → rewrite → transmit.

use aya_ebpf::programs::XdpContext;
use lb_common::{counters::DropReason, flow::FlowEntry};

use crate::{
    family::Family,
    flow::{self, Clock, Hook},
    handoff, listener, nat,
    packet::Packet,
    parse::{self, Parsed},
    select, stats,
    transmit::{self, Way},
};

/// Balances one frame: says how it goes on, rewritten, or why not. Until
/// `nat::rewrite` nothing in the packet has been touched, so whatever fails
/// before it leaves the packet as it came.
#[inline(always)]
pub fn ingress(ctx: &XdpContext) -> Result<Way, DropReason> {
    let packet = Packet::of_xdp(ctx);
    let parsed = parse::parse(&packet, packet.length())?;
    let clock = Clock::now()?;

    let flow = match flow::find(&parsed, &clock, Hook::Ingress) {
        Some(flow) => flow,
        None => new_flow(&parsed, &clock)?,
    };
    stats::traffic(&flow, 1, u64::from(parsed.ip_length));

    if flow.is_local() {
        // A local target's replies don't come in by XDP, so this is forward.
        nat::rewrite(&packet, &parsed, &flow.rewrite, parsed.time_to_live)?;
        return Ok(Way::Stack);
    }
    let time_to_live = routed(parsed.time_to_live)?;
    let next_hop = transmit::route(ctx, &parsed, &flow.rewrite)?;
    if let Way::Handoff(interface) = next_hop.way {
        handoff::note(ctx, interface, parsed.tags.count)?;
    }
    // Anew, for a note has moved what the verifier knows of the packet.
    let packet = Packet::of_xdp(ctx);
    nat::rewrite(&packet, &parsed, &flow.rewrite, time_to_live)?;
    transmit::address(&packet, &next_hop)?;
    Ok(next_hop.way)
}

/// Begins a flow for a packet that belongs to none.
#[inline(always)]
fn new_flow<F: Family>(parsed: &Parsed<F>, clock: &Clock) -> Result<FlowEntry<F>, DropReason> {
    let listener = listener::find(&parsed.key)?;
    let flow = select::begin(parsed, &listener, clock)?;
    stats::new_flow(&flow);
    Ok(flow)
}

/// The time to live behind this hop (RFC 1812, section 5.3.1).
#[inline(always)]
fn routed(time_to_live: u8) -> Result<u8, DropReason> {
    if time_to_live <= 1 {
        return Err(DropReason::TtlExpired);
    }
    Ok(time_to_live - 1)
}
