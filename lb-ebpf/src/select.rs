//! Which target a new flow goes to, and which source port it gets.
//!
//! One search over (slot, source port) pairs, in an order that follows from the
//! packet's hash alone, so that every node with the same configuration picks
//! the same target. A target is left for the next slot's when it takes no new
//! flow or when each port that was tried is another flow's.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use lb_common::{
    Be16, Ipv4,
    counters::DropReason,
    flow::{Endpoints, FlowEntry, FlowKey},
    hash,
    limits::{NO_TARGET, PORT_ATTEMPTS, SELECT_ATTEMPTS, SELECT_STRIDE, SLOTS_PER_ELEMENT},
    listener::ListenerEntry,
    target::TargetEntry,
    tcp::{Direction, State},
};

use crate::{
    family::Family,
    flow::{self, Clock},
    maps,
    parse::Parsed,
};

/// `bpf_map_update_elem` flags.
const ANY: u64 = 0;
const NO_EXIST: u64 = 1;

const STEPS: u32 = SELECT_ATTEMPTS * PORT_ATTEMPTS;

/// Picks a target for the packet and records the flow, both directions.
#[inline(always)]
pub fn begin<F: Family>(
    parsed: &Parsed<F>,
    listener: &ListenerEntry,
    clock: &Clock,
) -> Result<FlowEntry<F>, DropReason> {
    let hash = hash::flow(clock.settings.hash_key, &parsed.key);
    let mut search = Search {
        key: parsed.key,
        flow: FlowEntry {
            rewrite: parsed.key.endpoints,
            target: 0,
            generation: 0,
            last_seen: clock.now,
            listener: listener.id as u16,
            state: State::default().after(Direction::Forward, parsed.flags).0,
            flags: 0,
        },
        group: listener.group,
        table_size: listener.table_size,
        slot: hash::slot(hash, listener.table_size),
        // Halved, so that adding an attempt can't overflow.
        seed: hash as u32 / 2,
        ports: Ports {
            first: 0,
            count: 0,
            spare: 0,
        },
        failure: DropReason::NoTarget as u32,
        found: 0,
    };
    match F::search(&mut search) {
        FOUND => Ok(search.flow),
        _ => Err(search.failure()),
    }
}

const FOUND: u32 = 0;
const NOT_FOUND: u32 = 1;

/// The search for IPv4, a program of its own to the verifier: it is walked once
/// for any request, not for each state that the pipeline may come with.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_search_v4(search: *mut Search<Ipv4>) -> u32 {
    // SAFETY: the verifier sees to it that the pointer is null or valid.
    match unsafe { search.as_mut() } {
        Some(search) => search.run(),
        None => NOT_FOUND,
    }
}

/// What is searched for, and in the end what was found.
#[repr(C)]
pub struct Search<F> {
    key: FlowKey<F>,
    /// The forward direction as it will be entered.
    flow: FlowEntry<F>,
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
    /// One whose flow is over but not yet removed; 0 if none was met.
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
    if attempt == 0 && !search.next_target(index / PORT_ATTEMPTS) {
        return 1;
    }
    if attempt < search.ports.count && search.try_port(attempt) {
        return 1;
    }
    if attempt == PORT_ATTEMPTS - 1 && search.take_over() {
        return 1;
    }
    0
}

impl<F: Family> Search<F> {
    #[inline(always)]
    fn run(&mut self) -> u32 {
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
        if self.found == 0 {
            return NOT_FOUND;
        }
        if !F::insert_half_open(&self.key, &self.flow, ANY) {
            F::remove_half_open(&self.flow.peer_key(self.key.protocol()));
            self.failure = DropReason::FlowTableFull as u32;
            return NOT_FOUND;
        }
        FOUND
    }

    #[inline(always)]
    fn failure(&self) -> DropReason {
        const REASONS: [DropReason; 4] = [
            DropReason::NoTarget,
            DropReason::PortAllocation,
            DropReason::FlowCollision,
            DropReason::FlowTableFull,
        ];
        for reason in REASONS {
            if self.failure == reason as u32 {
                return reason;
            }
        }
        DropReason::Internal
    }

