//! Ethernet II with up to two VLAN tags (IEEE 802.1Q, 802.1ad).

use lb_common::{Be16, counters::DropReason, limits::MAX_VLAN_TAGS, settings::VlanTag};
use network_types::eth::EthHdr;

use crate::packet::Packet;

/// The protocol numbers that follow an Ethernet header (IEEE 802 numbers).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86DD;

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88A8;
pub const TAG_LENGTH: usize = 4;
/// Offset of the type field in the Ethernet header; a tag is inserted there.
pub const TYPE_OFFSET: usize = 12;

/// The frame's VLAN tags, outermost first.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tags {
    pub count: usize,
    pub tags: [VlanTag; MAX_VLAN_TAGS],
}

#[derive(Clone, Copy)]
pub struct Link {
    pub ethertype: u16,
    /// Of the header, tags included.
    pub length: usize,
    pub tags: Tags,
}

#[inline(always)]
pub fn parse(packet: &Packet) -> Result<Link, DropReason> {
    let mut length = EthHdr::LEN;
    let mut ethertype = type_at(packet, TYPE_OFFSET)?;
    let mut tags = Tags {
        count: 0,
        tags: [VlanTag { protocol: 0, id: 0 }; MAX_VLAN_TAGS],
    };
    for tag in &mut tags.tags {
        if ethertype != VLAN && ethertype != SERVICE_VLAN {
            break;
        }
        let control: Be16 = packet.read(length).ok_or(DropReason::Truncated)?;
        *tag = VlanTag {
            protocol: ethertype,
            id: control.get() & 0x0FFF,
        };
        ethertype = type_at(packet, length + 2)?;
        length += TAG_LENGTH;
        tags.count += 1;
    }
    Ok(Link {
        ethertype,
        length,
        tags,
    })
}

#[inline(always)]
fn type_at(packet: &Packet, offset: usize) -> Result<u16, DropReason> {
    let value: Be16 = packet.read(offset).ok_or(DropReason::Truncated)?;
    Ok(value.get())
}
