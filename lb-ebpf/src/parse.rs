//! Frame → [`Parsed`], or the reason why xlb has no business with it.
//!
//! No length in the packet is trusted: each is checked against what surrounds
//! it before anything is subtracted from it.

mod ethernet;
mod ipv4;
mod transport;

use lb_common::{
    Ipv4, counters::DropReason, flow::FlowKey, limits::MAX_VLAN_TAGS, settings::VlanTag, tcp::Flags,
};

use crate::packet::Packet;

/// What is known of a TCP or UDP packet after parsing. Offsets are in bytes
/// from the frame's start.
pub struct Parsed<A> {
    pub key: FlowKey<A>,
    pub network: usize,
    pub transport: usize,
    /// Length of the IP packet, headers included.
    pub ip_length: u16,
    pub type_of_service: u8,
    pub time_to_live: u8,
    /// TCP's flags; none for UDP.
    pub flags: Flags,
    pub tags: Tags,
}

/// The frame's VLAN tags, outermost first.
pub struct Tags {
    pub count: usize,
    pub tags: [VlanTag; MAX_VLAN_TAGS],
}

/// The protocol numbers that follow an Ethernet header (IEEE 802 numbers).
pub const ETHERTYPE_IPV4: u16 = 0x0800;

/// Parses a frame of `frame_length` bytes, of which `packet` may show less (an
/// skb's first part).
#[inline(always)]
pub fn parse(packet: &Packet, frame_length: usize) -> Result<Parsed<Ipv4>, DropReason> {
    let link = ethernet::parse(packet)?;
    if link.ethertype != ETHERTYPE_IPV4 {
        return Err(DropReason::NotIp);
    }
    let ip = ipv4::parse(packet, link.length, frame_length)?;
    let transport = transport::parse(packet, &ip)?;
    Ok(Parsed {
        key: FlowKey::new(
            lb_common::flow::Endpoints {
                source: ip.source,
                destination: ip.destination,
                source_port: transport.source_port,
                destination_port: transport.destination_port,
            },
            ip.protocol,
        ),
        network: link.length,
        transport: ip.payload,
        ip_length: ip.length,
        type_of_service: ip.type_of_service,
        time_to_live: ip.time_to_live,
        flags: transport.flags,
        tags: link.tags,
    })
}
