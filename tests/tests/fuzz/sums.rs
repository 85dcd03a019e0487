//! Internet checksums (RFC 1071), always over everything that they cover:
//! nothing here knows of a difference between two packets.

use std::net::IpAddr;

/// The ones' complement sum of big-endian words, folded; an odd byte is padded.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let total = words.map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)));
    fold(total.sum())
}

fn fold(mut total: u64) -> u16 {
    while total > 0xFFFF {
        total = (total & 0xFFFF) + (total >> 16);
    }
    total as u16
}

/// The sum of a segment and its pseudo-header (RFC 9293, section 3.1; RFC 8200,
/// section 8.1). The same as [`sum`] without one, for ICMP over IPv4.
pub fn segment(pseudo: Option<(IpAddr, IpAddr, u8)>, length: usize, bytes: &[u8]) -> u16 {
    let header = match pseudo {
        None => 0,
        Some((source, destination, protocol)) => {
            let addresses = u64::from(sum(&octets(source))) + u64::from(sum(&octets(destination)));
            addresses + u64::from(protocol) + length as u64
        }
    };
    fold(header + u64::from(sum(bytes)))
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The checksum that makes what else sums up to `rest` sum up to `wanted`: 0 or
/// 0xFFFF (which mean the same) for a right one, what it was before for one
/// that was wrong on arrival and must stay wrong.
pub fn checksum(rest: u16, wanted: u16) -> u16 {
    ((u32::from(wanted) + 2 * 0xFFFF - u32::from(rest)) % 0xFFFF) as u16
}

pub fn is_right(sum: u16) -> bool {
    sum == 0xFFFF || sum == 0
}
