//! Which target a new flow goes to, and which source port it gets.
//!
//! One search over (slot, source port) pairs, in an order that follows from the
//! packet's hash alone, so that every node with the same configuration picks
//! the same target. A target is left for the next slot's when it takes no new
//! flow or when each port that was tried is another flow's.
//!
//! That the order follows from the packet alone also brings a handshake through
//! a flood of SYNs which takes its port: the client's next packet begins the
//! flow again, and at the same port, so that the target knows it.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use lb_common::{
    Be16, Ipv4, Ipv6,
    counters::DropReason,
    flow::{Endpoints, FlowEntry, FlowKey, TCP},
    hash,
    limits::{
        HALF_OPEN_WEIGHT, NO_TARGET, PORT_ATTEMPTS, SELECT_ATTEMPTS, SLOTS_PER_ELEMENT,
        SPARE_WEIGHT,
    },
    listener::ListenerEntry,
    target::TargetEntry,
    tcp::{Direction, Flags, State},
};

use crate::{
    family::Family,
    flow::{self, ANY, NO_EXIST, forget},
    maps, stats,
    work::{Work, address, copy},
};

const STEPS: u32 = SELECT_ATTEMPTS * PORT_ATTEMPTS;

/// Says what to search for. Not in one function with the search, below which lie
/// the frames of the deepest chain of calls.
#[inline(never)]
fn prepare<F: Family>(work: &mut Work<F>) {
    let (parsed, listener, search) = (&work.parsed, &work.listener, &mut work.search);
    let hash_key = flow::settings().hash_key;
    let hash = hash_of(&parsed.key, listener, hash_key);
    search.key = parsed.key;
    search.flow.last_seen = work.now;
    search.flow.listener = listener.id as u16;
    search.flags = parsed.flags;
    search.resumes = parsed.key.protocol() == TCP && !parsed.flags.has(Flags::SYN);
    search.group = listener.group;
    search.table_size = listener.table_size;
    search.slot = hash::slot(hash, listener.table_size);
    // Halved, so that adding an attempt can't overflow. Of the flow even where
    // something less picks the target.
    search.seed = hash::flow(hash_key, &parsed.key) as u32 / 2;
    search.failure = DropReason::NoTarget as u32;
    search.found = 0;
    search.ports = Ports::NONE;
}

/// Enters what was found in the flow table's forward direction, where packets
/// of the client find it from now on.
#[inline(always)]
pub fn record<F: Family>(work: &mut Work<F>) -> Result<(), DropReason> {
    let search = &mut work.search;
    if search.found == 0 && !search.take_over() {
        return Err(DropReason::from_number(search.failure));
    }
    if F::half_open().insert(search.key, search.flow, ANY).is_err() {
        if !search.flow.is_dsr() {
            let peer_key = search.flow.peer_key(search.key.protocol());
            forget(F::half_open().remove(peer_key));
        }
        return Err(DropReason::FlowTableFull);
    }
    copy(&search.flow, &mut work.flow);
    Ok(())
}

/// What picks the target.
#[inline(always)]
fn hash_of<F: Family>(key: &FlowKey<F>, listener: &ListenerEntry, hash_key: u64) -> u64 {
    if listener.has(ListenerEntry::HASH_SOURCE) {
        hash::source(hash_key, key)
    } else if listener.has(ListenerEntry::HASH_PORT) {
        hash::destination_port(hash_key, key)
    } else {
        hash::flow(hash_key, key)
    }
}

/// Picks a target for an IPv4 packet, and enters the flow's reply direction. A
/// global function (see `outcome.rs`); what it has found lies in `work`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_search_v4(work: *mut Work<Ipv4>) -> u32 {
    // SAFETY: the verifier sees to it that the pointer is null or valid.
    if let Some(work) = unsafe { work.as_mut() } {
        prepare(work);
        work.search.run();
    }
    0
}

/// The same for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_search_v6(work: *mut Work<Ipv6>) -> u32 {
    // SAFETY: as above.
    if let Some(work) = unsafe { work.as_mut() } {
        prepare(work);
        work.search.run();
    }
    0
}

/// What is searched for, and in the end what was found.
#[repr(C)]
pub struct Search<F> {
    key: FlowKey<F>,
    /// The forward direction as it will be entered.
    flow: FlowEntry<F>,
    /// Of the packet that begins it.
    flags: Flags,
    /// That packet isn't the first: the target knows the flow, and its port.
    resumes: bool,
    group: u32,
    table_size: u32,
    /// The first to look at.
    slot: u32,
    /// Where in a target's ports to begin.
    seed: u32,
    /// Of the target that `flow` names.
    ports: Ports,
    /// What to report if the search ends here, a [`DropReason`].
    failure: u32,
    found: u32,
}

