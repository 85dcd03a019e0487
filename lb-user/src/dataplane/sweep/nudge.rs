//! A nudge for clients whose connections have lost their target.
//!
//! The data path answers each packet of such a connection with a RST, but a
//! client that only waits sends none. A RST of the agent's own would need the
//! connection's sequence numbers, which nobody has kept. So the client gets a
//! SYN: whatever its numbers, a host answers it with an ACK that has the right
//! ones (RFC 5961, section 4.2), and that ACK gets the RST. Hosts from before
//! that RFC answer alike, or reset the connection at once (RFC 793, page 71).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    Be16,
    checksum::Delta,
    flow::{FlowKey, TCP},
    tcp::Flags,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::family::Keyed;

/// `IPPROTO_RAW`: what is sent has its IP header (raw(7)).
const WITH_HEADER: i32 = 255;
const TIME_TO_LIVE: u8 = 64;
const TCP_HEADER: usize = 20;

/// Sends nudges to clients of one address family.
#[derive(Debug)]
pub struct Nudge {
    socket: Socket,
}

impl Nudge {
    /// # Errors
    /// If the process may not send raw packets (CAP_NET_RAW), or the host
    /// doesn't have the address family.
    pub fn new(v6: bool) -> io::Result<Self> {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let protocol = Protocol::from(WITH_HEADER);
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Nudges the client whose packets have this key.
    ///
    /// # Errors
    /// If the packet can't be sent; a nudge that is lost harms nobody.
    pub fn send<A: Keyed>(&self, key: &FlowKey<A>) -> io::Result<()> {
        let client = SocketAddr::new(key.endpoints.source.to_ip(), 0);
        self.socket.send_to(&packet(key), &client.into()).map(drop)
    }
}

/// A SYN from the listener to the client.
fn packet<A: Keyed>(key: &FlowKey<A>) -> Vec<u8> {
    let at = &key.endpoints;
    let mut packet = match (at.destination.to_ip(), at.source.to_ip()) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, TCP_HEADER as u8, TCP, TIME_TO_LIVE];
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The kernel fills in length, identification and checksum.
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, TIME_TO_LIVE, TCP, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        // A key's addresses are of one family.
        _ => unreachable!("a flow between address families"),
    };
    packet.extend(segment(key));
    packet
}

fn segment<A: Keyed>(key: &FlowKey<A>) -> [u8; TCP_HEADER] {
    let at = &key.endpoints;
    let words = Be16::new((TCP_HEADER as u16) << 10 | u16::from(Flags::SYN));
    let length = Be16::new(TCP_HEADER as u16);
    let sum = A::default().replace(at.destination, Delta::NONE);
    let sum = A::default()
        .replace(at.source, sum)
        .add(Be16::new(u16::from(TCP)).raw())
        .add(length.raw())
        .add(at.source_port.raw())
        .add(at.destination_port.raw())
        .add(words.raw())
        .finish();
    let mut segment = [0; TCP_HEADER];
    segment[0..2].copy_from_slice(&at.destination_port.to_bytes());
    segment[2..4].copy_from_slice(&at.source_port.to_bytes());
    segment[12..14].copy_from_slice(&words.to_bytes());
    segment[16..18].copy_from_slice(&sum.to_ne_bytes());
    segment
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use lb_common::{Ipv4, Ipv6, flow::Endpoints};

    use super::*;

    fn key<A: Keyed>(client: A, listener: A) -> FlowKey<A> {
        let endpoints = Endpoints {
            source: client,
            destination: listener,
            source_port: Be16::new(4000),
            destination_port: Be16::new(80),
        };
        FlowKey::new(endpoints, TCP)
    }

    /// The ones' complement sum of big-endian words.
    fn sum(bytes: &[u8]) -> u32 {
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair[1]);
        bytes.chunks(2).map(word).sum()
    }

    fn is_right(packet: &[u8], header: usize, addresses: &[u8]) {
        let tcp = &packet[header..];
        assert_eq!(tcp[..4], [0, 80, 0x0F, 0xA0]);
        assert_eq!(tcp[12..14], [0x50, 0x02]);
        let total = sum(addresses) + u32::from(TCP) + 20 + sum(tcp);
        assert_eq!((total & 0xFFFF) + (total >> 16), 0xFFFF);
    }

    #[test]
    fn a_syn_from_the_listener() {
        let client = Ipv4Addr::new(192, 0, 2, 77);
        let listener = Ipv4Addr::new(10, 255, 0, 1);
        let four = packet(&key(Ipv4::from(client), Ipv4::from(listener)));
        assert_eq!(four[12..16], listener.octets());
        assert_eq!(four[16..20], client.octets());
        is_right(&four, 20, &four[12..20]);

        let client = Ipv6Addr::from_bits(0xFD00_FFFF_FFFF << 80 | 2);
        let listener = Ipv6Addr::from_bits(0xFD00_FFFE_FFFF << 80 | 1);
        let six = packet(&key(Ipv6::from(client), Ipv6::from(listener)));
        assert_eq!(six[8..24], listener.octets());
        assert_eq!(six[24..40], client.octets());
        is_right(&six, 40, &six[8..40]);
    }
}
