//! The handoff: XDP has rewritten a packet but can't send it (the driver takes
//! no XDP frames, the neighbour isn't known yet, the tags differ). It leaves a
//! note in front of the frame, passes it, and the tc program on ingress sends
//! it through the kernel's neighbour layer, without routing it again: so it
//! works for source NAT too, whose packets the kernel would refuse as martians.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1},
    helpers::generated::{bpf_redirect_neigh, bpf_skb_vlan_pop, bpf_xdp_adjust_meta},
    programs::{TcContext, XdpContext},
};
use lb_common::{counters::DropReason, limits::MAX_VLAN_TAGS, wire::Wide};

use crate::stats;

/// What XDP tells the tc program. Packets can't forge it: what lies in front
/// of a frame comes from this host only. 32 bytes are the most that older
/// kernels allow.
#[repr(C)]
#[derive(Clone, Copy)]
struct Note {
    magic: u32,
    interface: u32,
    /// VLAN tags to take off.
    tags: u32,
    /// Family of the next hop, a Linux number; 0: the packet's destination
    /// leads there.
    family: u32,
    next_hop: Wide,
}

/// "xlb" and the note's version.
const MAGIC: u32 = 0x786C_6202;

/// A neighbour to send to, other than the packet's destination says.
#[derive(Clone, Copy)]
pub struct Via {
    pub family: u8,
    pub address: Wide,
}

/// Leaves a note for [`send`]. Invalidates what was known of the packet.
#[inline(always)]
pub fn note(
    ctx: &XdpContext,
    interface: u32,
    tags: usize,
    via: Option<Via>,
) -> Result<(), DropReason> {
    // SAFETY: `ctx` is this program's own context.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, -(size_of::<Note>() as i32)) } != 0 {
        return Err(DropReason::NoMetadata);
    }
    let (start, end) = (ctx.metadata(), ctx.metadata_end());
    if start + size_of::<Note>() > end {
        return Err(DropReason::NoMetadata);
    }
    let via = via.unwrap_or(Via {
        family: 0,
        address: [0; 4],
    });
    let [a, b, c, d] = via.address;
    let words = [
        MAGIC,
        interface,
        tags as u32,
        u32::from(via.family),
        a,
        b,
        c,
        d,
    ];
    const { assert!(size_of::<Note>() == size_of::<[u32; 8]>()) };
    for (index, word) in words.into_iter().enumerate() {
        // Word by word, or the compiler makes a call of it.
        // SAFETY: checked just above to lie in front of the frame.
        unsafe { (start as *mut u32).add(index).write_volatile(word) };
    }
    Ok(())
}

/// Sends a packet that bears a note; `None` for any other.
#[inline(always)]
pub fn send(ctx: &TcContext) -> Option<i32> {
    let note = read(ctx)?;
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

#[inline(always)]
fn read(ctx: &TcContext) -> Option<Note> {
    // SAFETY: the kernel translates these reads of the context.
    let (start, end) = unsafe {
        (
            (*ctx.skb.skb).data_meta as usize,
            (*ctx.skb.skb).data as usize,
        )
    };
    if start + size_of::<Note>() > end {
        return None;
    }
    // SAFETY: checked just above to lie in front of the frame; a note is 4-byte
    // aligned, as the kernel demands of metadata.
    let note = unsafe { *(start as *const Note) };
    (note.magic == MAGIC).then_some(note)
}