/// The source ports (host order) that a flow may get.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ports {
    first: u32,
    /// How many from `first` on; 0 without a target.
    count: u32,
    /// What was met that `take_over` could take: the sum of the ports' weights.
    spares: u32,
    /// The best of them.
    spare: u32,
}

/// One step of the search; 1 ends it. What it does follows from its index, not
/// from counters kept in `search`: those would be new states for the verifier
/// at every step.
extern "C" fn step<F: Family>(index: u32, search: *mut *mut Search<F>) -> i64 {
    // SAFETY: `run` has passed a pointer to its own local, which points to what
    // it borrows exclusively.
    let search = unsafe { &mut **search };
    let attempt = index % PORT_ATTEMPTS;
    if attempt == 0 && (!search.next_target(index / PORT_ATTEMPTS) || search.found != 0) {
        return 1;
    }
    if attempt < search.ports.count && search.try_port(attempt) {
        return 1;
    }
    let tried = attempt + 1;
    let all = tried >= search.ports.count || tried == PORT_ATTEMPTS;
    (search.ports.spares != 0 && (all || search.ports.spares >= SPARE_WEIGHT)).into()
}

impl<F: Family> Search<F> {
    #[inline(always)]
    fn run(&mut self) {
        // The kernel's loop wants its context on this function's own stack.
        let mut context: *mut Self = self;
        // A loop in the kernel (Linux 5.17), whose body is verified once.
        // SAFETY: the callback has the signature that the helper calls, and
        // gets the context that stands here, which outlives the call.
        unsafe {
            bpf_loop(
                STEPS,
                step::<F> as *mut c_void,
                (&raw mut context).cast(),
                0,
            )
        };
    }

    /// Takes the target of the `turn`th slot; false if there is none to take.
    #[inline(always)]
    fn next_target(&mut self, turn: u32) -> bool {
        self.ports = Ports::NONE;
        let slot = (self.slot + turn * hash::stride(self.table_size)) % self.table_size.max(1);
        let Some(id) = target_at(self.group, slot) else {
            return false;
        };
        if let Some(target) = maps::TARGETS.get(id)
            && target.has(TargetEntry::ACCEPTS)
        {
            if target.max_flows != 0 && stats::flows_of(id) >= target.max_flows {
                self.failure = DropReason::TargetLimit as u32;
            } else {
                self.aim(id, target);
            }
        }
        true
    }

    /// Makes `flow` one to `target`, but for the source port.
    #[inline(always)]
    fn aim(&mut self, id: u32, target: &TargetEntry) {
        let flow = &mut self.flow;
        flow.target = id;
        flow.generation = target.generation;
        flow.rewrite = self.key.endpoints;
        if target.has(TargetEntry::DSR) {
            flow.flags = FlowEntry::<F>::DSR;
            // Nothing is rewritten, so the ports can tell flows apart outside.
            flow.rewrite.source_port = Be16::new((self.seed >> 8) as u16);
            flow.rewrite.destination_port = Be16::new(self.seed as u16);
            flow.state = State::default().after_one_sided(self.flags).0;
            self.found = 1;
            return;
        }
        flow.flags = if target.has(TargetEntry::LOCAL) {
            FlowEntry::<F>::LOCAL
        } else {
            0
        };
        flow.state = State::default().after(Direction::Forward, self.flags).0;
        if target.port != Be16::new(0) {
            flow.rewrite.destination_port = target.port;
        }
        let destination: F = address(&target.address);
        if !destination.is_unspecified() {
            flow.rewrite.destination = destination;
        }
        if target.has(TargetEntry::SOURCE_NAT) {
            flow.rewrite.source = address(&target.source);
            self.ports = Ports::of(target);
            self.failure = DropReason::PortAllocation as u32;
        } else {
            self.ports = Ports::only(self.key.endpoints.source_port);
            self.failure = DropReason::FlowCollision as u32;
        }
    }

