//! Which target a new flow goes to, and which source port it gets.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use lb_common::{
    Be16,
    counters::DropReason,
    flow::{Endpoints, FlowEntry, FlowKey},
    hash,
    limits::{NO_TARGET, PORT_ATTEMPTS, SELECT_ATTEMPTS, SELECT_STRIDE, SLOTS_PER_ELEMENT},
    listener::ListenerEntry,
    target::TargetEntry,
    tcp::{Direction, State},
};

use crate::{family::Family, flow::Clock, maps, parse::Parsed};

/// `bpf_map_update_elem` flags.
const ANY: u64 = 0;
const NO_EXIST: u64 = 1;

/// Picks a target for the packet and records the flow, both directions.
///
/// The slots that are tried follow from the packet's hash alone, so that every
/// node with the same configuration picks the same target.
#[inline(always)]
pub fn begin<F: Family>(
    parsed: &Parsed<F>,
    listener: &ListenerEntry,
    clock: &Clock,
) -> Result<FlowEntry<F>, DropReason> {
    let hash = hash::flow(clock.settings.hash_key, &parsed.key);
    let mut slot = hash::slot(hash, listener.table_size);
    let mut failure = DropReason::NoTarget;
    for _ in 0..SELECT_ATTEMPTS {
        let id = target_at(listener.group, slot)?;
        if let Some(target) = maps::TARGETS.get(id)
            && target.has(TargetEntry::ACCEPTS)
        {
            let flow = FlowEntry {
                rewrite: parsed.key.endpoints,
                target: id,
                generation: target.generation,
                last_seen: clock.now,
                listener: listener.id as u16,
                state: State::default().after(Direction::Forward, parsed.flags).0,
                flags: if target.has(TargetEntry::LOCAL) { FlowEntry::<F>::LOCAL } else { 0 },
            };
            match record(parsed, target, flow, hash as u32) {
                Ok(flow) => return Ok(flow),
                Err(reason) => failure = reason,
            }
        }
        slot += SELECT_STRIDE;
        if slot >= listener.table_size {
            slot %= listener.table_size.max(1);
        }
    }
    Err(failure)
}

/// The target in a slot of a group's Maglev table.
#[inline(always)]
fn target_at(group: u32, slot: u32) -> Result<u32, DropReason> {
    let element = maps::MAGLEV
        .get_value(group, &(slot / SLOTS_PER_ELEMENT))
        .ok_or(DropReason::NoTarget)?;
    match element[(slot % SLOTS_PER_ELEMENT) as usize] {
        NO_TARGET => Err(DropReason::NoTarget),
        id => Ok(u32::from(id)),
    }
}

/// Enters both directions of `flow`, whose rewrite is still the packet itself.
#[inline(always)]
fn record<F: Family>(
    parsed: &Parsed<F>,
    target: &TargetEntry,
    mut flow: FlowEntry<F>,
    seed: u32,
) -> Result<FlowEntry<F>, DropReason> {
    let address = F::from_wide(target.address);
    if !address.is_unspecified() {
        flow.rewrite.destination = address;
    }
    flow.rewrite.destination_port = target.port;
    let ports = if target.has(TargetEntry::SOURCE_NAT) {
        flow.rewrite.source = F::from_wide(target.source);
        Ports::of(target, seed)
    } else {
        Ports::only(parsed.key.endpoints.source_port)
    };
    flow.rewrite.source_port = claim(&parsed.key, &flow, ports)?;
    if !F::insert_half_open(&parsed.key, &flow, ANY) {
        F::remove_half_open(&flow.peer_key(parsed.key.protocol()));
        return Err(DropReason::FlowTableFull);
    }
    Ok(flow)
}

/// The source ports that a flow may get: `count` of them from `first`, of which
/// the one at `offset` is tried first.
#[derive(Clone, Copy)]
struct Ports {
    first: u32,
    count: u32,
    offset: u32,
    /// Why there is none, if each is taken.
    failure: DropReason,
}

impl Ports {
    /// A target's range, from where the flow's hash says. One of up to
    /// [`PORT_ATTEMPTS`] ports is searched whole.
    #[inline(always)]
    fn of(target: &TargetEntry, seed: u32) -> Self {
        let first = u32::from(target.first_source_port);
        let last = u32::from(target.last_source_port);
        let count = if last > first { last - first + 1 } else { 1 };
        Self { first, count, offset: seed % count, failure: DropReason::PortAllocation }
    }

    #[inline(always)]
    fn only(port: Be16) -> Self {
        Self {
            first: u32::from(port.get()),
            count: 1,
            offset: 0,
            failure: DropReason::FlowCollision,
        }
    }
}

/// The search for a source port, for `bpf_loop`.
struct Search<F> {
    reply_key: FlowKey<F>,
    reply: FlowEntry<F>,
    ports: Ports,
    found: bool,
}

/// Enters the reply direction of `flow` with a source port that no other flow
/// to its target has, and returns the port.
#[inline(always)]
fn claim<F: Family>(
    key: &FlowKey<F>,
    flow: &FlowEntry<F>,
    ports: Ports,
) -> Result<Be16, DropReason> {
    let (reply_key, reply) = flow.peer(key);
    let mut search = Search { reply_key, reply, ports, found: false };
    let attempts = if ports.count < PORT_ATTEMPTS { ports.count } else { PORT_ATTEMPTS };
    // A loop in the kernel (Linux 5.17), whose body the verifier walks once.
    // SAFETY: the callback has the signature that the helper calls, and gets
    // the context that stands here, which outlives the call.
    unsafe {
        bpf_loop(attempts, try_port::<F> as *mut c_void, (&raw mut search).cast(), 0);
    }
    if !search.found {
        return Err(ports.failure);
    }
    Ok(search.reply_key.endpoints.destination_port)
}

/// One step of the search; not 0 ends it.
extern "C" fn try_port<F: Family>(_step: u32, search: *mut Search<F>) -> i64 {
    // SAFETY: `claim` has passed a pointer to its own local.
    let search = unsafe { &mut *search };
    let ports = &mut search.ports;
    search.reply_key.endpoints.destination_port = Be16::new((ports.first + ports.offset) as u16);
    search.found = enter(&search.reply_key, &search.reply);
    ports.offset = if ports.offset + 1 < ports.count { ports.offset + 1 } else { 0 };
    i64::from(search.found)
}

/// Enters a reply direction unless another flow has its 5-tuple. Finding this
/// very flow there is fine: its other half was evicted.
#[inline(always)]
fn enter<F: Family>(key: &FlowKey<F>, reply: &FlowEntry<F>) -> bool {
    if let Some(holder) = F::established(key) {
        // SAFETY: see `flow::find`.
        return same(unsafe { &(*holder).rewrite }, &reply.rewrite);
    }
    if F::insert_half_open(key, reply, NO_EXIST) {
        return true;
    }
    match F::half_open(key) {
        // SAFETY: see `flow::find`.
        Some(holder) if same(unsafe { &(*holder).rewrite }, &reply.rewrite) => {
            F::insert_half_open(key, reply, ANY)
        }
        _ => false,
    }
}

#[inline(always)]
fn same<F: Family>(a: &Endpoints<F>, b: &Endpoints<F>) -> bool {
    a == b
}
