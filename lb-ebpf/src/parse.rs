//! Frame → [`Parsed`], or the reason why xlb has no business with it.
//!
//! No length in the packet is trusted: each is checked against what surrounds
//! it before anything is subtracted from it.

pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
pub mod transport;

use lb_common::{
    Be16,
    counters::DropReason,
    flow::{Endpoints, FlowKey},
    tcp::Flags,
};

use crate::{
    family::Family,
    flow::Hook,
    fragment,
    packet::{Packet, bounded},
};
use ethernet::Tags;

/// An IP header of either family. Offsets are in bytes from the frame's start.
#[repr(C)]
pub struct Ip<A> {
    pub source: A,
    pub destination: A,
    /// Of what follows all headers of the family.
    pub protocol: u8,
    pub type_of_service: u8,
    pub time_to_live: u8,
    /// Of the packet, header included: at least the header's, at most what the
    /// frame holds.
    pub length: u16,
    /// Where the header begins, and what follows it and its extensions. Small
    /// types, so that the verifier knows a bound when they come from memory.
    network: u16,
    payload: u16,
    /// Bytes of what follows.
    pub payload_length: u16,
    pub fragment: Fragment,
    /// No router on the way may fragment it.
    pub whole: bool,
}

impl<A> Ip<A> {
    /// Offset of the header.
    #[inline(always)]
    pub fn network(&self) -> usize {
        bounded(self.network.into())
    }

    /// Offset of what follows the header and its extensions.
    #[inline(always)]
    pub fn payload(&self) -> usize {
        bounded(self.payload.into())
    }
}

/// Which part of a datagram a packet is.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole = 0,
    /// The first fragment, which has the ports.
    First = 1,
    /// One that has none.
    Later = 2,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Fragment {
    pub part: Part,
    /// Of the datagram, wire order.
    pub identification: u32,
}

/// What is known of a packet after parsing. The key comes first, and so is
/// aligned to words as all of it.
#[repr(C, align(8))]
pub struct Parsed<A> {
    pub key: FlowKey<A>,
    pub ip: Ip<A>,
    /// TCP's flags; none for UDP and for later fragments.
    pub flags: Flags,
    pub tags: Tags,
}

impl<A> Parsed<A> {
    /// Whether ports and checksum are in this packet.
    #[inline(always)]
    pub fn has_transport(&self) -> bool {
        self.ip.fragment.part != Part::Later
    }
}

/// Parses what follows the link-layer header, at `network`: the IP header, and
/// of TCP and UDP the ports, of the packet itself or of its datagram's first
/// fragment. ICMP has none. Sets all of `parsed` but the tags.
#[inline(always)]
pub fn packet<F: Family>(
    packet: &Packet,
    network: usize,
    hook: Hook,
    parsed: &mut Parsed<F>,
) -> Result<(), DropReason> {
    // At once where it stays: put together elsewhere and copied in words, it
    // would wait for the CPU's store buffer.
    parsed.ip = F::parse(packet, bounded(network))?;
    let ip = &mut parsed.ip;
    let transport = match ip.fragment.part {
        Part::Later => fragment::transport(ip, hook)?,
        part => {
            let is_first = part == Part::First;
            if is_first {
                fragment::begin(ip, hook);
            }
            let transport = transport(packet, ip);
            let may_be_ours = transport.is_ok() && ip.protocol != F::ICMP;
            if is_first && hook == Hook::Ingress && !may_be_ours {
                fragment::pass(ip);
            }
            transport?
        }
    };
    let endpoints = Endpoints {
        source: ip.source,
        destination: ip.destination,
        source_port: transport.source_port,
        destination_port: transport.destination_port,
    };
    F::write_key(&mut parsed.key, &endpoints, ip.protocol);
    parsed.flags = transport.flags;
    Ok(())
}

#[inline(always)]
fn transport<F: Family>(packet: &Packet, ip: &Ip<F>) -> Result<transport::Header, DropReason> {
    if ip.protocol != F::ICMP {
        return transport::parse(packet, ip);
    }
    Ok(transport::Header {
        source_port: Be16::new(0),
        destination_port: Be16::new(0),
        flags: Flags(0),
    })
}
