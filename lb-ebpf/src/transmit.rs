//! The way out: next hop, and `XDP_TX`, redirect or a handoff to the kernel.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::{self, bpf_fib_lookup},
    helpers::generated::{bpf_fib_lookup as fib_lookup, bpf_redirect},
    programs::XdpContext,
};
use lb_common::{
    Be16,
    counters::DropReason,
    flow::Endpoints,
    settings::{InterfaceEntry, VlanTag},
};

use crate::{family::Family, maps, packet::Packet, parse::Parsed};

/// How a packet goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Up this host's stack.
    Stack,
    /// Out of the device that it came in by.
    Transmit,
    /// Out of another device, named by its index.
    Redirect(u32),
    /// Out of the interface with this index, sent by the tc program behind XDP.
    Handoff(u32),
}

/// A way out with the link-layer header for it.
pub struct NextHop {
    pub way: Way,
    macs: Macs,
    tag_count: usize,
    tags: [VlanTag; 2],
}

/// Source and destination of an Ethernet header, in registers: the verifier
/// allows no misaligned access to the stack, and six bytes are never aligned.
#[derive(Clone, Copy)]
struct Macs {
    /// The low six bytes, in the order of memory.
    source: u64,
    destination: u64,
}

impl Macs {
    /// `bpf_fib_lookup` ends with `smac` and `dmac`, which fill the last twelve
    /// of its 64 bytes.
    #[inline(always)]
    fn of(answer: &bpf_fib_lookup) -> Self {
        const { assert!(core::mem::offset_of!(bpf_fib_lookup, smac) == 52) };
        let words: *const u64 = core::ptr::from_ref(answer).cast();
        // SAFETY: `answer` lies in a `Query`, aligned to words, eight of them.
        let (middle, last) = unsafe { (words.add(6).read(), words.add(7).read()) };
        Self {
            source: (middle >> 32) | (last & 0xFFFF) << 32,
            destination: last >> 16,
        }
    }

    /// Overwrites the addresses of the Ethernet header.
    #[inline(always)]
    fn write(self, packet: &Packet) -> Option<()> {
        packet.write(0, self.destination as u32)?;
        packet.write(4, (self.destination >> 32) as u16)?;
        packet.write(6, self.source as u32)?;
        packet.write(10, (self.source >> 32) as u16)
    }
}

/// Asks the kernel's routing table where a packet that leaves as `to` goes.
#[inline(always)]
pub fn route<F: Family>(
    ctx: &XdpContext,
    parsed: &Parsed<F>,
    to: &Endpoints<F>,
) -> Result<NextHop, DropReason> {
    let mut query = Query(MaybeUninit::uninit());
    let query = query.zero();
    F::fill_route(query, to);
    query.l4_protocol = parsed.key.protocol();
    query.ifindex = ctx.ingress_ifindex() as u32;
    query.__bindgen_anon_1.tot_len = parsed.ip_length;
    query.__bindgen_anon_2.tos = parsed.type_of_service;
    // SAFETY: `query` is a live struct of the size that is given.
    let answer = unsafe { fib_lookup(ctx.as_ptr(), query, size_of::<bpf_fib_lookup>() as i32, 0) };
    let macs = Macs::of(query);
    let handoff = Way::Handoff(query.ifindex);
    let way = match answer as u32 {
        bindings::BPF_FIB_LKUP_RET_SUCCESS => way_out(ctx, parsed, query.ifindex),
        // The kernel resolves the neighbour when the tc program sends.
        bindings::BPF_FIB_LKUP_RET_NO_NEIGH => (handoff, 0, [VlanTag::default(); 2]),
        bindings::BPF_FIB_LKUP_RET_FRAG_NEEDED => return Err(DropReason::TooBig),
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
fn way_out<F: Family>(
    ctx: &XdpContext,
    parsed: &Parsed<F>,
    interface: u32,
) -> (Way, usize, [VlanTag; 2]) {
    let handoff = (Way::Handoff(interface), 0, [VlanTag::default(); 2]);
    // SAFETY: the agent replaces entries as a whole, and the kernel frees the
    // old one after an RCU grace period; it is copied at once.
    let Some(out) = (unsafe { maps::INTERFACES.get(interface) }).copied() else {
        return handoff;
    };
    if usize::from(out.tag_count) != parsed.tags.count {
        return handoff;
    }
    if out.flags & InterfaceEntry::TRANSMIT != 0 && out.device == ctx.ingress_ifindex() as u32 {
        return (Way::Transmit, parsed.tags.count, out.tags);
    }
    if out.flags & InterfaceEntry::REDIRECT != 0 {
        return (Way::Redirect(out.device), parsed.tags.count, out.tags);
    }
    handoff
}

/// Writes the link-layer header for `hop`, unless the kernel will.
#[inline(always)]
pub fn address(packet: &Packet, hop: &NextHop) -> Result<(), DropReason> {
    if matches!(hop.way, Way::Stack | Way::Handoff(_)) {
        return Ok(());
    }
    write(packet, hop).ok_or(DropReason::Internal)
}

#[inline(always)]
fn write(packet: &Packet, hop: &NextHop) -> Option<()> {
    hop.macs.write(packet)?;
    if hop.tag_count > 0 {
        write_tag(packet, 12, hop.tags[0])?;
    }
    if hop.tag_count > 1 {
        write_tag(packet, 16, hop.tags[1])?;
    }
    Some(())
}

/// Replaces a tag's protocol and id; its priority stays.
#[inline(always)]
fn write_tag(packet: &Packet, offset: usize, tag: VlanTag) -> Option<()> {
    let control: Be16 = packet.read(offset + 2)?;
    let control = Be16::new(control.get() & 0xF000 | tag.id);
    packet.write(offset, [Be16::new(tag.protocol), control])
}

/// The XDP action that sends the frame out of `device`.
#[inline(always)]
pub fn redirect(device: u32) -> u32 {
    // SAFETY: any index is allowed; one that doesn't exist drops the frame in
    // the driver's redirect, which the kernel counts.
    unsafe { bpf_redirect(device, 0) as u32 }
}
