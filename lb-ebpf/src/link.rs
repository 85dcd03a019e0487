//! The link-layer header: addresses and VLAN tags, kept while a packet moves
//! under it, and replaced on the way out.

use aya_ebpf::{helpers::generated::bpf_xdp_adjust_head, programs::XdpContext};
use lb_common::{Be16, counters::DropReason, limits::MAX_VLAN_TAGS, settings::VlanTag};

use crate::{
    maps,
    packet::Packet,
    parse::ethernet::{TAG_LENGTH, TYPE_OFFSET, Tags},
};

/// Source and destination of an Ethernet header, in registers: the verifier
/// allows no misaligned access to the stack, and six bytes are never aligned.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Macs {
    /// The low six bytes, in the order of memory.
    pub source: u64,
    pub destination: u64,
}

impl Macs {
    #[inline(always)]
    pub fn read(packet: &Packet) -> Option<Self> {
        let half = |at: usize| {
            let low: u32 = packet.read(at)?;
            let high: u16 = packet.read(at + 4)?;
            Some(u64::from(low) | u64::from(high) << 32)
        };
        Some(Self {
            destination: half(0)?,
            source: half(6)?,
        })
    }

    #[inline(always)]
    pub fn write(self, packet: &Packet) -> Option<()> {
        packet.write(0, self.destination as u32)?;
        packet.write(4, (self.destination >> 32) as u16)?;
        packet.write(6, self.source as u32)?;
        packet.write(10, (self.source >> 32) as u16)
    }

    #[inline(always)]
    pub fn swapped(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
        }
    }
}

/// Refuses a frame for another host, which a device sees that is promiscuous or
/// a port of a bridge.
#[inline(always)]
pub fn check_destination(packet: &Packet) -> Result<(), DropReason> {
    let macs = Macs::read(packet).ok_or(DropReason::Truncated)?;
    match maps::MACS.get_ptr(macs.destination) {
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
