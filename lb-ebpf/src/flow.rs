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
    tcp::{Direction, Flags, State},
};

use crate::{
    family::Family,
    maps,
    parse::Parsed,
    stats,
    work::{self, Work},
};

/// The present second of CLOCK_MONOTONIC.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: the helper has no arguments and no failure.
    let nanoseconds = unsafe { bpf_ktime_get_coarse_ns() };
    (nanoseconds / 1_000_000_000) as u32
}

/// Whether a time lies further back than `seconds`. Another CPU may have
/// written it after this one has looked at the clock: then it doesn't.
#[inline(always)]
pub fn is_past(now: u32, time: u32, seconds: u32) -> bool {
    let since = now.wrapping_sub(time) as i32;
    since > 0 && since as u32 > seconds
}

/// What the configuration sets for the whole data path.
#[inline(always)]
pub fn settings() -> &'static Settings {
    /// What applies if the map can't be read, which can't be: its one element
    /// exists from the beginning.
    static NONE: Settings = Settings {
        hash_key: 0,
        half_open_timeout: 0,
        established_timeout: 0,
        closing_timeout: 0,
        udp_timeout: 0,
        route_epoch: 0,
        paused_until: 0,
    };
    maps::SETTINGS.get(0).unwrap_or(&NONE)
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

/// What the flow table says of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It belongs to a flow, which has been refreshed.
    Flow,
    /// Its TCP flow was idle for too long or has lost its target: to be told.
    Over,
    Nothing,
}

/// What a first look at the flow table says of a packet.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Glance {
    /// It belongs to a flow and changes nothing about it. Nor is it a SYN, so that
    /// only the stages behind need know what those carry (`max_segment.rs`).
    Steady = 0,
    /// It may belong to one: [`find`] says.
    Unsettled = 1,
    Nothing = 2,
}

/// Finds the flow of most packets: those that change nothing about theirs but
/// when it was last seen. Calls nothing but the look-up.
#[inline(always)]
pub fn glance<F: Family>(work: &mut Work<F>, hook: Hook) -> Glance {
    let parsed = &work.parsed;
    let Some((pointer, table)) = look_up_packet(parsed) else {
        return Glance::Nothing;
    };
    // SAFETY: as in `find`.
    let entry = unsafe { &mut *pointer };
    let ticked = entry.last_seen != work.now;
    let state = entry.state();
    let changes = parsed.flags.has(Flags::SYN) || entry.state_after(parsed.flags) != state;
    let waits = table == Table::HalfOpen && ticked && state.has(State::CONFIRMED);
    let idle = ticked && is_idle(&parsed.key, entry, work.now);
    if changes || waits || idle || !hook.takes(entry) || !has_target(entry) {
        return Glance::Unsettled;
    }
    if ticked {
        entry.last_seen = work.now;
    }
    work.set_flow(entry);
    Glance::Steady
}

/// Finds the flow that a packet belongs to. One that has ended, timed out or
/// lost its target is none any more. Its entries are removed, but for those of
/// TCP that wasn't closed: whoever goes on with it, and however often, is to be
/// told and not to be balanced anew. They go with the next SYN, or the sweep.
#[inline(always)]
pub fn find<F: Family>(work: &mut Work<F>, hook: Hook) -> Known {
    let parsed = &work.parsed;
    let Some((pointer, table)) = look_up_packet(parsed) else {
        return Known::Nothing;
    };
    // SAFETY: the memory stays a map's entry for this packet: the kernel frees
    // none before an RCU grace period. But it may give a removed one to another
    // flow at once, and another CPU may write the fields: each is one aligned
    // integer. A packet in such a race may be lost; what lasts is checked again,
    // see `promote`.
    let entry = unsafe { &mut *pointer };
    if !hook.takes(entry) {
        return Known::Nothing;
    }
    let reopened = parsed.flags.opens() && entry.state().is_closing();
    let begins = entry.direction() == Direction::Forward && reopened;
    if begins || !has_target(entry) || timed_out(&parsed.key, entry, work.now) {
        let closed = entry.state().is_closed();
        if parsed.key.protocol() == TCP && !closed && !parsed.flags.opens() {
            return Known::Over;
        }
        remove(&parsed.key, entry);
        return Known::Nothing;
    }
    refresh(parsed, entry, table, work.now);
    work.set_flow(entry);
    Known::Flow
}

/// The flow with this key, as it is.
#[inline(always)]
pub fn peek<F: Family>(key: &FlowKey<F>, hook: Hook) -> Option<&'static FlowEntry<F>> {
    let (pointer, _) = look_up::<F>(key)?;
    // SAFETY: as in `find`.
    let entry = unsafe { &*pointer };
    (hook.takes(entry) && has_target(entry)).then_some(entry)
}

/// Established first, where most are; then once more, for another CPU may move
/// a flow there between the two looks.
#[inline(always)]
fn look_up<F: Family>(key: &FlowKey<F>) -> Option<(*mut FlowEntry<F>, Table)> {
    if let Some(found) = look_up_once(key) {
        return Some(found);
    }
    let entry = F::established().get_ptr_mut(key)?;
    Some((entry, Table::Established))
}

/// The same for a packet. A SYN comes before its flow moves.
#[inline(always)]
fn look_up_packet<F: Family>(parsed: &Parsed<F>) -> Option<(*mut FlowEntry<F>, Table)> {
    if parsed.flags.opens() {
        look_up_once(&parsed.key)
    } else {
        look_up(&parsed.key)
    }
}

#[inline(always)]
fn look_up_once<F: Family>(key: &FlowKey<F>) -> Option<(*mut FlowEntry<F>, Table)> {
    if let Some(entry) = F::established().get_ptr_mut(key) {
        return Some((entry, Table::Established));
    }
    let entry = F::half_open().get_ptr_mut(key)?;
    Some((entry, Table::HalfOpen))
}

