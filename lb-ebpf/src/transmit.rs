//! The way out: `XDP_TX`, redirect or a handoff to the kernel.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::XdpContext};
use lb_common::{
    counters::DropReason,
    settings::{InterfaceEntry, VlanTag},
};

use crate::{
    handoff::{self, Via},
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
#[derive(Clone, Copy)]
pub struct NextHop {
    pub way: Way,
    pub macs: Macs,
    pub tag_count: usize,
    pub tags: [VlanTag; 2],
}

#[inline(always)]
pub fn entry(interface: u32) -> Option<InterfaceEntry> {
    // SAFETY: it is copied at once; the agent replaces entries as a whole, and
    // the memory of an old one stays an entry of this map for as long as this
    // program runs.
    unsafe { maps::INTERFACES.get(interface) }.copied()
}

/// The last thing that happens to a packet which came with `tags`: it is
/// addressed for `hop`, or bears a note for the kernel to do so, `via` a
/// neighbour if its destination doesn't lead there. What was known of the
/// packet is void.
#[inline(always)]
pub fn leave(
    ctx: &XdpContext,
    hop: &NextHop,
    tags: &Tags,
    via: Option<Via>,
) -> Result<Way, DropReason> {
    match hop.way {
        Way::Stack => {}
        Way::Handoff(interface) => handoff::note(ctx, interface, tags.count, via)?,
        // With bounds of its own: of what was checked further inside the packet
        // the verifier doesn't conclude that the frame's beginning is there.
        Way::Transmit | Way::Redirect(_) => {
            write(&Packet::of_xdp(ctx), hop).ok_or(DropReason::Internal)?;
        }
    }
    Ok(hop.way)
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
