//! Direct server return: the packet goes to its target as it came but for the
//! time to live, in a frame to the target's address or inside an outer packet.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    Be16, Ipv4, Ipv6,
    counters::DropReason,
    flow::{Endpoints, UDP},
    target::{Encapsulation, TargetEntry},
    wire::Wide,
};

use crate::{
    family::{Family, NewHeader},
    handoff::Via,
    link, maps, max_segment,
    packet::{Packet, bounded},
    parse::Ip,
    pipeline,
    route::{self, Request},
    transmit,
    work::{Work, address},
};

/// The outer time to live; the packet's own goes on inside.
const OUTER_TIME_TO_LIVE: u8 = 64;
/// IPv4 and IPv6 inside another IP header (IANA protocol numbers).
pub const IPV4_INSIDE: u8 = 4;
pub const IPV6_INSIDE: u8 = 41;

/// Sends a packet of a `dsr` flow to its target.
#[inline(always)]
pub fn forward<F: Family>(
    ctx: *mut xdp_md,
    work: &mut Work<F>,
    may_be_syn: bool,
) -> Result<(), DropReason> {
    let target = maps::TARGETS
        .get(work.flow.target)
        .ok_or(DropReason::Internal)?;
    if Encapsulation::from_wire(target.encapsulation) == Encapsulation::None {
        directly(ctx, work, target, may_be_syn)
    } else if target.has(TargetEntry::IPV6) {
        wrap::<F, Ipv6>(ctx, work, target, may_be_syn)
    } else {
        wrap::<F, Ipv4>(ctx, work, target, may_be_syn)
    }
}

/// Bits of the flow's hash, which its entry keeps in the ports that it doesn't
/// rewrite.
#[inline(always)]
fn entropy<F>(rewrite: &Endpoints<F>) -> u32 {
    u32::from(rewrite.source_port.get()) << 16 | u32::from(rewrite.destination_port.get())
}

/// In a frame to the target's MAC address.
#[inline(always)]
fn directly<F: Family>(
    ctx: *mut xdp_md,
    work: &mut Work<F>,
    target: &TargetEntry,
    may_be_syn: bool,
) -> Result<(), DropReason> {
    let ctx = &XdpContext::new(ctx);
    let (ip, tags) = (&work.parsed.ip, &work.parsed.tags);
    let time_to_live = pipeline::routed(ip.time_to_live)?;
    let request = Request {
        source: ip.source,
        destination: address(&target.address),
        protocol: ip.protocol,
        type_of_service: ip.type_of_service,
        length: ip.length,
    };
    let next_hop = route::find(ctx, tags, &request, work.now, &mut work.mtu)?;
    let via = Via {
        family: F::LINUX_FAMILY,
        address: target.address,
    };
    let packet = Packet::of_xdp(ctx);
    max_segment::clamp(&packet, &work.parsed, &work.flow, may_be_syn);
    F::write_time_to_live(&packet, ip.network(), time_to_live).ok_or(DropReason::Internal)?;
    work.way = transmit::leave(ctx, next_hop, tags, Some(via))?;
    Ok(())
}

/// Puts a packet of family `F` into one of family `O`.
#[inline(always)]
fn wrap<F: Family, O: Family>(
    ctx: *mut xdp_md,
    work: &mut Work<F>,
    target: &TargetEntry,
    may_be_syn: bool,
) -> Result<(), DropReason> {
    let ctx = &XdpContext::new(ctx);
    let (ip, tags) = (&work.parsed.ip, &work.parsed.tags);
    let time_to_live = pipeline::routed(ip.time_to_live)?;
    let entropy = entropy(&work.flow.rewrite);
    let middle = Middle::of(target, entropy, F::ETHERTYPE);
    let overhead = O::HEADER as u16 + middle.length();
    let length = ip.length.checked_add(overhead).ok_or(DropReason::TooBig)?;
    // RFC 2003, section 3.1: no fragmenting outside where none is inside; but
    // RFC 4213, section 3.2: of IPv6 what every path has to take.
    let whole = ip.whole && ip.length > F::LEAST_MTU;
    let header = NewHeader {
        source: O::from_wide(outer_source::<O>(target, entropy)),
        destination: address(&target.address),
        protocol: middle.protocol::<F>(),
        // RFC 6040, section 4.1: ECN as it is inside; and so the DSCP (RFC 2983).
        type_of_service: ip.type_of_service,
        time_to_live: OUTER_TIME_TO_LIVE,
        whole,
        identification: match whole {
            true => 0,
            false => identification(&Packet::of_xdp(ctx), ip, entropy)?,
        },
        payload_length: length - O::HEADER as u16,
        // RFC 6438: a tunnel's flows are told apart by it.
        flow_label: entropy,
    };
    let request = Request {
        source: header.source,
        destination: header.destination,
        protocol: header.protocol,
        type_of_service: ip.type_of_service,
        length,
    };
    let next_hop = route::find(ctx, tags, &request, work.now, &mut work.mtu)
        .inspect_err(|_| work.mtu = work.mtu.saturating_sub(overhead))?;

    max_segment::clamp(&Packet::of_xdp(ctx), &work.parsed, &work.flow, may_be_syn);
    let packet = link::resize(ctx, tags, -i32::from(overhead), O::ETHERTYPE)?;
    let inside = bounded(ip.network() + usize::from(overhead));
    F::write_time_to_live(&packet, inside, time_to_live).ok_or(DropReason::Internal)?;
    O::write_header(&packet, ip.network(), &header).ok_or(DropReason::Internal)?;
    middle
        .write(&packet, ip.network() + O::HEADER, header.payload_length)
        .ok_or(DropReason::Internal)?;
    work.way = transmit::leave(ctx, next_hop, tags, None)?;
    Ok(())
}

