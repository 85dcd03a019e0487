//! Frames, as they should be: what a test puts in and what it expects.

use std::{net::IpAddr, ops::Range};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// IPv6 extension headers (IANA protocol numbers).
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;

pub type Mac = [u8; 6];

/// A VLAN tag: its protocol and the two bytes behind it.
pub type Tag = (u16, u16);

/// An address and a port.
pub type End = (IpAddr, u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// With these flags.
    Tcp(u8),
    Udp,
    /// UDP whose checksum is 0: none.
    UdpUnchecked,
    /// A message of this type and code, with four bytes before the payload.
    Icmp(u8, u8, [u8; 4]),
    /// Of this protocol, with no header but what the payload has.
    Other(u8),
}

impl Transport {
    pub fn number(self, v6: bool) -> u8 {
        match self {
            Self::Tcp(_) => 6,
            Self::Udp | Self::UdpUnchecked => 17,
            Self::Icmp(..) if v6 => 58,
            Self::Icmp(..) => 1,
            Self::Other(number) => number,
        }
    }
}

/// TCP with these flags, or UDP where a mode's odd target is meant.
pub fn transport(udp: bool, flags: u8) -> Transport {
    if udp {
        Transport::Udp
    } else {
        Transport::Tcp(flags)
    }
}

/// A frame over IPv4 or IPv6, by its addresses' family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub macs: (Mac, Mac),
    pub tags: Vec<Tag>,
    pub source: End,
    pub destination: End,
    pub transport: Transport,
    pub time_to_live: u8,
    pub type_of_service: u8,
    /// IPv4's "don't fragment".
    pub whole: bool,
    /// IPv4's, and that of an IPv6 fragment header.
    pub identification: u32,
    /// IPv6's.
    pub flow_label: u32,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers, a multiple of eight bytes each; their first
    /// byte, what follows them, is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Those that belong to what is split into fragments.
    pub inner_extensions: Vec<(u8, Vec<u8>)>,
    /// If the frame is a fragment: its bytes of the datagram, and whether more
    /// follow.
    pub piece: Option<(Range<usize>, bool)>,
    /// Sequence and acknowledgment number, and window.
    pub numbers: (u32, u32, u16),
    /// TCP options, a multiple of four bytes.
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
    /// Bytes behind the IP packet, as Ethernet pads short frames.
    pub padding: usize,
}

impl Frame {
    pub fn new(transport: Transport, source: End, destination: End) -> Self {
        Self {
            macs: (CLIENT_MAC, ETH0_MAC),
            tags: Vec::new(),
            source,
            destination,
            transport,
            time_to_live: 64,
            type_of_service: 0,
            whole: true,
            identification: 0x1234,
            flow_label: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            inner_extensions: Vec::new(),
            piece: None,
            numbers: (0x0102_0304, 0x0506_0708, 0x1000),
            tcp_options: Vec::new(),
            payload: b"payload".to_vec(),
            padding: 0,
        }
    }

    /// Bytes of the IP packet.
    pub fn ip_length(&self) -> u64 {
        self.packet().len() as u64
    }

