//! The IPv6 header and its extension headers (RFC 8200).

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    Be16, Ipv6,
    counters::DropReason,
    limits::{MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS},
};
use network_types::ip::Ipv6Hdr;

use super::{Fragment, Ip, Part};
use crate::{
    outcome,
    packet::{Frame, Packet, bounded, opaque},
};

/// Extension headers (IANA protocol numbers).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// All that may stand in a chain: authentication, mobility, HIP and shim6 too,
/// which end it for us. ESP and "no next header" end it for everyone and are
/// just other protocols.
const EXTENSIONS: [u8; 8] = [
    HOP_BY_HOP,
    ROUTING,
    FRAGMENT,
    DESTINATION_OPTIONS,
    51,
    135,
    139,
    140,
];

/// Bytes from a fragment header's offset to what follows the header.
pub const BEHIND_OFFSET: usize = 6;
const MORE_FRAGMENTS: u16 = 1;
const OFFSET: u16 = 0xFFF8;

#[inline(always)]
pub fn parse(packet: &Packet, network: usize) -> Result<Ip<Ipv6>, DropReason> {
    let header = Header::read(packet, network)?;
    let length = header.length();
    // A longer one is a jumbogram's or the kernel's own; none comes from a wire.
    if length > usize::from(u16::MAX) || !packet.holds(network + length) {
        return Err(DropReason::BadTotalLength);
    }
    header.ip(packet, network, length as u16)
}

/// Parses the header of a packet that an ICMP message quotes, and that may end
/// anywhere behind it.
#[inline(always)]
pub fn parse_quoted(packet: &Packet, network: usize) -> Result<Ip<Ipv6>, DropReason> {
    let header = Header::read(packet, network)?;
    let length = header.length().min(usize::from(u16::MAX));
    header.ip(packet, network, length as u16)
}

/// The fixed header, in words that lie in memory as on the wire.
struct Header([u64; Ipv6Hdr::LEN / 8]);

impl Header {
    #[inline(always)]
    fn read(packet: &Packet, network: usize) -> Result<Self, DropReason> {
        let header = Self(packet.read(network).ok_or(DropReason::Truncated)?);
        if header.first() >> 60 != 6 {
            return Err(DropReason::BadIpHeader);
        }
        Ok(header)
    }

    /// Version, traffic class, flow label, payload length, next header and hop
    /// limit: 4, 8, 20, 16, 8 and 8 bits.
    #[inline(always)]
    fn first(&self) -> u64 {
        u64::from_be(self.0[0])
    }

    /// Of the whole packet.
    #[inline(always)]
    fn length(&self) -> usize {
        Ipv6Hdr::LEN + usize::from((self.first() >> 16) as u16)
    }

    #[inline(always)]
    fn address(&self, first: usize) -> Ipv6 {
        let [a, b] = [self.0[first], self.0[first + 1]];
        Ipv6::from_words([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32])
    }

    #[inline(always)]
    fn ip(&self, packet: &Packet, network: usize, length: u16) -> Result<Ip<Ipv6>, DropReason> {
        let next = (self.first() >> 8) as u8;
        let mut chain = Chain {
            protocol: next,
            payload: network + Ipv6Hdr::LEN,
            fragment: Fragment {
                part: Part::Whole,
                identification: 0,
            },
        };
        if EXTENSIONS.contains(&next) {
            walk(packet, &mut chain)?;
        }
        let headers = chain.payload - network;
        if headers > usize::from(length) {
            return Err(DropReason::BadTotalLength);
        }
        Ok(Ip {
            source: self.address(1),
            destination: self.address(3),
            protocol: chain.protocol,
            type_of_service: (self.first() >> 52) as u8,
            time_to_live: self.first() as u8,
            length,
            network: network as u16,
            payload: chain.payload as u16,
            payload_length: length - headers as u16,
            fragment: chain.fragment,
            whole: true,
        })
    }
}

/// What the extension headers lead to.
#[repr(C)]
pub struct Chain {
    payload: usize,
    fragment: Fragment,
    protocol: u8,
}

#[inline(always)]
fn walk(packet: &Packet, chain: &mut Chain) -> Result<(), DropReason> {
    outcome::unpack(match packet.frame() {
        Frame::Xdp(ctx) => xlb_walk_xdp(ctx, chain),
        Frame::Skb(skb) => xlb_walk_skb(skb, chain),
    })
}

/// Follows the chain of a frame that comes in. A global function, for few packets
/// have one, and the verifier makes many states of a loop (see `outcome.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_walk_xdp(ctx: *mut xdp_md, chain: *mut Chain) -> u32 {
    // SAFETY: the verifier sees to it that the pointer is null or valid.
    outcome::pack(match unsafe { chain.as_mut() } {
        Some(chain) => follow(&Packet::of_xdp(&XdpContext::new(ctx)), chain),
        None => Err(DropReason::Internal),
    })
}

/// The same for one that goes out.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_walk_skb(skb: *mut __sk_buff, chain: *mut Chain) -> u32 {
    // SAFETY: as above.
    outcome::pack(match unsafe { chain.as_mut() } {
        Some(chain) => follow(&Packet::of_skb(&TcContext::new(skb)), chain),
        None => Err(DropReason::Internal),
    })
}

#[inline(always)]
fn follow(packet: &Packet, chain: &mut Chain) -> Result<(), DropReason> {
    let start = bounded(chain.payload);
    chain.payload = start;
    let mut followed = 0;
    // Not `for`: a range's `next` becomes a function of its own.
    while followed < MAX_EXTENSION_HEADERS {
        followed += 1;
        let length = match chain.protocol {
            ROUTING => {
                let [_, units, _, segments_left]: [u8; 4] = packet
                    .read(opaque(chain.payload))
                    .ok_or(DropReason::Truncated)?;
                // It goes to other addresses from here: the kernel's business.
                if segments_left != 0 {
                    return Err(DropReason::ExtensionHeaders);
                }
                (usize::from(units) + 1) * 8
            }
            HOP_BY_HOP | DESTINATION_OPTIONS => {
                let [_, units]: [u8; 2] = packet
                    .read(opaque(chain.payload))
                    .ok_or(DropReason::Truncated)?;
                (usize::from(units) + 1) * 8
            }
            FRAGMENT => {
                chain.fragment = fragment(packet, opaque(chain.payload))?;
                8
            }
            protocol if EXTENSIONS.contains(&protocol) => {
                return Err(DropReason::ExtensionHeaders);
            }
            _ => return Ok(()),
        };
        chain.protocol = packet
            .read(opaque(chain.payload))
            .ok_or(DropReason::Truncated)?;
        chain.payload += length;
        // Behind a later fragment's header comes the middle of a datagram.
        if chain.fragment.part == Part::Later {
            return Ok(());
        }
        if chain.payload > start + MAX_EXTENSION_BYTES {
            return Err(DropReason::ExtensionHeaders);
        }
    }
    if EXTENSIONS.contains(&chain.protocol) {
        return Err(DropReason::ExtensionHeaders);
    }
    Ok(())
}

/// A fragment header that says "all of it" is none (RFC 6946).
#[inline(always)]
fn fragment(packet: &Packet, at: usize) -> Result<Fragment, DropReason> {
    let bits: Be16 = packet.read(at + 2).ok_or(DropReason::Truncated)?;
    let identification: u32 = packet.read(at + 4).ok_or(DropReason::Truncated)?;
    let part = match (bits.get() & OFFSET, bits.get() & MORE_FRAGMENTS) {
        (0, 0) => Part::Whole,
        (0, _) => Part::First,
        _ => Part::Later,
    };
    Ok(Fragment {
        part,
        identification,
    })
}
