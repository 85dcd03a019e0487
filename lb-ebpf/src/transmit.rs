//! The way out: next hop, and `XDP_TX`, redirect or a handoff to the kernel.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::{self, bpf_fib_lookup},
    helpers::generated::{bpf_fib_lookup as fib_lookup, bpf_redirect},
    programs::XdpContext,
};
use lb_common::{
    counters::DropReason,
    settings::{InterfaceEntry, VlanTag},
};

use crate::{
    family::Family,
    handoff,
    link::{self, Macs},
    maps,
    packet::Packet,
    parse::ethernet::Tags,
};

/// How a packet goes on.
#[repr(C, u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Up this host's stack.
    Stack = 0,
    /// Out of the device that it came in by.
    Transmit,
    /// Out of another device, named by its index.
    Redirect(u32),
    /// Out of the interface with this index, sent by the tc program behind XDP.
    Handoff(u32),
}

/// A way out with the link-layer header for it.
#[repr(C)]
pub struct NextHop {
    pub way: Way,
    macs: Macs,
    tag_count: usize,
    tags: [VlanTag; 2],
}

/// What is asked of the routing table.
pub struct Request<F> {
    pub source: F,
    pub destination: F,
    pub protocol: u8,
    pub type_of_service: u8,
    /// Of the packet, IP header included.
    pub length: u16,
}

/// `bpf_fib_lookup` ends with `smac` and `dmac`, which fill the last twelve of
/// its 64 bytes.
#[inline(always)]
fn macs_of(answer: &bpf_fib_lookup) -> Macs {
    const { assert!(core::mem::offset_of!(bpf_fib_lookup, smac) == 52) };
    let words: *const u64 = core::ptr::from_ref(answer).cast();
    // SAFETY: `answer` lies in a `Query`, aligned to words, eight of them.
    let (middle, last) = unsafe { (words.add(6).read(), words.add(7).read()) };
    Macs {
        source: (middle >> 32) | (last & 0xFFFF) << 32,
        destination: last >> 16,
    }
}

/// Asks the kernel's routing table for the way, for a frame that came with
/// `tags`. `mtu` is set if the packet is too big for it.
#[inline(always)]
pub fn route<F: Family>(
    ctx: &XdpContext,
    tags: &Tags,
    request: &Request<F>,
    mtu: &mut u16,
) -> Result<NextHop, DropReason> {
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
    let macs = macs_of(query);
    let handoff = Way::Handoff(query.ifindex);
    let way = match answer as u32 {
        bindings::BPF_FIB_LKUP_RET_SUCCESS => way_out(ctx, tags, query.ifindex),
        // The kernel resolves the neighbour when the tc program sends.
        bindings::BPF_FIB_LKUP_RET_NO_NEIGH => (handoff, 0, [VlanTag::default(); 2]),
        bindings::BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: the kernel has just written this part of the union.
            *mtu = unsafe { query.__bindgen_anon_1.mtu_result };
            return Err(DropReason::TooBig);
        }
        bindings::BPF_FIB_LKUP_RET_FWD_DISABLED => return Err(DropReason::ForwardingDisabled),
        _ => return Err(DropReason::NoRoute),
    };
    let (way, tag_count, tags) = way;
    Ok(NextHop {
        way,
        macs,
        tag_count,
        tags,
    })
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
    let Some(out) = entry(interface) else {
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

#[inline(always)]
fn entry(interface: u32) -> Option<InterfaceEntry> {
    // SAFETY: the agent replaces entries as a whole, and the kernel frees the
    // old one after an RCU grace period; it is copied at once.
    unsafe { maps::INTERFACES.get(interface) }.copied()
}

/// Writes the link-layer header for `hop`, unless the kernel will.
#[inline(always)]
pub fn address(ctx: &XdpContext, hop: &NextHop) -> Result<(), DropReason> {
    if matches!(hop.way, Way::Stack | Way::Handoff(_)) {
        return Ok(());
    }
    // With bounds of its own: of what was checked further inside the packet the
    // verifier doesn't conclude that the frame's beginning is there.
    write(&Packet::of_xdp(ctx), hop).ok_or(DropReason::Internal)
}

#[inline(always)]
fn write(packet: &Packet, hop: &NextHop) -> Option<()> {
    hop.macs.write(packet)?;
    for (index, &tag) in hop.tags.iter().enumerate() {
        if index < hop.tag_count {
            link::write_tag(packet, index, tag)?;
        }
    }
    Some(())
}

/// Turns a frame that answers another around, to leave by the device that the
/// other came in by; `None` if it can't.
#[inline(always)]
pub fn back(ctx: &XdpContext, tags: &Tags) -> Option<Way> {
    let packet = Packet::of_xdp(ctx);
    Macs::read(&packet)?.swapped().write(&packet)?;
    let device = ctx.ingress_ifindex() as u32;
    let flags = entry(device).map_or(0, |entry| entry.flags);
    if flags & InterfaceEntry::TRANSMIT != 0 {
        return Some(Way::Transmit);
    }
    if flags & InterfaceEntry::REDIRECT != 0 {
        return Some(Way::Redirect(device));
    }
    // The kernel would send a tagged frame's answer without its tag.
    if tags.count > 0 {
        return None;
    }
    handoff::note(ctx, device, tags.count, None).ok()?;
    Some(Way::Handoff(device))
}

/// The XDP action that sends the frame out of `device`.
#[inline(always)]
pub fn redirect(device: u32) -> u32 {
    // SAFETY: any index is allowed; one that doesn't exist drops the frame in
    // the driver's redirect, which the kernel counts.
    unsafe { bpf_redirect(device, 0) as u32 }
}