    /// The frame's bytes, all checksums computed from scratch.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.macs.1);
        bytes.extend_from_slice(&self.macs.0);
        for (protocol, control) in &self.tags {
            bytes.extend_from_slice(&protocol.to_be_bytes());
            bytes.extend_from_slice(&control.to_be_bytes());
        }
        let ethertype: u16 = if self.source.0.is_ipv6() {
            0x86DD
        } else {
            0x0800
        };
        bytes.extend_from_slice(&ethertype.to_be_bytes());
        bytes.extend(self.packet());
        bytes.extend(std::iter::repeat_n(0xEE, self.padding));
        bytes
    }

    /// The IP packet.
    pub fn packet(&self) -> Vec<u8> {
        let datagram = self.datagram();
        let data = match &self.piece {
            Some((range, _)) => &datagram[range.clone()],
            None => &datagram[..],
        };
        let mut packet = match (self.source.0, self.destination.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(source.octets(), destination.octets(), data.len())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(source.octets(), destination.octets(), data.len())
            }
            mixed => panic!("{mixed:?}"),
        };
        packet.extend_from_slice(data);
        packet
    }

    /// Both parts of the datagram, the first with `at` bytes of it.
    pub fn split(&self, at: usize) -> [Self; 2] {
        let length = self.datagram().len();
        [(0..at, true), (at..length, false)].map(|piece| {
            self.clone().with(|f| {
                f.whole = false;
                f.piece = Some(piece);
            })
        })
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4], length: usize) -> Vec<u8> {
        let number = IpNumber(self.transport.number(false));
        let mut ip = Ipv4Header::new(0, self.time_to_live, number, source, destination).unwrap();
        ip.identification = self.identification as u16;
        ip.dscp = (self.type_of_service >> 2).try_into().unwrap();
        ip.ecn = (self.type_of_service & 3).try_into().unwrap();
        ip.options = self.options.as_slice().try_into().unwrap();
        ip.dont_fragment = self.whole;
        if let Some((range, more)) = &self.piece {
            ip.fragment_offset = (range.start as u16 / 8).try_into().unwrap();
            ip.more_fragments = *more;
        }
        ip.set_payload_len(length).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let mut bytes = Vec::new();
        ip.write(&mut bytes).unwrap();
        bytes
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16], length: usize) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        if let Some((range, more)) = &self.piece {
            let offset = range.start as u16 | u16::from(*more);
            extensions.push((FRAGMENT, fragment_header(offset, self.identification)));
        }
        let (inner, _) = chain(&self.inner_extensions, self.transport.number(true));
        let (first, chain) = chain(&extensions, inner);
        let ip = Ipv6Header {
            traffic_class: self.type_of_service,
            flow_label: self.flow_label.try_into().unwrap(),
            payload_length: (chain.len() + length) as u16,
            next_header: IpNumber(first),
            hop_limit: self.time_to_live,
            source,
            destination,
        };
        let mut bytes = ip.to_bytes().to_vec();
        bytes.extend(chain);
        bytes
    }

    /// What the IP packet carries, of all fragments.
    fn datagram(&self) -> Vec<u8> {
        let mut bytes = match self.source.0.is_ipv6() {
            true => chain(&self.inner_extensions, self.transport.number(true)).1,
            false => Vec::new(),
        };
        bytes.extend(match self.transport {
            Transport::Tcp(flags) => self.tcp(flags),
            Transport::Udp => self.udp(),
            Transport::UdpUnchecked => {
                let mut header = self.udp();
                header[6..8].fill(0);
                header
            }
            Transport::Icmp(kind, code, rest) => self.icmp(kind, code, rest),
            Transport::Other(_) => Vec::new(),
        });
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    fn tcp(&self, flags: u8) -> Vec<u8> {
        let (sequence, acknowledgment, window) = self.numbers;
        let mut tcp = TcpHeader::new(self.source.1, self.destination.1, sequence, window);
        tcp.acknowledgment_number = acknowledgment;
        tcp.fin = flags & FIN != 0;
        tcp.syn = flags & SYN != 0;
        tcp.rst = flags & RST != 0;
        tcp.ack = flags & ACK != 0;
        tcp.set_options_raw(&self.tcp_options).unwrap();
        tcp.checksum = match (self.source.0, self.destination.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), &self.payload)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                tcp.calc_checksum_ipv6_raw(from.octets(), to.octets(), &self.payload)
            }
            mixed => panic!("{mixed:?}"),
        }
        .unwrap();
        tcp.to_bytes().to_vec()
    }

    fn udp(&self) -> Vec<u8> {
        let mut udp = UdpHeader {
            source_port: self.source.1,
            destination_port: self.destination.1,
            length: 8 + self.payload.len() as u16,
            checksum: 0,
        };
        udp.checksum = match (self.source.0, self.destination.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                udp.calc_checksum_ipv4_raw(from.octets(), to.octets(), &self.payload)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                udp.calc_checksum_ipv6_raw(from.octets(), to.octets(), &self.payload)
            }
            mixed => panic!("{mixed:?}"),
        }
        .unwrap();
        udp.to_bytes().to_vec()
    }

    /// The checksum by hand: etherparse has no ICMP header of just any type.
    fn icmp(&self, kind: u8, code: u8, [a, b, c, d]: [u8; 4]) -> Vec<u8> {
        let mut header = vec![kind, code, 0, 0, a, b, c, d];
        let mut all = Vec::new();
        if let (IpAddr::V6(from), IpAddr::V6(to)) = (self.source.0, self.destination.0) {
            all.extend_from_slice(&from.octets());
            all.extend_from_slice(&to.octets());
            all.extend_from_slice(&(8 + self.payload.len() as u32).to_be_bytes());
            all.extend_from_slice(&[0, 0, 0, 58]);
        }
        all.extend_from_slice(&header);
        all.extend_from_slice(&self.payload);
        header[2..4].copy_from_slice(&checksum(&all).to_be_bytes());
        header
    }

    /// The same with other values, for tables.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// Extension headers in front of `last`: what begins them, and their bytes.
fn chain(extensions: &[(u8, Vec<u8>)], last: u8) -> (u8, Vec<u8>) {
    let kinds: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).collect();
    let next = |index: usize| kinds.get(index).copied().unwrap_or(last);
    let mut bytes = Vec::new();
    for (index, (_, header)) in extensions.iter().enumerate() {
        bytes.push(next(index + 1));
        bytes.extend_from_slice(&header[1..]);
    }
    (next(0), bytes)
}

/// The Internet checksum as RFC 1071 has it.
pub fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// An extension header of options (PadN), of `units` times eight bytes.
pub fn options(kind: u8, units: u8) -> (u8, Vec<u8>) {
    let mut header = vec![0; usize::from(units) * 8];
    header[1] = units - 1;
    if units <= 32 {
        header[2] = 1;
        header[3] = (usize::from(units) * 8 - 4) as u8;
    }
    (kind, header)
}

/// An IPv6 fragment header; the offset with the flag behind it.
pub fn fragment_header(offset: u16, identification: u32) -> Vec<u8> {
    let mut header = vec![0, 0];
    header.extend_from_slice(&offset.to_be_bytes());
    header.extend_from_slice(&identification.to_be_bytes());
    header
}

pub const fn mac(network: u8, host: u8) -> Mac {
    [2, 0, 0, 0, network, host]
}

pub const ETH0_MAC: Mac = mac(1, 1);
pub const CLIENT_MAC: Mac = mac(1, 2);
pub const ETH1_MAC: Mac = mac(2, 1);
pub const TARGET_MAC: Mac = mac(2, 2);
