//! What differs between address families on the packet's way: the maps that
//! hold their keys, the IP header, and the numbers of ICMP.

use aya_ebpf::bindings::{bpf_fib_lookup, xdp_md};
use lb_common::{
    Address, Be16, Ipv4, Ipv6,
    checksum::Delta,
    counters::DropReason,
    flow::{Endpoints, FlowKey, TCP, UDP},
    listener::ListenerLimits,
    wire::Wide,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    icmp, maps, nat,
    packet::{Packet, opaque},
    parse::{Ip, Part, ethernet, ipv4, ipv6},
    pipeline, select,
    work::Work,
};

/// An address family, named by its address type.
pub trait Family: Address + 'static {
    const ETHERTYPE: u16;
    /// Bytes of a header without options or extensions.
    const HEADER: usize;
    /// Of the family's slots, see [`crate::work`].
    const INDEX: u32;
    /// Linux's number of the family (`AF_…`).
    const LINUX_FAMILY: u8;
    /// The protocol number of its ICMP, and what it needs of it.
    const ICMP: u8;
    const ECHO_REQUEST: u8;
    const ECHO_REPLY: u8;
    /// Type and code of "it doesn't fit".
    const TOO_BIG: [u8; 2];
    /// Of "it can't get there".
    const UNREACHABLE: [u8; 2];
    /// Whether its ICMP's checksum covers the addresses.
    const ICMP_PSEUDO_HEADER: bool;
    /// Whether datagrams of two protocols may have the same identification.
    const PROTOCOL_IDENTIFIES: bool;
    /// Bytes of the smallest packet that every path takes. Of "too big" with less
    /// than that hosts take no notice; 0 where they do.
    const LEAST_MTU: u16;

    fn established() -> &'static maps::Established<Self>;
    fn half_open() -> &'static maps::HalfOpen<Self>;
    fn fragments() -> &'static maps::Fragments<Self>;
    fn vips() -> &'static maps::Vips<Self>;
    fn listeners() -> &'static maps::Listeners<Self>;
    fn listener_ranges() -> &'static maps::ListenerRanges<Self>;
    fn security() -> &'static maps::Security<Self>;
    /// Runs [`crate::select`]'s search: picks the target of a flow that begins.
    fn search(work: &mut Work<Self>);
    /// Runs [`crate::pipeline`]'s last stage, an [`outcome`](crate::outcome).
    fn send(ctx: *mut xdp_md, work: &mut Work<Self>) -> u32;
    /// Bits of the source prefix whose new flows are counted together.
    fn source_prefix(limits: &ListenerLimits) -> u32;

    fn parse(packet: &Packet, network: usize) -> Result<Ip<Self>, DropReason>;
    /// The packet that an ICMP message quotes.
    fn parse_quoted(packet: &Packet, network: usize) -> Result<Ip<Self>, DropReason>;
    /// What tells a packet apart from others between the same ends, as far as its
    /// headers say it; `None` if they aren't there.
    fn identity(packet: &Packet, ip: &Ip<Self>) -> Option<u32>;
    /// Whether an ICMP type is an error, which quotes a packet.
    fn is_error(icmp_type: u8) -> bool;
    /// Whether that error says of the packet that it didn't arrive.
    fn is_loss(icmp_type: u8) -> bool;

    /// Writes a key in whole words, as the look-up reads it: a load that spans
    /// several smaller stores waits until they have left the CPU's store buffer.
    /// `key` must be aligned to words.
    fn write_key(key: &mut FlowKey<Self>, at: &Endpoints<Self>, protocol: u8);

    /// Writes the addresses and the time to live, and mends the header's
    /// checksum where the family has one; `None` if the header isn't there.
    fn rewrite_header(
        packet: &Packet,
        network: usize,
        to: &Endpoints<Self>,
        time_to_live: u8,
    ) -> Option<()>;
    /// Writes the time to live alone, likewise.
    fn write_time_to_live(packet: &Packet, network: usize, time_to_live: u8) -> Option<()>;
    /// The header's own checksum; 0 where there is none, `None` if the header
    /// isn't there.
    fn header_checksum(packet: &Packet, network: usize) -> Option<u16>;
    /// Writes a whole header without options; `None` if there is no room.
    fn write_header(packet: &Packet, network: usize, header: &NewHeader<Self>) -> Option<()>;
    /// What of a packet's source a route may depend on.
    fn route_source(source: Self) -> Wide;
    /// Sets family, addresses and type of service of a route look-up.
    fn fill_route(query: &mut bpf_fib_lookup, source: Self, destination: Self, tos: u8);

    /// The change of source and destination in a ones' complement sum.
    #[inline(always)]
    fn delta(from: &Endpoints<Self>, to: &Endpoints<Self>) -> Delta {
        let delta = from.source.replace(to.source, Delta::NONE);
        from.destination.replace(to.destination, delta)
    }

    /// The sum of a pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1).
    #[inline(always)]
    fn pseudo_header(source: Self, destination: Self, protocol: u8, length: u16) -> Delta {
        let sum = Self::default().replace(source, Delta::NONE);
        Self::default()
            .replace(destination, sum)
            .add(Be16::new(u16::from(protocol)).raw())
            .add(Be16::new(length).raw())
    }
}

