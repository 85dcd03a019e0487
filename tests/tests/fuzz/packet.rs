//! What the model sees of a frame's bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    counters::DropReason,
    limits::{MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS},
};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMP6: u8 = 58;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// A packet's 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
    pub protocol: u8,
}

impl Key {
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ..self
        }
    }
}

/// Which part of a datagram a packet is; the fragment's identification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    First(u32),
    Later(u32),
}

/// Where things are in a frame, and what they say.
#[derive(Clone, Debug)]
pub struct View {
    pub tags: usize,
    /// Offsets: of the IP header, behind it and its extensions, and of the IP
    /// packet's end.
    pub ip: usize,
    pub transport: usize,
    pub end: usize,
    /// Ports are 0 where there are none.
    pub key: Key,
    pub part: Part,
    /// What an IPv6 fragment header says, also that of no fragment; else 0.
    pub identification: u32,
    pub hop_limit: u8,
    pub traffic_class: u8,
    /// TCP's.
    pub flags: u8,
}

impl View {
    pub fn is_v6(&self) -> bool {
        self.key.source.0.is_ipv6()
    }

    pub fn ip_length(&self) -> usize {
        self.end - self.ip
    }

    pub fn is_icmp(&self) -> bool {
        self.key.protocol == if self.is_v6() { ICMP6 } else { ICMP }
    }
}

pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

/// Reads a frame.
pub fn parse(bytes: &[u8]) -> Result<View, DropReason> {
    let mut view = network(bytes)?;
    transport(bytes, &mut view)?;
    Ok(view)
}

/// Reads a frame's IP header.
pub fn network(bytes: &[u8]) -> Result<View, DropReason> {
    let (tags, ip, ethernet_type) = ethernet(bytes)?;
    let mut view = match ethernet_type {
        0x0800 => ipv4(bytes, ip)?,
        0x86DD => ipv6(bytes, ip)?,
        _ => return Err(DropReason::NotIp),
    };
    view.tags = tags;
    Ok(view)
}

/// Reads a frame that may carry another packet too.
pub fn parse_any(bytes: &[u8]) -> Option<View> {
    let mut view = network(bytes).ok()?;
    match transport(bytes, &mut view) {
        Ok(()) => Some(view),
        Err(_) => matches!(view.key.protocol, 4 | 41).then_some(view),
    }
}

fn ethernet(bytes: &[u8]) -> Result<(usize, usize, u16), DropReason> {
    let mut at = 12;
    for tags in 0..=MAX_VLAN_TAGS {
        if bytes.len() < at + 2 {
            return Err(DropReason::Truncated);
        }
        let kind = word(bytes, at);
        if tags == MAX_VLAN_TAGS || !matches!(kind, 0x8100 | 0x88A8) {
            return Ok((tags, at + 2, kind));
        }
        at += 4;
    }
    unreachable!("the last round returns")
}

fn ipv4(bytes: &[u8], ip: usize) -> Result<View, DropReason> {
    if bytes.len() < ip + 20 {
        return Err(DropReason::Truncated);
    }
    let header = usize::from(bytes[ip] & 0x0F) * 4;
    if bytes[ip] >> 4 != 4 || header < 20 {
        return Err(DropReason::BadIpHeader);
    }
    let total = usize::from(word(bytes, ip + 2));
    if total < header || ip + total > bytes.len() {
        return Err(DropReason::BadTotalLength);
    }
    Ok(ipv4_header(bytes, ip, ip + total))
}

fn ipv4_header(bytes: &[u8], ip: usize, end: usize) -> View {
    let address = |at| IpAddr::from(Ipv4Addr::from(long(bytes, at)));
    let (more, offset) = (bytes[ip + 6] & 0x20 != 0, word(bytes, ip + 6) & 0x1FFF);
    View {
        tags: 0,
        ip,
        transport: ip + usize::from(bytes[ip] & 0x0F) * 4,
        end,
        key: Key {
            source: (address(ip + 12), 0),
            destination: (address(ip + 16), 0),
            protocol: bytes[ip + 9],
        },
        part: part(more, offset, u32::from(word(bytes, ip + 4))),
        identification: 0,
        hop_limit: bytes[ip + 8],
        traffic_class: bytes[ip + 1],
        flags: 0,
    }
}

fn part(more: bool, offset: u16, identification: u32) -> Part {
    match (more, offset) {
        (false, 0) => Part::Whole,
        (true, 0) => Part::First(identification),
        _ => Part::Later(identification),
    }
}

fn ipv6(bytes: &[u8], ip: usize) -> Result<View, DropReason> {
    if bytes.len() < ip + 40 {
        return Err(DropReason::Truncated);
    }
    if bytes[ip] >> 4 != 6 {
        return Err(DropReason::BadIpHeader);
    }
    let end = ip + 40 + usize::from(word(bytes, ip + 4));
    if end > bytes.len() {
        return Err(DropReason::BadTotalLength);
    }
    let mut view = ipv6_header(bytes, ip, end);
    extensions(bytes, &mut view)?;
    if view.transport > view.end {
        return Err(DropReason::BadTotalLength);
    }
    Ok(view)
}

