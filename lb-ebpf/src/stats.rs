//! Per-CPU counters. No atomics: a CPU runs one XDP or tc program at a time on
//! its own copy; a tc program that XDP interrupts may lose one count in a race
//! that the kernel's own per-CPU statistics accept too.

use lb_common::{
    counters::{DropReason, Traffic},
    flow::FlowEntry,
    tcp::Direction,
};

use crate::{family::Family, maps};

#[inline(always)]
pub fn count(reason: DropReason) {
    if let Some(counter) = maps::DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the map hands out this CPU's slot, which lives as long as the
        // program runs.
        unsafe { *counter += 1 };
    }
}

/// Counts packets of a flow for its listener and its target.
#[inline(always)]
pub fn traffic<F: Family>(flow: &FlowEntry<F>, packets: u64, bytes: u64) {
    let count = |traffic: &mut Traffic| match flow.direction() {
        Direction::Forward => {
            traffic.forward_packets += packets;
            traffic.forward_bytes += bytes;
        }
        Direction::Reply => {
            traffic.reply_packets += packets;
            traffic.reply_bytes += bytes;
        }
    };
    change(flow, count);
}

#[inline(always)]
pub fn new_flow<F: Family>(flow: &FlowEntry<F>) {
    change(flow, |traffic| traffic.new_flows += 1);
}

/// One after the other: the verifier takes no test of both pointers at once.
#[inline(always)]
fn change<F: Family>(flow: &FlowEntry<F>, count: impl Fn(&mut Traffic)) {
    if let Some(traffic) = maps::LISTENER_TRAFFIC.get_ptr_mut(u32::from(flow.listener)) {
        // SAFETY: as in `count` above.
        count(unsafe { &mut *traffic });
    }
    if let Some(traffic) = maps::TARGET_TRAFFIC.get_ptr_mut(flow.target) {
        // SAFETY: as in `count` above.
        count(unsafe { &mut *traffic });
    }
}

/// Counts a flow that has been established at a target (1) or has ended (-1).
/// All CPUs share the count, without atomics: what two of them lose to each
/// other the agent's sweep sets right.
#[inline(always)]
pub fn target_flow(target: u32, change: i32) {
    if let Some(flows) = maps::TARGET_FLOWS.get_ptr_mut(target) {
        // SAFETY: the value is an aligned integer that lives as long as the map.
        unsafe { *flows = (*flows).saturating_add_signed(change) };
    }
}

/// Flows that are established at a target.
#[inline(always)]
pub fn flows_of(target: u32) -> u32 {
    maps::TARGET_FLOWS.get(target).copied().unwrap_or_default()
}