/// What a header that xlb writes says.
pub struct NewHeader<A> {
    pub source: A,
    pub destination: A,
    pub protocol: u8,
    pub type_of_service: u8,
    pub time_to_live: u8,
    /// No router may fragment it.
    pub whole: bool,
    /// IPv4's, to be told from that of any other packet if routers may fragment
    /// it (RFC 6864, section 4). IPv6 has none.
    pub identification: u16,
    /// Bytes behind it.
    pub payload_length: u16,
    /// IPv6's flow label; IPv4 has none.
    pub flow_label: u32,
}

macro_rules! maps {
    ($established:ident $half_open:ident $fragments:ident $vips:ident $listeners:ident
     $ranges:ident $security:ident) => {
        #[inline(always)]
        fn established() -> &'static maps::Established<Self> {
            &maps::$established
        }

        #[inline(always)]
        fn half_open() -> &'static maps::HalfOpen<Self> {
            &maps::$half_open
        }

        #[inline(always)]
        fn fragments() -> &'static maps::Fragments<Self> {
            &maps::$fragments
        }

        #[inline(always)]
        fn vips() -> &'static maps::Vips<Self> {
            &maps::$vips
        }

        #[inline(always)]
        fn listeners() -> &'static maps::Listeners<Self> {
            &maps::$listeners
        }

        #[inline(always)]
        fn listener_ranges() -> &'static maps::ListenerRanges<Self> {
            &maps::$ranges
        }

        #[inline(always)]
        fn security() -> &'static maps::Security<Self> {
            &maps::$security
        }
    };
}

impl Family for Ipv4 {
    const ETHERTYPE: u16 = ethernet::ETHERTYPE_IPV4;
    const HEADER: usize = Ipv4Hdr::LEN;
    const INDEX: u32 = 0;
    const LINUX_FAMILY: u8 = 2;
    const ICMP: u8 = 1;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const TOO_BIG: [u8; 2] = [3, 4];
    const UNREACHABLE: [u8; 2] = [3, 1];
    const ICMP_PSEUDO_HEADER: bool = false;
    const PROTOCOL_IDENTIFIES: bool = true;
    const LEAST_MTU: u16 = 0;

    maps!(ESTABLISHED_V4 HALF_OPEN_V4 FRAGMENTS_V4 VIPS_V4 LISTENERS_V4 LISTENER_RANGES_V4
        SECURITY_V4);

    #[inline(always)]
    fn search(work: &mut Work<Self>) {
        select::xlb_search_v4(work);
    }

    #[inline(always)]
    fn send(ctx: *mut xdp_md, work: &mut Work<Self>) -> u32 {
        pipeline::xlb_send_v4(ctx, work)
    }

    #[inline(always)]
    fn source_prefix(limits: &ListenerLimits) -> u32 {
        limits.prefix_v4
    }

    #[inline(always)]
    fn parse(packet: &Packet, network: usize) -> Result<Ip<Self>, DropReason> {
        ipv4::parse(packet, network)
    }

    #[inline(always)]
    fn parse_quoted(packet: &Packet, network: usize) -> Result<Ip<Self>, DropReason> {
        ipv4::parse_quoted(packet, network)
    }

    /// Identification, flags and offset.
    #[inline(always)]
    fn identity(packet: &Packet, ip: &Ip<Self>) -> Option<u32> {
        packet.read(ip.network() + 4)
    }

