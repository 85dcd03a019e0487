//! Packets from what they are to say, with right checksums.

use std::net::IpAddr;

use super::{
    packet::{ICMP, ICMP6, TCP, UDP},
    sums,
    world::Mac,
};

#[derive(Clone, Debug)]
pub enum Body {
    /// Flags and the maximum segment size to offer.
    Tcp(u8, Option<u16>),
    /// With or without a checksum.
    Udp(bool),
    /// Type, code and the four bytes behind the checksum.
    Icmp(u8, u8, u32),
}

#[derive(Clone, Debug)]
pub struct Spec {
    /// Destination and source.
    pub macs: (Mac, Mac),
    pub tags: Vec<(u16, u16)>,
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
    pub body: Body,
    pub hop_limit: u8,
    pub traffic_class: u8,
    pub identification: u16,
    pub whole: bool,
    /// Words of IPv4 options.
    pub options: usize,
    /// IPv6 extension headers, each with a number of further 8 bytes.
    pub extensions: Vec<(u8, u8)>,
    /// Those that belong to what is fragmented.
    pub inner_extensions: Vec<(u8, u8)>,
    pub payload: Vec<u8>,
    /// Bytes behind the IP packet.
    pub padding: usize,
}

impl Spec {
    fn protocol(&self) -> u8 {
        match self.body {
            Body::Tcp(..) => TCP,
            Body::Udp(_) => UDP,
            Body::Icmp(..) if self.source.0.is_ipv6() => ICMP6,
            Body::Icmp(..) => ICMP,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let segment = [self.inner_chain(), self.segment()].concat();
        let mut bytes = self.packet(&segment, None);
        bytes.extend(std::iter::repeat_n(0xEE, self.padding));
        bytes
    }

    /// The datagram in pieces of at most `size` bytes, a multiple of 8.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let segment = [self.inner_chain(), self.segment()].concat();
        let pieces = segment.chunks(size).enumerate();
        pieces
            .map(|(index, piece)| {
                let offset = (index * size / 8) as u16;
                let more = (index + 1) * size < segment.len();
                self.packet(piece, Some((offset, more)))
            })
            .collect()
    }

    /// The transport header and what is behind it.
    fn segment(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ports = [
            self.source.1.to_be_bytes(),
            self.destination.1.to_be_bytes(),
        ]
        .concat();
        let field = match self.body {
            Body::Tcp(flags, max_segment) => {
                bytes.extend(ports);
                bytes.extend([1, 2, 3, 4, 5, 6, 7, 8]);
                let words = 5 + 2 * u8::from(max_segment.is_some());
                bytes.extend([words << 4, flags, 0x10, 0, 0, 0, 0, 0]);
                if let Some(size) = max_segment {
                    let [high, low] = size.to_be_bytes();
                    // At an even or an odd place, as the size has it.
                    if size % 2 == 0 {
                        bytes.extend([2, 4, high, low, 1, 1, 1, 0]);
                    } else {
                        bytes.extend([1, 2, 4, high, low, 1, 1, 0]);
                    }
                }
                16
            }
            Body::Udp(_) => {
                bytes.extend(ports);
                bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
            Body::Icmp(kind, code, rest) => {
                bytes.extend([kind, code, 0, 0]);
                bytes.extend(rest.to_be_bytes());
                2
            }
        };
        bytes.extend_from_slice(&self.payload);
        if matches!(self.body, Body::Udp(false)) {
            return bytes;
        }
        let protocol = self.protocol();
        let pseudo = (self.source.0, self.destination.0, protocol);
        let pseudo = (protocol != ICMP).then_some(pseudo);
        let mut checksum = sums::checksum(sums::segment(pseudo, bytes.len(), &bytes), 0xFFFF);
        if protocol == UDP && checksum == 0 {
            checksum = 0xFFFF;
        }
        bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn packet(&self, segment: &[u8], fragment: Option<(u16, bool)>) -> Vec<u8> {
        let mut bytes = [self.macs.0, self.macs.1].concat();
        for (protocol, control) in &self.tags {
            bytes.extend(protocol.to_be_bytes());
            bytes.extend(control.to_be_bytes());
        }
        if self.source.0.is_ipv6() {
            bytes.extend([0x86, 0xDD]);
            bytes.extend(self.ipv6(segment.len(), fragment));
        } else {
            bytes.extend([0x08, 0x00]);
            bytes.extend(self.ipv4(segment.len(), fragment));
        }
        bytes.extend_from_slice(segment);
        bytes
    }

    fn ipv4(&self, length: usize, fragment: Option<(u16, bool)>) -> Vec<u8> {
        let header = 20 + 4 * self.options;
        let mut bytes = vec![0x40 | (header / 4) as u8, self.traffic_class];
        bytes.extend(((header + length) as u16).to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        let bits = match fragment {
            Some((offset, more)) => offset | u16::from(more) << 13,
            None => u16::from(self.whole) << 14,
        };
        bytes.extend(bits.to_be_bytes());
        bytes.extend([self.hop_limit, self.protocol(), 0, 0]);
        bytes.extend(sums::octets(self.source.0));
        bytes.extend(sums::octets(self.destination.0));
        bytes.extend(std::iter::repeat_n(1, 4 * self.options));
        let checksum = sums::checksum(sums::sum(&bytes), 0xFFFF);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn ipv6(&self, length: usize, fragment: Option<(u16, bool)>) -> Vec<u8> {
        let mut headers = options(&self.extensions);
        if let Some((offset, more)) = fragment {
            let bits = offset << 3 | u16::from(more);
            let mut body = vec![0, 0];
            body.extend(bits.to_be_bytes());
            body.extend(u32::from(self.identification).to_be_bytes());
            headers.push((44, body));
        }
        let added: usize = headers.iter().map(|(_, body)| body.len()).sum();
        let kinds: Vec<u8> = headers.iter().map(|(kind, _)| *kind).collect();
        let last = self.inner_extensions.first();
        let last = last.map_or(self.protocol(), |(kind, _)| *kind);
        let next = |index: usize| kinds.get(index).copied().unwrap_or(last);
        let first: u32 = 6 << 28 | u32::from(self.traffic_class) << 20 | 0x12345;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(((added + length) as u16).to_be_bytes());
        bytes.extend([next(0), self.hop_limit]);
        bytes.extend(sums::octets(self.source.0));
        bytes.extend(sums::octets(self.destination.0));
        for (index, (_, mut body)) in headers.into_iter().enumerate() {
            body[0] = next(index + 1);
            bytes.extend(body);
        }
        bytes
    }

    fn inner_chain(&self) -> Vec<u8> {
        let kinds = self.inner_extensions.iter().map(|(kind, _)| *kind);
        let next = kinds.skip(1).chain([self.protocol()]);
        let mut bytes = Vec::new();
        for ((_, mut body), next) in options(&self.inner_extensions).into_iter().zip(next) {
            body[0] = next;
            bytes.extend(body);
        }
        bytes
    }
}

/// Extension headers, with one long pad option each.
fn options(extensions: &[(u8, u8)]) -> Vec<(u8, Vec<u8>)> {
    let header = |&(kind, eights): &(u8, u8)| {
        let mut body = vec![0; 8 + 8 * usize::from(eights)];
        (body[1], body[2], body[3]) = (eights, 1, (body.len() - 4) as u8);
        (kind, body)
    };
    extensions.iter().map(header).collect()
}