fn ipv6_header(bytes: &[u8], ip: usize, end: usize) -> View {
    let address = |at: usize| {
        let octets: [u8; 16] = bytes[at..at + 16].try_into().unwrap();
        IpAddr::from(Ipv6Addr::from(octets))
    };
    View {
        tags: 0,
        ip,
        transport: ip + 40,
        end,
        key: Key {
            source: (address(ip + 8), 0),
            destination: (address(ip + 24), 0),
            protocol: bytes[ip + 6],
        },
        part: Part::Whole,
        identification: 0,
        hop_limit: bytes[ip + 7],
        traffic_class: (word(bytes, ip) >> 4) as u8,
        flags: 0,
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Authentication, mobility, host identity, shim6: headers that xlb doesn't
/// look behind.
const UNKNOWN: [u8; 4] = [51, 135, 139, 140];

fn extensions(bytes: &[u8], view: &mut View) -> Result<(), DropReason> {
    for seen in 0.. {
        let at = view.transport;
        let known = [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION].contains(&view.key.protocol);
        if UNKNOWN.contains(&view.key.protocol) || (known && seen == MAX_EXTENSION_HEADERS) {
            return Err(DropReason::ExtensionHeaders);
        }
        if !known {
            break;
        }
        let is_fragment = view.key.protocol == FRAGMENT;
        let is_routing = view.key.protocol == ROUTING;
        let needed = match view.key.protocol {
            FRAGMENT => 8,
            ROUTING => 4,
            _ => 2,
        };
        if at + needed > bytes.len() {
            return Err(DropReason::Truncated);
        }
        // More addresses to go to.
        if is_routing && bytes[at + 3] != 0 {
            return Err(DropReason::ExtensionHeaders);
        }
        let mut length = 8;
        if is_fragment {
            let (offset, more) = (word(bytes, at + 2) >> 3, bytes[at + 3] & 1 != 0);
            view.identification = long(bytes, at + 4);
            view.part = part(more, offset, view.identification);
        } else {
            length += 8 * usize::from(bytes[at + 1]);
        }
        view.key.protocol = bytes[at];
        view.transport += length;
        if matches!(view.part, Part::Later(_)) {
            // What follows isn't the beginning of anything.
            break;
        }
        if view.transport - view.ip - 40 > MAX_EXTENSION_BYTES {
            return Err(DropReason::ExtensionHeaders);
        }
    }
    Ok(())
}

/// Reads what stands behind it.
pub fn transport(bytes: &[u8], view: &mut View) -> Result<(), DropReason> {
    let (at, room) = (view.transport, view.end - view.transport);
    let icmp = if view.is_v6() { ICMP6 } else { ICMP };
    match view.key.protocol {
        _ if matches!(view.part, Part::Later(_)) => return Ok(()),
        TCP => {
            if room < 20 {
                return Err(DropReason::BadTcpHeader);
            }
            let header = usize::from(bytes[at + 12] >> 4) * 4;
            if header < 20 || header > room {
                return Err(DropReason::BadTcpHeader);
            }
            view.flags = bytes[at + 13];
        }
        UDP => {
            if room < 8 {
                return Err(DropReason::BadUdpLength);
            }
            let length = usize::from(word(bytes, at + 4));
            // A first fragment's is the whole datagram's.
            if length < 8 || (length > room && view.part == Part::Whole) {
                return Err(DropReason::BadUdpLength);
            }
        }
        other if other == icmp => return Ok(()),
        _ => return Err(DropReason::OtherProtocol),
    }
    view.key.source.1 = word(bytes, at);
    view.key.destination.1 = word(bytes, at + 2);
    Ok(())
}

/// The packet that an ICMP error quotes, as far as it is there: eight bytes of
/// transport header are enough, but it must say that it has its headers.
pub fn quoted(bytes: &[u8], error: &View) -> Option<View> {
    let view = quoted_at(bytes, error.transport + 8, error.end, error.is_v6())?;
    with_ports(bytes, view)
}

/// The same with its ports, if they are there.
pub fn with_ports(bytes: &[u8], mut view: View) -> Option<View> {
    if view.transport + 8 > view.end {
        return None;
    }
    view.key.source.1 = word(bytes, view.transport);
    view.key.destination.1 = word(bytes, view.transport + 2);
    Some(view)
}

/// The headers of a packet that begins at `ip` and is cut off at `end`.
pub fn quoted_at(bytes: &[u8], ip: usize, end: usize, v6: bool) -> Option<View> {
    if ip >= end {
        return None;
    }
    let view = if v6 {
        if end < ip + 40 || bytes[ip] >> 4 != 6 {
            return None;
        }
        let mut view = ipv6_header(bytes, ip, end);
        extensions(bytes, &mut view).ok()?;
        if view.transport > ip + 40 + usize::from(word(bytes, ip + 4)) {
            return None;
        }
        view
    } else {
        let header = usize::from(bytes[ip] & 0x0F) * 4;
        if end < ip + 20 || bytes[ip] >> 4 != 4 || header < 20 {
            return None;
        }
        if header > usize::from(word(bytes, ip + 2)) {
            return None;
        }
        ipv4_header(bytes, ip, end)
    };
    let is_first = !matches!(view.part, Part::Later(_));
    is_first.then_some(view)
}