    /// RFC 792: unreachable, source quench, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(icmp_type: u8) -> bool {
        matches!(icmp_type, 3 | 4 | 11 | 12)
    }

    /// All but source quench.
    #[inline(always)]
    fn is_loss(icmp_type: u8) -> bool {
        matches!(icmp_type, 3 | 11 | 12)
    }

    #[inline(always)]
    fn write_key(key: &mut FlowKey<Self>, at: &Endpoints<Self>, protocol: u8) {
        let addresses = pair(at.source.raw(), at.destination.raw());
        write_words(key, [addresses, ports(at, protocol)]);
    }

    #[inline(always)]
    fn rewrite_header(
        packet: &Packet,
        network: usize,
        to: &Endpoints<Self>,
        time_to_live: u8,
    ) -> Option<()> {
        packet.update(
            network + TIME_TO_LIVE,
            |[first, source, destination]: [u32; 3]| {
                let delta = Delta::NONE
                    .long(source, to.source.raw())
                    .long(destination, to.destination.raw());
                let first = with_time_to_live(first, time_to_live, delta);
                [first, to.source.raw(), to.destination.raw()]
            },
        )
    }

    #[inline(always)]
    fn write_time_to_live(packet: &Packet, network: usize, time_to_live: u8) -> Option<()> {
        packet.update(network + TIME_TO_LIVE, |word| {
            with_time_to_live(word, time_to_live, Delta::NONE)
        })
    }

    #[inline(always)]
    fn header_checksum(packet: &Packet, network: usize) -> Option<u16> {
        packet.read(network + 10)
    }

    #[inline(always)]
    fn write_header(packet: &Packet, network: usize, header: &NewHeader<Self>) -> Option<()> {
        /// "Don't fragment".
        const WHOLE: u16 = 0x4000;
        let length = Self::HEADER as u16 + header.payload_length;
        let fragment = if header.whole { WHOLE } else { 0 };
        let words = [
            0x4500 | u16::from(header.type_of_service),
            length,
            header.identification,
            fragment,
            u16::from(header.time_to_live) << 8 | u16::from(header.protocol),
        ]
        .map(Be16::new);
        let sum = words
            .iter()
            .fold(Delta::NONE, |sum, word| sum.add(word.raw()));
        let [source, destination] = [header.source, header.destination].map(Self::raw);
        let check = sum.add_long(source).add_long(destination).finish();
        let [first, length, identification, fragment, hops] = words.map(Be16::raw);
        let words = [
            halves(first, length),
            halves(identification, fragment),
            halves(hops, check),
            source,
            destination,
        ];
        packet.write(network, words)
    }

    #[inline(always)]
    fn route_source(_source: Self) -> Wide {
        [0; 4]
    }

    #[inline(always)]
    fn fill_route(query: &mut bpf_fib_lookup, source: Self, destination: Self, tos: u8) {
        query.family = Self::LINUX_FAMILY;
        query.__bindgen_anon_2.tos = tos;
        query.__bindgen_anon_3.ipv4_src = source.raw();
        query.__bindgen_anon_4.ipv4_dst = destination.raw();
    }
}

impl Family for Ipv6 {
    const ETHERTYPE: u16 = ethernet::ETHERTYPE_IPV6;
    const HEADER: usize = Ipv6Hdr::LEN;
    const INDEX: u32 = 1;
    const LINUX_FAMILY: u8 = 10;
    const ICMP: u8 = 58;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const TOO_BIG: [u8; 2] = [2, 0];
    const UNREACHABLE: [u8; 2] = [1, 3];
    const ICMP_PSEUDO_HEADER: bool = true;
    const PROTOCOL_IDENTIFIES: bool = false;
    /// RFC 8200, section 5; RFC 8201, section 4.
    const LEAST_MTU: u16 = 1_280;

    maps!(ESTABLISHED_V6 HALF_OPEN_V6 FRAGMENTS_V6 VIPS_V6 LISTENERS_V6 LISTENER_RANGES_V6
        SECURITY_V6);

    #[inline(always)]
    fn search(work: &mut Work<Self>) {
        select::xlb_search_v6(work);
    }

    #[inline(always)]
    fn send(ctx: *mut xdp_md, work: &mut Work<Self>) -> u32 {
        pipeline::xlb_send_v6(ctx, work)
    }

    #[inline(always)]
    fn source_prefix(limits: &ListenerLimits) -> u32 {
        limits.prefix_v6
    }

    #[inline(always)]
    fn parse(packet: &Packet, network: usize) -> Result<Ip<Self>, DropReason> {
        ipv6::parse(packet, network)
    }

    #[inline(always)]
    fn parse_quoted(packet: &Packet, network: usize) -> Result<Ip<Self>, DropReason> {
        ipv6::parse_quoted(packet, network)
    }

