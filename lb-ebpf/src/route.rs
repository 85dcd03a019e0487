//! The next hop: what the kernel's routing table says, and how long that is
//! taken for granted.
//!
//! To ask costs more than all the rest of a packet's way. So each CPU keeps the
//! answers, a slot for a destination, for the rest of the second. So a route or
//! a neighbour that changes is followed within a second.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::{self, bpf_fib_lookup},
    helpers::generated::bpf_fib_lookup as fib_lookup,
    programs::XdpContext,
};
use lb_common::{
    counters::DropReason,
    limits::ROUTE_SLOTS,
    settings::{InterfaceEntry, VlanTag},
};

use crate::{
    family::Family,
    flow,
    link::Macs,
    maps,
    parse::ethernet::Tags,
    transmit::{self, NextHop, Way},
};

/// What is asked of the routing table.
pub struct Request<F> {
    pub source: F,
    pub destination: F,
    pub protocol: u8,
    pub type_of_service: u8,
    /// Of the packet, IP header included.
    pub length: u16,
}

/// An answer and what it is the answer to. Zeroed it answers nothing: epoch 0
/// is never in force.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slot {
    key: Key,
    hop: NextHop,
    /// Of the way out.
    mtu: u16,
}

/// All that an answer depends on where no policy rules look at more: destination
/// and, of IPv6, source; epoch and second; incoming interface, family, type of
/// service and number of tags. In words made in registers: a key put together
/// on the stack and read back in words costs more than the look-up saves.
#[repr(C)]
#[derive(Clone, Copy)]
struct Key([u64; 6]);

impl Key {
    /// One that is the key of nothing.
    const NONE: Self = Self([0; 6]);

    #[inline(always)]
    fn of<F: Family>(ctx: &XdpContext, tags: &Tags, request: &Request<F>, now: u32) -> Self {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let destination = request.destination.to_wide();
        let source = F::route_source(request.source);
        let look = u32::from(F::LINUX_FAMILY)
            | u32::from(request.type_of_service) << 8
            | (tags.count as u32) << 16;
        Self([
            pair(destination[0], destination[1]),
            pair(destination[2], destination[3]),
            pair(source[0], source[1]),
            pair(source[2], source[3]),
            pair(flow::settings().route_epoch, now),
            pair(ctx.ingress_ifindex() as u32, look),
        ])
    }

    /// Word by word: a comparison as a whole would be a call.
    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        let mut difference = 0;
        for (a, b) in self.0.iter().zip(&other.0) {
            difference |= a ^ b;
        }
        difference == 0
    }

    #[inline(always)]
    fn epoch(&self) -> u32 {
        self.0[4] as u32
    }
}

/// The next hop of a packet that came with `tags` in the second `now`. `mtu` is
/// set if the packet is too big for it.
#[inline(always)]
pub fn find<F: Family>(
    ctx: &XdpContext,
    tags: &Tags,
    request: &Request<F>,
    now: u32,
    mtu: &mut u16,
) -> Result<&'static NextHop, DropReason> {
    let slot = maps::ROUTES.get_ptr_mut(index(request.destination));
    let slot = slot.ok_or(DropReason::Internal)?;
    // SAFETY: the slot is this CPU's own, and programs that use it run one after
    // the other on a CPU; it holds integers and a `Way`, for which zero is valid,
    // or what `find` left there.
    let slot = unsafe { &mut *slot };
    let key = Key::of(ctx, tags, request, now);
    if slot.key.is(&key) && request.length <= slot.mtu {
        return Ok(&slot.hop);
    }
    slot.key = Key::NONE;
    if let Err(reason) = ask(ctx, tags, request, slot) {
        if reason == DropReason::TooBig {
            *mtu = slot.mtu;
        }
        return Err(reason);
    }
    // A neighbour that the kernel has yet to find is asked for again.
    if key.epoch() != 0 && !matches!(slot.hop.way, Way::Handoff(_)) {
        slot.key = key;
    }
    Ok(&slot.hop)
}

#[inline(always)]
fn index<F: Family>(destination: F) -> u32 {
    let [a, b, c, d] = destination.to_wide();
    // Fibonacci hashing: the upper bits depend on all of the word's.
    let hash = (a ^ b ^ c.rotate_left(16) ^ d).wrapping_mul(0x9E37_79B1);
    hash >> (u32::BITS - ROUTE_SLOTS.ilog2())
}