/// Tells packets apart outside where routers may fragment them.
#[inline(always)]
fn identification<F: Family>(packet: &Packet, ip: &Ip<F>, entropy: u32) -> Result<u16, DropReason> {
    let identity = F::identity(packet, ip).ok_or(DropReason::Internal)?;
    // Fibonacci hashing: the upper bits depend on all of the word's.
    Ok(((identity ^ entropy).wrapping_mul(0x9E37_79B1) >> 16) as u16)
}

/// The outer source address, its low bits varied by flow where the target's
/// prefix leaves them open, so that receivers spread flows over their queues.
#[inline(always)]
fn outer_source<O: Family>(target: &TargetEntry, entropy: u32) -> Wide {
    let mut source = target.source;
    let open = match target.source_bits {
        0 => 0,
        bits if bits >= 32 => u32::MAX,
        bits => (1 << bits) - 1,
    };
    let last = size_of::<O>() / size_of::<u32>() - 1;
    let word = u32::from_be(source[last]);
    source[last] = (word & !open | entropy & open).to_be();
    source
}

/// What stands between the outer IP header and the packet.
struct Middle {
    encapsulation: Encapsulation,
    entropy: u32,
    /// Of the packet.
    ethertype: u16,
    port: Be16,
    virtual_network: u32,
}

impl Middle {
    #[inline(always)]
    fn of(target: &TargetEntry, entropy: u32, ethertype: u16) -> Self {
        Self {
            encapsulation: Encapsulation::from_wire(target.encapsulation),
            entropy,
            ethertype,
            port: target.encapsulation_port,
            virtual_network: target.virtual_network,
        }
    }

    #[inline(always)]
    fn length(&self) -> u16 {
        self.encapsulation.overhead() as u16
    }

    /// What the outer header says that follows it.
    #[inline(always)]
    fn protocol<F: Family>(&self) -> u8 {
        match self.encapsulation {
            Encapsulation::Gue | Encapsulation::Geneve => UDP,
            Encapsulation::None | Encapsulation::Ipip if F::INDEX == Ipv4::INDEX => IPV4_INSIDE,
            Encapsulation::None | Encapsulation::Ipip => IPV6_INSIDE,
        }
    }

    /// `length` is its own and the packet's.
    #[inline(always)]
    fn write(&self, packet: &Packet, at: usize, length: u16) -> Option<()> {
        match self.encapsulation {
            Encapsulation::None | Encapsulation::Ipip => Some(()),
            Encapsulation::Gue => self.write_udp(packet, at, length),
            Encapsulation::Geneve => {
                self.write_udp(packet, at, length)?;
                // RFC 8926, section 3.4: no options, IP inside.
                packet.write(at + 8, [Be16::new(0), Be16::new(self.ethertype)])?;
                packet.write(at + 12, (self.virtual_network << 8).to_be_bytes())
            }
        }
    }

    /// Without a checksum, as RFC 6935 allows tunnels over IPv6 too; the source
    /// port, from the dynamic range (RFC 6335), tells flows apart.
    #[inline(always)]
    fn write_udp(&self, packet: &Packet, at: usize, length: u16) -> Option<()> {
        let source = Be16::new(0xC000 | (self.entropy >> 16) as u16);
        packet.write(at, [source, self.port, Be16::new(length), Be16::new(0)])
    }
}
