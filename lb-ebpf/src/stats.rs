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
    let slots = [
        maps::LISTENER_TRAFFIC.get_ptr_mut(u32::from(flow.listener)),
        maps::TARGET_TRAFFIC.get_ptr_mut(flow.target),
    ];
    for slot in slots.into_iter().flatten() {
        // SAFETY: as in `count`.
        let traffic: &mut Traffic = unsafe { &mut *slot };
        match flow.direction() {
            Direction::Forward => {
                traffic.forward_packets += packets;
                traffic.forward_bytes += bytes;
            }
            Direction::Reply => {
                traffic.reply_packets += packets;
                traffic.reply_bytes += bytes;
            }
        }
    }
}

#[inline(always)]
pub fn new_flow<F: Family>(flow: &FlowEntry<F>) {
    let slots = [
        maps::LISTENER_TRAFFIC.get_ptr_mut(u32::from(flow.listener)),
        maps::TARGET_TRAFFIC.get_ptr_mut(flow.target),
    ];
    for slot in slots.into_iter().flatten() {
        // SAFETY: as in `count`.
        unsafe { (*slot).new_flows += 1 };
    }
}
