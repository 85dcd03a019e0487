//! The link-layer header: addresses and VLAN tags, kept while a packet moves
//! under it, and replaced on the way out.

use aya_ebpf::{helpers::generated::bpf_xdp_adjust_head, programs::XdpContext};
use lb_common::{Be16, counters::DropReason, limits::MAX_VLAN_TAGS, settings::VlanTag};

use crate::{
    maps,
    packet::Packet,
    parse::ethernet::{TAG_LENGTH, TYPE_OFFSET, Tags},
};

/// Destination and source of an Ethernet header: its first twelve bytes, as they
/// lie in memory. In words, for the verifier allows no misaligned access to the
/// stack, and six bytes are never aligned.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Macs([u32; 3]);

impl Macs {
    /// Of the low six bytes of each, in the order of memory.
    #[inline(always)]
    pub fn new(destination: u64, source: u64) -> Self {
        let first = destination & 0xFFFF_FFFF_FFFF | source << 48;
        Self([first as u32, (first >> 32) as u32, (source >> 16) as u32])
    }

    #[inline(always)]
    pub fn read(packet: &Packet) -> Option<Self> {
        packet.read(0).map(Self)
    }

    #[inline(always)]
    pub fn write(self, packet: &Packet) -> Option<()> {
        packet.write(0, self.0)
    }

    /// The destination, as [`Self::new`] takes it.
    #[inline(always)]
    pub fn destination(self) -> u64 {
        u64::from(self.0[0]) | u64::from(self.0[1] & 0xFFFF) << 32
    }

    #[inline(always)]
    pub fn swapped(self) -> Self {
        let source = u64::from(self.0[1] >> 16) | u64::from(self.0[2]) << 16;
        Self::new(source, self.destination())
    }
}

/// Refuses a frame for another host, which a device sees that is promiscuous or
/// a port of a bridge.
#[inline(always)]
pub fn check_destination(packet: &Packet) -> Result<(), DropReason> {
    let macs = Macs::read(packet).ok_or(DropReason::Truncated)?;
    match maps::MACS.get_ptr(macs.destination()) {
        Some(_) => Ok(()),
        None => Err(DropReason::NotOurs),
    }
}

/// Replaces a tag's protocol and id; its priority stays.
#[inline(always)]
pub fn write_tag(packet: &Packet, index: usize, tag: VlanTag) -> Option<()> {
    let at = TYPE_OFFSET + index * TAG_LENGTH;
    let control: Be16 = packet.read(at + 2)?;
    let control = Be16::new(control.get() & 0xF000 | tag.id);
    packet.write(at, [Be16::new(tag.protocol), control])
}

/// Takes `by` bytes away behind the link-layer header, or makes room of as many
/// if that is negative. The header then says that `ethertype` follows. What was
/// known of the packet is void.
#[inline(always)]
pub fn resize(
    ctx: &XdpContext,
    tags: &Tags,
    by: i32,
    ethertype: u16,
) -> Result<Packet, DropReason> {
    let packet = Packet::of_xdp(ctx);
    let macs = Macs::read(&packet).ok_or(DropReason::Internal)?;
    let mut raw = [0u32; MAX_VLAN_TAGS];
    for (index, tag) in raw.iter_mut().enumerate() {
        if index < tags.count {
            let at = TYPE_OFFSET + index * TAG_LENGTH;
            *tag = packet.read(at).ok_or(DropReason::Internal)?;
        }
    }
    // SAFETY: `ctx` is this program's own context.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, by) } != 0 {
        return Err(DropReason::NoHeadroom);
    }
    let packet = Packet::of_xdp(ctx);
    write(&packet, macs, &raw, tags.count, ethertype).ok_or(DropReason::Internal)?;
    Ok(packet)
}

#[inline(always)]
fn write(packet: &Packet, macs: Macs, raw: &[u32], tags: usize, ethertype: u16) -> Option<()> {
    macs.write(packet)?;
    let mut at = TYPE_OFFSET;
    for (index, tag) in raw.iter().enumerate() {
        if index < tags {
            packet.write(at, *tag)?;
            at += TAG_LENGTH;
        }
    }
    packet.write(at, Be16::new(ethertype))
}