    /// Tries to enter the reply direction with another source port.
    #[inline(always)]
    fn try_port(&mut self, attempt: u32) -> bool {
        let offset = (self.seed + attempt) % self.ports.count.max(1);
        let port = self.ports.first + offset;
        self.flow.rewrite.source_port = Be16::new(port as u16);
        let (reply_key, reply) = self.flow.peer(&self.key);
        match holder(&reply_key, &reply) {
            Holder::Nobody if self.resumes => self.ports.spare(port),
            Holder::Nobody => {
                let entered = F::half_open().insert(reply_key, reply, NO_EXIST);
                self.found = entered.is_ok().into();
            }
            Holder::Itself => self.found = 1,
            Holder::Closed if self.resumes => self.ports.spare(port),
            Holder::Closed => self.ports.spare_rather(port),
            Holder::HalfOpen if self.allocates() => self.ports.spare(port),
            Holder::HalfOpen | Holder::Established => {}
        }
        self.found != 0
    }

    /// Whether the source port is ours to choose.
    #[inline(always)]
    fn allocates(&self) -> bool {
        self.failure == DropReason::PortAllocation as u32
    }

    /// Takes the spare port, from another flow unless it is free. A closed
    /// flow's is used again as a host reuses its own ports in TIME-WAIT; a
    /// half-open one's because a flood of SYNs would have them all, and nobody
    /// could connect any more. Who resumes a flow takes the port where it must
    /// have begun: the first in order that no established flow has.
    #[inline(always)]
    fn take_over(&mut self) -> bool {
        if self.ports.spares == 0 {
            return false;
        }
        self.flow.rewrite.source_port = Be16::new(self.ports.spare as u16);
        let (reply_key, reply) = self.flow.peer(&self.key);
        let established = F::established().get_ptr_mut(reply_key);
        if let Some(holder) = established.or(F::half_open().get_ptr_mut(reply_key)) {
            // SAFETY: see `flow::find`.
            let holder = unsafe { &*holder };
            // It may have been confirmed since.
            if established.is_some() && !holder.state().is_closed() {
                return false;
            }
            flow::remove(&reply_key, holder);
        }
        F::half_open().insert(reply_key, reply, NO_EXIST).is_ok()
    }
}

impl Ports {
    const NONE: Self = Self {
        first: 0,
        count: 0,
        spares: 0,
        spare: 0,
    };

    /// A target's range. One of up to [`PORT_ATTEMPTS`] ports is tried whole.
    #[inline(always)]
    fn of(target: &TargetEntry) -> Self {
        let first = u32::from(target.first_source_port);
        let last = u32::from(target.last_source_port);
        let count = if last > first { last - first + 1 } else { 1 };
        Self {
            first,
            count,
            ..Self::NONE
        }
    }

    /// The client's own port, which must stay.
    #[inline(always)]
    fn only(port: Be16) -> Self {
        Self {
            first: u32::from(port.get()),
            count: 1,
            ..Self::NONE
        }
    }

    /// Keeps the first that it is called with, a half-open flow's or what a
    /// resumed flow may get.
    #[inline(always)]
    fn spare(&mut self, port: u32) {
        if self.spares == 0 {
            self.spare = port;
        }
        self.spares += HALF_OPEN_WEIGHT;
    }

    /// Keeps the last, a closed flow's.
    #[inline(always)]
    fn spare_rather(&mut self, port: u32) {
        self.spares += 1;
        self.spare = port;
    }
}

/// The target in a slot of a group's Maglev table.
#[inline(always)]
fn target_at(group: u32, slot: u32) -> Option<u32> {
    let element = maps::MAGLEV.get_value(group, &(slot / SLOTS_PER_ELEMENT))?;
    match element[(slot % SLOTS_PER_ELEMENT) as usize] {
        NO_TARGET => None,
        id => Some(u32::from(id)),
    }
}

/// Whose flow has a reply direction's 5-tuple.
enum Holder {
    Nobody,
    /// This very flow's: its other half was evicted. The entry is as new.
    Itself,
    Closed,
    HalfOpen,
    Established,
}

#[inline(always)]
fn holder<F: Family>(key: &FlowKey<F>, reply: &FlowEntry<F>) -> Holder {
    // In this order, for flows move that way: none is missed that another CPU
    // moves between the two looks.
    let (holder, taken) = match F::half_open().get_ptr_mut(key) {
        Some(holder) => (holder, Holder::HalfOpen),
        None => match F::established().get_ptr_mut(key) {
            Some(holder) => (holder, Holder::Established),
            None => return Holder::Nobody,
        },
    };
    // SAFETY: see `flow::find`.
    let holder = unsafe { &mut *holder };
    if same(&holder.rewrite, &reply.rewrite) {
        *holder = *reply;
        return Holder::Itself;
    }
    if holder.state().is_closed() {
        Holder::Closed
    } else {
        taken
    }
}

#[inline(always)]
fn same<F: Family>(a: &Endpoints<F>, b: &Endpoints<F>) -> bool {
    a == b
}
