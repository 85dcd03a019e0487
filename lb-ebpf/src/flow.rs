//! The flow table: find, refresh, promote, remove.
//!
//! A flow begins in the half-open table, an LRU. When its client has answered
//! the target's answer both entries move to the established table, from which
//! nothing is ever evicted. So a flood, which never answers, can only displace
//! other half-open flows.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use lb_common::{
    counters::DropReason,
    flow::{FlowEntry, FlowKey, TCP},
    settings::Settings,
    target::TargetEntry,
    tcp::{Direction, State},
};

use crate::{family::Family, maps, parse::Parsed, stats};

/// The present second, and the settings that say what it means for a flow.
pub struct Clock {
    pub now: u32,
    pub settings: Settings,
}

impl Clock {
    #[inline(always)]
    pub fn now() -> Result<Self, DropReason> {
        // The loader always writes the one element before it attaches.
        let settings = *maps::SETTINGS.get(0).ok_or(DropReason::Internal)?;
        // SAFETY: the helper has no arguments and no failure.
        let nanoseconds = unsafe { bpf_ktime_get_coarse_ns() };
        Ok(Self {
            now: (nanoseconds / 1_000_000_000) as u32,
            settings,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Established,
    HalfOpen,
}

/// Where a packet is met, which says what flows it can belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Anything but a reply of this host's own: such a packet can't come in.
    Ingress,
    /// Replies only.
    Egress,
}

impl Hook {
    #[inline(always)]
    fn takes<F: Family>(self, entry: &FlowEntry<F>) -> bool {
        let reply = entry.direction() == Direction::Reply;
        match self {
            Self::Ingress => !(reply && entry.is_local()),
            Self::Egress => reply,
        }
    }
}

/// The flow that a packet belongs to, refreshed. A flow that has ended, timed
/// out or lost its target is none, and its entries are removed.
#[inline(always)]
pub fn find<F: Family>(parsed: &Parsed<F>, clock: &Clock, hook: Hook) -> Option<FlowEntry<F>> {
    let (pointer, table) = look_up::<F>(&parsed.key)?;
    // SAFETY: the pointer is into a map that stays valid for this packet (see
    // `Family::established`). Another CPU may write the fields at once; each
    // is one aligned integer that stands for itself.
    let entry = unsafe { &mut *pointer };
    if !hook.takes(entry) {
        return None;
    }
    if !is_live(parsed, entry, clock) {
        remove(&parsed.key, entry);
        return None;
    }
    refresh(parsed, entry, table, clock);
    Some(*entry)
}

#[inline(always)]
fn look_up<F: Family>(key: &FlowKey<F>) -> Option<(*mut FlowEntry<F>, Table)> {
    if let Some(entry) = F::established(key) {
        return Some((entry, Table::Established));
    }
    F::half_open(key).map(|entry| (entry, Table::HalfOpen))
}

#[inline(always)]
fn is_live<F: Family>(parsed: &Parsed<F>, entry: &FlowEntry<F>, clock: &Clock) -> bool {
    let Some(target) = maps::TARGETS.get(entry.target) else {
        return false;
    };
    if target.generation != entry.generation || !target.has(TargetEntry::KEEPS) {
        return false;
    }
    let reopened = parsed.key.protocol() == TCP
        && parsed.flags.opens()
        && entry.flags & FlowEntry::<F>::REPLY == 0
        && entry.state().is_closing();
    !reopened && !timed_out(&parsed.key, entry, clock)
}

/// A flow is idle when both of its directions are.
#[inline(always)]
fn timed_out<F: Family>(key: &FlowKey<F>, entry: &FlowEntry<F>, clock: &Clock) -> bool {
    let timeout = clock.settings.timeout(entry.state(), key.protocol());
    if clock.now.wrapping_sub(entry.last_seen) <= timeout {
        return false;
    }
    match look_up::<F>(&entry.peer_key(key.protocol())) {
        // SAFETY: as in `find`.
        Some((peer, _)) => clock.now.wrapping_sub(unsafe { (*peer).last_seen }) > timeout,
        None => true,
    }
}

#[inline(always)]
fn refresh<F: Family>(parsed: &Parsed<F>, entry: &mut FlowEntry<F>, table: Table, clock: &Clock) {
    let before = entry.state();
    let after = before.after(entry.direction(), parsed.flags);
    let ticked = entry.last_seen != clock.now;
    if ticked {
        entry.last_seen = clock.now;
    }
    if after != before {
        entry.state = after.0;
        if let Some((peer, _)) = look_up::<F>(&entry.peer_key(parsed.key.protocol())) {
            // SAFETY: as in `find`.
            unsafe { (*peer).state |= after.0 };
        }
    }
    // Tried again once a second while the established table is full.
    if table == Table::HalfOpen && after.has(State::CONFIRMED) && (ticked || after != before) {
        promote(&parsed.key, entry);
    }
}

/// Moves a flow to the established table. If that is full the flow stays where
/// it is and goes on, exposed to eviction.
#[inline(always)]
fn promote<F: Family>(key: &FlowKey<F>, entry: &FlowEntry<F>) {
    let entry = *entry;
    let (peer_key, peer) = entry.peer(key);
    if !F::insert_established(&peer_key, &peer) {
        stats::count(DropReason::FlowTableFull);
        return;
    }
    if !F::insert_established(key, &entry) {
        F::remove_established(&peer_key);
        stats::count(DropReason::FlowTableFull);
        return;
    }
    F::remove_half_open(&peer_key);
    F::remove_half_open(key);
}

/// Removes both directions of a flow, given one.
#[inline(always)]
pub fn remove<F: Family>(key: &FlowKey<F>, entry: &FlowEntry<F>) {
    let peer_key = entry.peer_key(key.protocol());
    F::remove_established(key);
    F::remove_half_open(key);
    F::remove_established(&peer_key);
    F::remove_half_open(&peer_key);
}