    /// The transport checksum, which depends on all that follows; of a later
    /// fragment, which has none, the offset. The identification of a fragment.
    #[inline(always)]
    fn identity(packet: &Packet, ip: &Ip<Self>) -> Option<u32> {
        let at = match ip.protocol {
            _ if ip.fragment.part == Part::Later => ip.payload() - ipv6::BEHIND_OFFSET,
            TCP => ip.payload() + nat::TCP_CHECKSUM,
            UDP => ip.payload() + nat::UDP_CHECKSUM,
            _ => ip.payload() + icmp::CHECKSUM,
        };
        let own: u16 = packet.read(opaque(at))?;
        Some(ip.fragment.identification ^ u32::from(own))
    }

    /// RFC 4443, section 2.1: the error types have the high bit clear.
    #[inline(always)]
    fn is_error(icmp_type: u8) -> bool {
        matches!(icmp_type, 1..=4)
    }

    #[inline(always)]
    fn is_loss(icmp_type: u8) -> bool {
        Self::is_error(icmp_type)
    }

    #[inline(always)]
    fn write_key(key: &mut FlowKey<Self>, at: &Endpoints<Self>, protocol: u8) {
        let [a, b, c, d] = at.source.words();
        let [e, f, g, h] = at.destination.words();
        let ports = ports(at, protocol);
        write_words(key, [pair(a, b), pair(c, d), pair(e, f), pair(g, h), ports]);
    }

    #[inline(always)]
    fn rewrite_header(
        packet: &Packet,
        network: usize,
        to: &Endpoints<Self>,
        time_to_live: u8,
    ) -> Option<()> {
        Self::write_time_to_live(packet, network, time_to_live)?;
        packet.write(network + 8, [to.source.words(), to.destination.words()])
    }

    #[inline(always)]
    fn write_time_to_live(packet: &Packet, network: usize, time_to_live: u8) -> Option<()> {
        packet.write(network + 7, time_to_live)
    }

    #[inline(always)]
    fn header_checksum(_packet: &Packet, _network: usize) -> Option<u16> {
        Some(0)
    }

    #[inline(always)]
    fn write_header(packet: &Packet, network: usize, header: &NewHeader<Self>) -> Option<()> {
        let first =
            6 << 28 | u32::from(header.type_of_service) << 20 | header.flow_label & 0xF_FFFF;
        let protocol_and_hops = u16::from(header.protocol) << 8 | u16::from(header.time_to_live);
        let [length, rest] = [header.payload_length, protocol_and_hops].map(u16::to_be);
        let [a, b, c, d] = header.source.words();
        let [e, f, g, h] = header.destination.words();
        let words = [first.to_be(), halves(length, rest), a, b, c, d, e, f, g, h];
        packet.write(network, words)
    }

    /// "From" in `ip -6 route`.
    #[inline(always)]
    fn route_source(source: Self) -> Wide {
        source.to_wide()
    }

    #[inline(always)]
    fn fill_route(query: &mut bpf_fib_lookup, source: Self, destination: Self, tos: u8) {
        query.family = Self::LINUX_FAMILY;
        query.__bindgen_anon_2.flowinfo = (u32::from(tos) << 20).to_be();
        query.__bindgen_anon_3.ipv6_src = source.words();
        query.__bindgen_anon_4.ipv6_dst = destination.words();
    }
}

/// Offset of the time to live in an IPv4 header; the protocol, the checksum and
/// the addresses follow.
const TIME_TO_LIVE: usize = 8;

/// IPv4's word of time to live, protocol and checksum, with another time to live
/// and what else has changed in the header.
#[inline(always)]
fn with_time_to_live(word: u32, time_to_live: u8, delta: Delta) -> u32 {
    let [before, protocol, a, b] = word.to_ne_bytes();
    let [before, after] = [before, time_to_live].map(|hops| u16::from_ne_bytes([hops, protocol]));
    let check = delta.word(before, after).apply(u16::from_ne_bytes([a, b]));
    halves(after, check)
}

/// A word of two halves, in the order of memory.
#[inline(always)]
fn halves(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The last word of a flow key.
#[inline(always)]
fn ports<A>(at: &Endpoints<A>, protocol: u8) -> u64 {
    let ports = halves(at.source_port.raw(), at.destination_port.raw());
    pair(ports, protocol.into())
}

#[inline(always)]
fn write_words<A, const N: usize>(key: &mut FlowKey<A>, words: [u64; N]) {
    const { assert!(size_of::<FlowKey<A>>() == size_of::<[u64; N]>()) };
    // SAFETY: they are of one size and made of integers, and the caller has seen
    // to the alignment.
    unsafe { core::ptr::from_mut(key).cast::<[u64; N]>().write(words) };
}
