//! The keyed flow hash: 5-tuple → Maglev slot and first source port.
//!
//! It must be cheap in BPF (no 128-bit products), even, and of no use to a
//! sender who doesn't know the key. The mixing steps are MurmurHash3's 64-bit
//! finaliser (public domain), once per input word with the key folded in.

use crate::{flow::FlowKey, wire::Address};

#[inline(always)]
pub const fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    word ^= word >> 33;
    word = word.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    word ^ (word >> 33)
}

/// The hash of a flow. The same for every packet of one direction.
#[inline(always)]
pub fn flow<A: Address>(hash_key: u64, key: &FlowKey<A>) -> u64 {
    let ports = u64::from(key.endpoints.source_port.raw()) << 32
        | u64::from(key.endpoints.destination_port.raw()) << 16
        | u64::from(key.protocol);
    let hash = key.endpoints.source.hash_into(hash_key);
    let hash = key
        .endpoints
        .destination
        .hash_into(hash ^ hash_key.rotate_left(32));
    mix(hash ^ ports)
}

/// The hash of a flow's source address alone (source-IP stickiness): whatever
/// port and listener a client uses, it is the same.
#[inline(always)]
pub fn source<A: Address>(hash_key: u64, key: &FlowKey<A>) -> u64 {
    mix(key.endpoints.source.hash_into(hash_key))
}

/// The hash of a flow's destination port alone.
#[inline(always)]
pub fn destination_port<A: Address>(hash_key: u64, key: &FlowKey<A>) -> u64 {
    mix(hash_key ^ u64::from(key.endpoints.destination_port.raw()))
}

/// Maps the upper half of a hash evenly onto `0..bound` without a division.
#[inline(always)]
pub const fn slot(hash: u64, bound: u32) -> u32 {
    (((hash >> 32) * bound as u64) >> 32) as u32
}

/// How far apart slots are probed: so far that a run of one target's slots is
/// left at once, and, a table's size being a prime, never at one slot twice.
#[inline(always)]
pub const fn stride(table_size: u32) -> u32 {
    table_size / 8 * 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::Endpoints,
        wire::{Be16, Ipv4},
    };

    fn key(source: u32, port: u16) -> FlowKey<Ipv4> {
        FlowKey::new(
            Endpoints {
                source: Ipv4::from_bytes(source.to_be_bytes()),
                destination: Ipv4::from_bytes([10, 0, 2, 15]),
                source_port: Be16::new(port),
                destination_port: Be16::new(80),
            },
            crate::flow::TCP,
        )
    }

    /// Chi-squared over 64 buckets (63 degrees of freedom; 120 is p < 1e-5).
    fn chi_squared(slots: impl Iterator<Item = u32>) -> f64 {
        let mut buckets = [0f64; 64];
        let mut n = 0f64;
        for slot in slots {
            buckets[slot as usize] += 1.0;
            n += 1.0;
        }
        buckets
            .iter()
            .map(|b| (b - n / 64.0).powi(2) / (n / 64.0))
            .sum()
    }

    #[test]
    fn even_over_ports_and_over_addresses() {
        let ports = chi_squared((1024..65_535).map(|p| slot(flow(42, &key(0x0A00_0001, p)), 64)));
        let hosts =
            chi_squared((0..65_536).map(|a| slot(flow(42, &key(0x0A00_0000 + a, 4242)), 64)));
        assert!(
            ports < 120.0 && hosts < 120.0,
            "chi squared: ports {ports}, hosts {hosts}"
        );
    }

    #[test]
    fn the_key_matters() {
        let same = (0..1000u16)
            .filter(|&p| slot(flow(1, &key(7, p)), 1000) == slot(flow(2, &key(7, p)), 1000));
        assert!(same.count() < 20);
    }

    #[test]
    fn slot_is_in_bounds() {
        for bound in [1, 251, 65_537] {
            assert_eq!(slot(u64::MAX, bound), bound - 1);
            assert_eq!(slot(0, bound), 0);
        }
    }
}
