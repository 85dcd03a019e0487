//! What the stages of one packet's way tell each other. It lies in a per-CPU
//! map, for the stack has 512 bytes, and each stage is a function of its own
//! whose stack frame is gone when the next one runs.
//!
//! Nothing else uses a slot while a program does: programs of one hook run one
//! after the other on a CPU (softirq), and each hook and family has a slot.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use lb_common::{flow::FlowEntry, listener::ListenerEntry, wire::Wide};

use crate::{
    family::Family,
    flow::{self, Glance},
    icmp::Quote,
    maps,
    parse::Parsed,
    select::Search,
    transmit::{NextHop, Way},
    tunnel::Report,
};

/// The packet at hand.
#[repr(C)]
pub struct Work<F> {
    pub parsed: Parsed<F>,
    /// The flow that it belongs to.
    pub flow: FlowEntry<F>,
    /// Whether there is one, at first sight.
    pub glance: Glance,
    /// The listener that it begins one at.
    pub listener: ListenerEntry,
    /// The search for its target, if it begins one.
    pub search: Search<F>,
    /// What it quotes, if it is an ICMP error.
    pub quote: Quote<F>,
    /// What it says of a tunnel, if it is an ICMP error about one.
    pub report: Report,
    /// How it goes on, once that is known.
    pub way: Way,
    pub next_hop: NextHop,
    /// The present second of CLOCK_MONOTONIC, see [`Work::look_at_the_clock`].
    pub now: u32,
    /// The kernel's tick in which that was found.
    tick: u64,
    /// The largest packet that would have fitted, for one that was too big;
    /// else 0.
    pub mtu: u16,
    /// The reason why its sender was answered, a `DropReason`; else what it was
    /// before. For captures only, which clear it.
    pub answered: u32,
}

/// Words of a slot.
pub const WORDS: usize = 96;
/// Slots: one for each hook and family.
pub const SLOTS: usize = 4;

/// Whose slot it is.
#[derive(Clone, Copy)]
pub enum User {
    Ingress = 0,
    Egress = 2,
}

/// Copies between places that don't overlap. Said so, because else the compiler
/// calls a function for it.
#[inline(always)]
pub fn copy<T: Copy>(from: &T, to: &mut T) {
    // SAFETY: a shared and an exclusive reference never overlap.
    unsafe { core::ptr::copy_nonoverlapping(from, to, 1) };
}

/// An address out of a map value, word by word for the same reason.
#[inline(always)]
pub fn address<F: Family>(wide: &Wide) -> F {
    let word = |index: usize| {
        // SAFETY: a live, aligned word of the array.
        unsafe { core::ptr::from_ref(&wide[index]).read_volatile() }
    };
    F::from_wide([word(0), word(1), word(2), word(3)])
}

impl<F: Family> Work<F> {
    /// Sets `now`. The coarse clock moves with the kernel's ticks, and to read
    /// their count costs nothing; so it is asked only when there was a new one.
    #[inline(always)]
    pub fn look_at_the_clock(&mut self) {
        // SAFETY: the helper has no arguments and no failure.
        let tick = unsafe { bpf_jiffies64() };
        if tick != self.tick {
            self.tick = tick;
            self.now = flow::now();
        }
    }

    #[inline(always)]
    pub fn set_flow(&mut self, flow: &FlowEntry<F>) {
        copy(flow, &mut self.flow);
    }

    #[inline(always)]
    pub fn of_this_cpu(user: User) -> Option<&'static mut Self> {
        const { assert!(size_of::<Self>() <= WORDS * size_of::<u64>()) };
        let slot = user as u32 + F::INDEX;
        let words = maps::WORK.get_ptr_mut(slot)?;
        // SAFETY: the slot is as large as asserted and aligned to words, and
        // nothing else refers to it now (see above). It is all zeros, which is
        // valid for each field, or what the same program left there.
        Some(unsafe { &mut *words.cast::<Self>() })
    }
}
