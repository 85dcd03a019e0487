//! Frames, as they should be: what a test puts in and what it expects.

use etherparse::{IpNumber, Ipv4Header, TcpHeader, UdpHeader};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

pub type Mac = [u8; 6];

/// A VLAN tag: its protocol and the two bytes behind it.
pub type Tag = (u16, u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// With these flags.
    Tcp(u8),
    Udp,
    /// UDP whose checksum is 0: none.
    UdpUnchecked,
}

/// A TCP or UDP frame over IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub macs: (Mac, Mac),
    pub tags: Vec<Tag>,
    pub source: ([u8; 4], u16),
    pub destination: ([u8; 4], u16),
    pub transport: Transport,
    pub time_to_live: u8,
    pub type_of_service: u8,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// Bytes behind the IP packet, as Ethernet pads short frames.
    pub padding: usize,
}

impl Frame {
    pub fn new(transport: Transport, source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Self {
        Self {
            macs: (CLIENT_MAC, ETH0_MAC),
            tags: Vec::new(),
            source,
            destination,
            transport,
            time_to_live: 64,
            type_of_service: 0,
            options: Vec::new(),
            payload: b"payload".to_vec(),
            padding: 0,
        }
    }

    /// Bytes of the IP packet.
    pub fn ip_length(&self) -> u64 {
        let transport = match self.transport {
            Transport::Tcp(_) => 20,
            Transport::Udp | Transport::UdpUnchecked => 8,
        };
        20 + (self.options.len() + transport + self.payload.len()) as u64
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
        bytes.extend_from_slice(&0x0800u16.to_be_bytes());
        let ip = self.ip_header();
        ip.write(&mut bytes).unwrap();
        self.write_transport(&ip, &mut bytes);
        bytes.extend_from_slice(&self.payload);
        bytes.extend(std::iter::repeat_n(0xEE, self.padding));
        bytes
    }

    fn ip_header(&self) -> Ipv4Header {
        let payload = self.ip_length() as usize - 20 - self.options.len();
        let number = match self.transport {
            Transport::Tcp(_) => IpNumber::TCP,
            Transport::Udp | Transport::UdpUnchecked => IpNumber::UDP,
        };
        let mut ip = Ipv4Header::new(
            payload as u16,
            self.time_to_live,
            number,
            self.source.0,
            self.destination.0,
        )
        .unwrap();
        ip.identification = 0x1234;
        ip.dscp = (self.type_of_service >> 2).try_into().unwrap();
        ip.ecn = (self.type_of_service & 3).try_into().unwrap();
        ip.options = self.options.as_slice().try_into().unwrap();
        ip.set_payload_len(payload).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        ip
    }

    fn write_transport(&self, ip: &Ipv4Header, bytes: &mut Vec<u8>) {
        let (source, destination) = (self.source.1, self.destination.1);
        match self.transport {
            Transport::Tcp(flags) => {
                let mut tcp = TcpHeader::new(source, destination, 0x0102_0304, 0x1000);
                tcp.acknowledgment_number = 0x0506_0708;
                tcp.fin = flags & FIN != 0;
                tcp.syn = flags & SYN != 0;
                tcp.rst = flags & RST != 0;
                tcp.ack = flags & ACK != 0;
                tcp.checksum = tcp.calc_checksum_ipv4(ip, &self.payload).unwrap();
                tcp.write(bytes).unwrap();
            }
            Transport::Udp | Transport::UdpUnchecked => {
                let mut udp =
                    UdpHeader::with_ipv4_checksum(source, destination, ip, &self.payload).unwrap();
                if self.transport == Transport::UdpUnchecked {
                    udp.checksum = 0;
                }
                udp.write(bytes).unwrap();
            }
        }
    }

    /// The same with other values, for tables.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

pub const fn mac(network: u8, host: u8) -> Mac {
    [2, 0, 0, 0, network, host]
}

pub const ETH0_MAC: Mac = mac(1, 1);
pub const CLIENT_MAC: Mac = mac(1, 2);
pub const ETH1_MAC: Mac = mac(2, 1);
pub const TARGET_MAC: Mac = mac(2, 2);
