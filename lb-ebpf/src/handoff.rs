//! The handoff: XDP has rewritten a packet but can't send it (the driver takes
//! no XDP frames, the neighbour isn't known yet, the tags differ). It leaves a
//! note in front of the frame, passes it, and the tc program on ingress sends
//! it through the kernel's neighbour layer, without routing it again: so it
//! works for source NAT too, whose packets the kernel would refuse as martians.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1},
    helpers::generated::{
        bpf_redirect_neigh, bpf_skb_change_head, bpf_skb_vlan_pop, bpf_xdp_adjust_meta,
    },
    programs::{TcContext, XdpContext},
};
use lb_common::{counters::DropReason, limits::MAX_VLAN_TAGS, note::Note, wire::Wide};

use crate::stats;

/// A neighbour to send to, other than the packet's destination says.
#[derive(Clone, Copy)]
pub struct Via {
    pub family: u8,
    pub address: Wide,
}

/// Bytes between a note and the room's beginning. Since Linux 6.9 generic XDP
/// copies most frames and forgets how long their link header is
/// (`skb_pp_cow_data`); tc programs then begin at the IP header, and what they
/// see in front of it lies that much further on, see [`read`]. Kernels that
/// allow no more than 32 bytes don't do so.
const MARGIN: usize = 16;
const LINK_HEADER: usize = 14;

/// Leaves a note for [`send`]. Invalidates what was known of the packet.
#[inline(always)]
pub fn note(
    ctx: &XdpContext,
    interface: u32,
    tags: usize,
    via: Option<Via>,
) -> Result<(), DropReason> {
    let start = reserve(ctx).ok_or(DropReason::NoMetadata)?;
    let via = via.unwrap_or(Via {
        family: 0,
        address: [0; 4],
    });
    let note = Note {
        magic: Note::MAGIC,
        interface,
        tags: tags as u32,
        family: u32::from(via.family),
        next_hop: via.address,
    };
    for (index, word) in note.words().into_iter().enumerate() {
        // Word by word, or the compiler makes a call of it.
        // SAFETY: `reserve` says that so much lies in front of the frame.
        unsafe { (start as *mut u32).add(index).write_volatile(word) };
    }
    Ok(())
}

/// Where there is room for a note, right in front of the frame.
#[inline(always)]
fn reserve(ctx: &XdpContext) -> Option<usize> {
    let adjust = |bytes: usize| {
        // SAFETY: `ctx` is this program's own context.
        unsafe { bpf_xdp_adjust_meta(ctx.ctx, -(bytes as i32)) == 0 }
    };
    if adjust(MARGIN + size_of::<Note>()) {
        let (start, end) = (ctx.metadata(), ctx.metadata_end());
        return (start + MARGIN + size_of::<Note>() <= end).then_some(start + MARGIN);
    }
    if adjust(size_of::<Note>()) {
        let (start, end) = (ctx.metadata(), ctx.metadata_end());
        return (start + size_of::<Note>() <= end).then_some(start);
    }
    None
}

/// Sends a packet that bears a note; `None` for any other.
#[inline(always)]
pub fn send(ctx: &TcContext) -> Option<i32> {
    let (note, begins) = read(ctx)?;
    if begins == Begins::AtPacket {
        // An empty link header; the neighbour layer writes its own.
        // SAFETY: `ctx` is this program's own context.
        if unsafe { bpf_skb_change_head(ctx.skb.skb, LINK_HEADER as u32, 0) } != 0 {
            stats::count(DropReason::Internal);
            return Some(TC_ACT_SHOT);
        }
    }
    for tag in 0..MAX_VLAN_TAGS as u32 {
        // SAFETY: `ctx` is this program's own context.
        if tag < note.tags && unsafe { bpf_skb_vlan_pop(ctx.skb.skb) } != 0 {
            stats::count(DropReason::Internal);
            return Some(TC_ACT_SHOT);
        }
    }
    if note.family == 0 {
        // SAFETY: without parameters the helper finds the next hop itself.
        let sent = unsafe { bpf_redirect_neigh(note.interface, core::ptr::null_mut(), 0, 0) };
        return Some(sent as i32);
    }
    let mut via = bpf_redir_neigh {
        nh_family: note.family,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            ipv6_nh: note.next_hop,
        },
    };
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: `via` is a live struct of the size that is given.
    Some(unsafe { bpf_redirect_neigh(note.interface, &raw mut via, size, 0) } as i32)
}

/// Where a tc program's view of a frame begins.
#[derive(PartialEq, Eq)]
enum Begins {
    AtLinkHeader,
    /// See [`MARGIN`].
    AtPacket,
}

#[inline(always)]
fn read(ctx: &TcContext) -> Option<(Note, Begins)> {
    // SAFETY: the kernel translates these reads of the context.
    let (start, end) = unsafe {
        (
            (*ctx.skb.skb).data_meta as usize,
            (*ctx.skb.skb).data as usize,
        )
    };
    let at = |offset: usize| {
        // SAFETY: every caller has checked that it lies in front of the frame.
        let note = unsafe { ((start + offset) as *const Note).read_unaligned() };
        (note.magic == Note::MAGIC).then_some(note)
    };
    if start + MARGIN + size_of::<Note>() <= end {
        if let Some(note) = at(MARGIN) {
            return Some((note, Begins::AtLinkHeader));
        }
        return Some((at(MARGIN - LINK_HEADER)?, Begins::AtPacket));
    }
    if start + size_of::<Note>() <= end {
        return Some((at(0)?, Begins::AtLinkHeader));
    }
    None
}