/// Asks the kernel, and fills in all but the key. A function of its own: once a
/// second for a destination is seldom, and its query would stand in the stack
/// frame of every packet.
#[inline(never)]
fn ask<F: Family>(
    ctx: &XdpContext,
    tags: &Tags,
    request: &Request<F>,
    slot: &mut Slot,
) -> Result<(), DropReason> {
    let mut query = Query(MaybeUninit::uninit());
    let query = query.zero();
    F::fill_route(
        query,
        request.source,
        request.destination,
        request.type_of_service,
    );
    query.l4_protocol = request.protocol;
    query.ifindex = ctx.ingress_ifindex() as u32;
    query.__bindgen_anon_1.tot_len = request.length;
    // SAFETY: `query` is a live struct of the size that is given.
    let answer = unsafe { fib_lookup(ctx.as_ptr(), query, size_of::<bpf_fib_lookup>() as i32, 0) };
    // SAFETY: the kernel has written this part of the union where it is read.
    slot.mtu = unsafe { query.__bindgen_anon_1.mtu_result };
    let handoff = Way::Handoff(query.ifindex);
    let hop = &mut slot.hop;
    hop.macs = macs_of(query);
    (hop.way, hop.tag_count, hop.tags) = match answer as u32 {
        bindings::BPF_FIB_LKUP_RET_SUCCESS => way_out(ctx, tags, query.ifindex),
        // The kernel resolves the neighbour when the tc program sends.
        bindings::BPF_FIB_LKUP_RET_NO_NEIGH => (handoff, 0, [VlanTag::default(); 2]),
        bindings::BPF_FIB_LKUP_RET_FRAG_NEEDED => return Err(DropReason::TooBig),
        bindings::BPF_FIB_LKUP_RET_FWD_DISABLED => return Err(DropReason::ForwardingDisabled),
        _ => return Err(DropReason::NoRoute),
    };
    Ok(())
}

/// `bpf_fib_lookup` ends with `smac` and `dmac`, which fill the last twelve of
/// its 64 bytes.
#[inline(always)]
fn macs_of(answer: &bpf_fib_lookup) -> Macs {
    const { assert!(core::mem::offset_of!(bpf_fib_lookup, smac) == 52) };
    let words: *const u64 = core::ptr::from_ref(answer).cast();
    // SAFETY: `answer` lies in a `Query`, aligned to words, eight of them.
    let (middle, last) = unsafe { (words.add(6).read(), words.add(7).read()) };
    Macs::new(last >> 16, middle >> 32 | (last & 0xFFFF) << 32)
}

/// A route query. Aligned to words, to be zeroed in place and by words: of any
/// other way the compiler makes a call.
#[repr(C, align(8))]
struct Query(MaybeUninit<bpf_fib_lookup>);

impl Query {
    const WORDS: usize = size_of::<bpf_fib_lookup>() / size_of::<u64>();

    #[inline(always)]
    fn zero(&mut self) -> &mut bpf_fib_lookup {
        const { assert!(size_of::<bpf_fib_lookup>() == Self::WORDS * size_of::<u64>()) };
        let words = self.0.as_mut_ptr().cast::<u64>();
        for word in 0..Self::WORDS {
            // SAFETY: within the struct, which is aligned to a word and a whole
            // number of words long.
            unsafe { words.add(word).write_volatile(0) };
        }
        // SAFETY: it is made of integers, for which zero is valid.
        unsafe { self.0.assume_init_mut() }
    }
}

/// Chooses by what the agent knows of the interface. Frames leave XDP with as
/// many tags as they came with; the kernel does what differs.
#[inline(always)]
fn way_out(ctx: &XdpContext, tags: &Tags, interface: u32) -> (Way, usize, [VlanTag; 2]) {
    let handoff = (Way::Handoff(interface), 0, [VlanTag::default(); 2]);
    let Some(out) = transmit::entry(interface) else {
        return handoff;
    };
    if usize::from(out.tag_count) != tags.count {
        return handoff;
    }
    if out.flags & InterfaceEntry::TRANSMIT != 0 && out.device == ctx.ingress_ifindex() as u32 {
        return (Way::Transmit, tags.count, out.tags);
    }
    if out.flags & InterfaceEntry::REDIRECT != 0 {
        return (Way::Redirect(out.device), tags.count, out.tags);
    }
    handoff
}