#[inline(always)]
fn has_target<F: Family>(entry: &FlowEntry<F>) -> bool {
    maps::TARGETS.get(entry.target).is_some_and(|target| {
        target.generation == entry.generation && target.has(TargetEntry::KEEPS)
    })
}

/// Whether the target's id is still that of the flow's target.
#[inline(always)]
fn is_current<F: Family>(entry: &FlowEntry<F>) -> bool {
    let target = maps::TARGETS.get(entry.target);
    target.is_some_and(|target| target.generation == entry.generation)
}

/// A flow is idle when both of its directions are.
#[inline(always)]
fn timed_out<F: Family>(key: &FlowKey<F>, entry: &FlowEntry<F>, now: u32) -> bool {
    if !is_idle(key, entry, now) {
        return false;
    }
    let timeout = settings().timeout(entry.state(), key.protocol());
    match peer(key, entry) {
        // SAFETY: as in `find`.
        Some(peer) => is_past(now, unsafe { (*peer).last_seen }, timeout),
        None => true,
    }
}

/// Whether this direction of a flow is.
#[inline(always)]
fn is_idle<F: Family>(key: &FlowKey<F>, entry: &FlowEntry<F>, now: u32) -> bool {
    let timeout = settings().timeout(entry.state(), key.protocol());
    is_past(now, entry.last_seen, timeout)
}

/// The entry of a flow's other direction. What has its key may be another
/// flow's: one half of this flow was evicted, and its source port given away.
#[inline(always)]
fn peer<F: Family>(key: &FlowKey<F>, entry: &FlowEntry<F>) -> Option<*mut FlowEntry<F>> {
    if entry.is_dsr() {
        return None;
    }
    let (peer, _) = look_up::<F>(&entry.peer_key(key.protocol()))?;
    // SAFETY: as in `find`.
    let leads_back = unsafe { (*peer).rewrite } == key.endpoints.reversed();
    leads_back.then_some(peer)
}

#[inline(always)]
fn refresh<F: Family>(parsed: &Parsed<F>, entry: &mut FlowEntry<F>, table: Table, now: u32) {
    let before = entry.state();
    let after = entry.state_after(parsed.flags);
    let ticked = entry.last_seen != now;
    if ticked {
        entry.last_seen = now;
    }
    if after != before {
        entry.state = after.0;
        if let Some(peer) = peer(&parsed.key, entry) {
            // The peer may have bits that this entry doesn't know yet.
            let ended = before.0 & !after.0;
            // SAFETY: as in `find`.
            unsafe { (*peer).state = ((*peer).state | after.0) & !ended };
        }
    }
    // Tried again once a second while the established table is full.
    if table == Table::HalfOpen && after.has(State::CONFIRMED) && (ticked || after != before) {
        promote(&parsed.key, entry, now);
    }
}

/// Moves a flow to the established table. If that is full the flow stays where
/// it is and goes on, exposed to eviction; so it does while the agent moves all
/// flows to other maps. Of two CPUs that have it at once, one moves it.
#[inline(always)]
fn promote<F: Family>(key: &FlowKey<F>, entry: &FlowEntry<F>, now: u32) {
    let entry = copied(entry);
    if settings().is_paused(now) || !is_of(key, &entry) {
        return;
    }
    match F::established().insert(key, entry, NO_EXIST) {
        Ok(()) => {}
        Err(EXISTS) => return,
        Err(_) => {
            stats::count(DropReason::FlowTableFull);
            return;
        }
    }
    let (peer_key, peer) = entry.peer(key);
    if !entry.is_dsr() && F::established().insert(peer_key, peer, ANY).is_err() {
        forget(F::established().remove(key));
        stats::count(DropReason::FlowTableFull);
        return;
    }
    stats::target_flow(entry.target, 1);
    if !entry.is_dsr() {
        forget(F::half_open().remove(peer_key));
    }
    forget(F::half_open().remove(key));
}

/// Whether an entry is really the one of this key: its memory may have become
/// another flow's meanwhile. Its peer leads back, or without one it leaves the
/// addresses as they are.
#[inline(always)]
fn is_of<F: Family>(key: &FlowKey<F>, entry: &FlowEntry<F>) -> bool {
    if !entry.is_dsr() {
        return peer(key, entry).is_some();
    }
    let (at, to) = (&key.endpoints, &entry.rewrite);
    at.source == to.source && at.destination == to.destination
}

/// Removes both directions of a flow, given one.
#[inline(always)]
pub fn remove<F: Family>(key: &FlowKey<F>, entry: &FlowEntry<F>) {
    let entry = copied(entry);
    let has_peer = peer(key, &entry).is_some();
    // Of two CPUs that remove the same entry, one only succeeds.
    if F::established().remove(key).is_ok() && is_current(&entry) {
        stats::target_flow(entry.target, -1);
    }
    forget(F::half_open().remove(key));
    if has_peer {
        let peer_key = entry.peer_key(key.protocol());
        forget(F::established().remove(peer_key));
        forget(F::half_open().remove(peer_key));
    }
}

/// An entry's own copy, which stays when the entry goes.
#[inline(always)]
fn copied<F: Family>(entry: &FlowEntry<F>) -> FlowEntry<F> {
    let mut own = FlowEntry::default();
    work::copy(entry, &mut own);
    own
}

/// What isn't there is as good as removed.
#[inline(always)]
pub fn forget(_removed: Result<(), i32>) {}

/// `bpf_map_update_elem` flags.
pub const ANY: u64 = 0;
pub const NO_EXIST: u64 = 1;
/// What it answers then: -EEXIST.
const EXISTS: i32 = -17;
