//! Incremental Internet checksums (RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`).
//!
//! A [`Delta`] collects what leaves and what enters a checksummed area and is
//! then applied to any number of checksums. Values are summed as they lie in
//! memory: the ones' complement sum is independent of byte order (RFC 1071,
//! section 2 (B)), as long as both sides use the same one.

use crate::wire::Be16;

/// The difference that a rewrite makes to a ones' complement sum.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    pub const NONE: Self = Self(0);

    /// Replaces one 16-bit word by another.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, from: u16, to: u16) -> Self {
        Self(self.0 + (!from) as u64 + to as u64)
    }

    /// Replaces a port.
    #[inline(always)]
    #[must_use]
    pub const fn port(self, from: Be16, to: Be16) -> Self {
        self.word(from.raw(), to.raw())
    }

    /// Replaces two words, aligned to the checksum's words.
    #[inline(always)]
    #[must_use]
    pub const fn long(self, from: u32, to: u32) -> Self {
        Self(self.0 + (!from) as u64 + to as u64)
    }

    /// Adds two words that were not there before.
    #[inline(always)]
    #[must_use]
    pub const fn add_long(self, value: u32) -> Self {
        Self(self.0 + value as u64)
    }

    /// Adds a word that was not there before.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, value: u16) -> Self {
        Self(self.0 + value as u64)
    }

    /// Takes a word away.
    #[inline(always)]
    #[must_use]
    pub const fn remove(self, value: u16) -> Self {
        Self(self.0 + !value as u64)
    }

    /// Adds a sum as `bpf_csum_diff` returns it.
    #[inline(always)]
    #[must_use]
    pub const fn add_sum(self, sum: u32) -> Self {
        self.add_long(sum)
    }

    /// The checksum of what was added, where nothing was before.
    #[inline(always)]
    #[must_use]
    pub const fn finish(self) -> u16 {
        self.apply(0xFFFF)
    }

    /// The checksum (as it lies in memory) after the rewrite.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold((!checksum) as u64 + self.0)
    }

    /// As [`Delta::apply`] for UDP, whose 0x0000 means "no checksum" (RFC 768):
    /// a sum that comes out as zero is written as 0xFFFF. A checksum that was
    /// absent must stay absent, which is the caller's to see to.
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        match self.apply(checksum) {
            0 => 0xFFFF,
            sum => sum,
        }
    }
}

/// Folds a sum of less than 2^16 words of 32 bits into 16, carries included.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    ((sum & 0xFFFF) + (sum >> 16)) as u16
}

/// Whether two checksums are equal; 0x0000 and 0xFFFF are the same number in
/// ones' complement.
pub const fn equal(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xFFFF) || (a == 0xFFFF && b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address as _, Ipv6};
    use proptest::prelude::*;

    /// RFC 1071 as it is written down, over everything, in wire order.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum: u64 = 0;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1624_section_4_example() {
        // HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, where RFC 1141's
        // equation gave 0xFFFF.
        assert_eq!(Delta::NONE.word(0x5555, 0x3285).apply(0xDD2F), 0x0000);
    }

    #[test]
    fn zero_and_all_ones_are_equal() {
        assert!(equal(0, 0xFFFF) && equal(0xFFFF, 0) && equal(7, 7));
        assert!(!equal(0, 1) && !equal(0xFFFF, 0xFFFE));
    }

    #[test]
    fn udp_never_becomes_zero() {
        assert_eq!(Delta::NONE.word(0x5555, 0x3285).apply_udp(0xDD2F), 0xFFFF);
    }

    proptest! {
        #[test]
        fn incremental_equals_full(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..200),
            addresses: [[u8; 4]; 2],
            ports: [[u8; 2]; 2],
        ) {
            let before = naive(&bytes);
            let old = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            let delta = Delta::NONE
                .long(old(0), u32::from_ne_bytes(addresses[0]))
                .long(old(4), u32::from_ne_bytes(addresses[1]))
                .port(Be16::from_bytes([bytes[8], bytes[9]]), Be16::from_bytes(ports[0]))
                .port(Be16::from_bytes([bytes[10], bytes[11]]), Be16::from_bytes(ports[1]));
            bytes[..4].copy_from_slice(&addresses[0]);
            bytes[4..8].copy_from_slice(&addresses[1]);
            bytes[8..10].copy_from_slice(&ports[0]);
            bytes[10..12].copy_from_slice(&ports[1]);
            let got = u16::from_be(delta.apply(before.to_be()));
            prop_assert!(equal(got, naive(&bytes)), "got {got:#06x}, want {:#06x}", naive(&bytes));
        }

        #[test]
        fn there_and_back_changes_nothing(checksum: u16, from: u32, to: u32) {
            let there = Delta::NONE.long(from, to).apply(checksum);
            prop_assert!(equal(Delta::NONE.long(to, from).apply(there), checksum));
        }

        #[test]
        fn ipv6_addresses_are_replaced_word_by_word(bytes: [u8; 16], other: [u8; 16]) {
            let (from, to) = (Ipv6::from_bytes(bytes), Ipv6::from_bytes(other));
            let got = from.replace(to, Delta::NONE).apply(naive(&bytes).to_be());
            prop_assert!(equal(u16::from_be(got), naive(&other)));
        }

        #[test]
        fn what_is_added_has_the_full_checksum(values in proptest::collection::vec(any::<u32>(), 1..40)) {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
            let sum = values.iter().fold(Delta::NONE, |sum, &value| sum.add_long(value));
            prop_assert!(equal(u16::from_be(sum.finish()), naive(&bytes)));
        }
    }
}