    /// Takes the target of the `turn`th slot; false if there is none to take.
    #[inline(always)]
    fn next_target(&mut self, turn: u32) -> bool {
        self.ports = Ports {
            first: 0,
            count: 0,
            spare: 0,
        };
        let slot = (self.slot + turn * SELECT_STRIDE) % self.table_size.max(1);
        let Some(id) = target_at(self.group, slot) else {
            return false;
        };
        if let Some(target) = maps::TARGETS.get(id)
            && target.has(TargetEntry::ACCEPTS)
        {
            self.aim(id, target);
        }
        true
    }

    /// Makes `flow` one to `target`, but for the source port.
    #[inline(always)]
    fn aim(&mut self, id: u32, target: &TargetEntry) {
        let flow = &mut self.flow;
        flow.target = id;
        flow.generation = target.generation;
        flow.flags = if target.has(TargetEntry::LOCAL) {
            FlowEntry::<F>::LOCAL
        } else {
            0
        };
        flow.rewrite = self.key.endpoints;
        flow.rewrite.destination_port = target.port;
        let address = F::from_wide(target.address);
        if !address.is_unspecified() {
            flow.rewrite.destination = address;
        }
        if target.has(TargetEntry::SOURCE_NAT) {
            flow.rewrite.source = F::from_wide(target.source);
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
        let port = (self.ports.first + offset) as u16;
        self.flow.rewrite.source_port = Be16::new(port);
        let (reply_key, reply) = self.flow.peer(&self.key);
        match enter(&reply_key, &reply) {
            Entered::Yes => self.found = 1,
            Entered::TakenByClosed => self.ports.spare = port.into(),
            Entered::Taken => {}
        }
        self.found != 0
    }

    /// Without a free port that of a closed flow is used again, as a host
    /// reuses its own ports in TIME-WAIT.
    #[inline(always)]
    fn take_over(&mut self) -> bool {
        if self.ports.spare == 0 {
            return false;
        }
        self.flow.rewrite.source_port = Be16::new(self.ports.spare as u16);
        self.ports.spare = 0;
        let (reply_key, reply) = self.flow.peer(&self.key);
        if let Some(holder) = F::established(&reply_key).or(F::half_open(&reply_key)) {
            // SAFETY: see `flow::find`.
            flow::remove(&reply_key, unsafe { &*holder });
        }
        self.found = F::insert_half_open(&reply_key, &reply, NO_EXIST).into();
        self.found != 0
    }
}

impl Ports {
    /// A target's range. One of up to [`PORT_ATTEMPTS`] ports is tried whole.
    #[inline(always)]
    fn of(target: &TargetEntry) -> Self {
        let first = u32::from(target.first_source_port);
        let last = u32::from(target.last_source_port);
        let count = if last > first { last - first + 1 } else { 1 };
        Self {
            first,
            count,
            spare: 0,
        }
    }

    /// The client's own port, which must stay.
    #[inline(always)]
    fn only(port: Be16) -> Self {
        Self {
            first: u32::from(port.get()),
            count: 1,
            spare: 0,
        }
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

enum Entered {
    Yes,
    Taken,
    TakenByClosed,
}

/// Enters a reply direction unless another flow has its 5-tuple. Finding this
/// very flow there is fine: its other half was evicted.
#[inline(always)]
fn enter<F: Family>(key: &FlowKey<F>, reply: &FlowEntry<F>) -> Entered {
    let holder = match F::established(key) {
        Some(holder) => holder,
        None if F::insert_half_open(key, reply, NO_EXIST) => return Entered::Yes,
        None => match F::half_open(key) {
            Some(holder) => holder,
            None => return Entered::Taken,
        },
    };
    // SAFETY: see `flow::find`.
    let holder = unsafe { &mut *holder };
    if same(&holder.rewrite, &reply.rewrite) {
        *holder = *reply;
        return Entered::Yes;
    }
    if holder.state().is_closed() {
        Entered::TakenByClosed
    } else {
        Entered::Taken
    }
}

#[inline(always)]
fn same<F: Family>(a: &Endpoints<F>, b: &Endpoints<F>) -> bool {
    a == b
}
