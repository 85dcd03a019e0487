//! The address filter: a set of bits that tells most packets that aren't ours
//! from those that may be, before any look-up. A bit that is set without need
//! costs time and nothing else.

use crate::wire::Wide;

/// Bits, a power of two: 8 KiB, of which few cache lines are ever touched.
const BITS: u32 = 1 << 16;
pub const WORDS: usize = (BITS / u64::BITS) as usize;

/// The map's one value: bit n is bit n % 64 of word n / 64.
pub type Filter = [u64; WORDS];

/// Index of the word, and the mask in it, of an address of either family.
#[inline(always)]
pub const fn bit(address: Wide) -> (usize, u64) {
    let [a, b, c, d] = address;
    // Fibonacci hashing: the upper bits depend on all of the word's.
    let hash = (a ^ b.rotate_left(7) ^ c.rotate_left(13) ^ d.rotate_left(19))
        .wrapping_mul(0x9E37_79B1)
        >> (u32::BITS - BITS.ilog2());
    ((hash / u64::BITS) as usize, 1 << (hash % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::{WORDS, bit};

    /// As birthdays go: of 1,000 addresses in 65,536 bits about 8 meet another.
    #[test]
    fn neighbouring_addresses_have_bits_of_their_own() {
        for word in 0..4 {
            let mut filter = [0u64; WORDS];
            for n in 0..1_000u32 {
                let mut address = [0x0A00_0000, 1, 2, 3];
                address[word] = (0xC0A8_0000 + n).to_be();
                let (word, mask) = bit(address);
                filter[word] |= mask;
            }
            let set: u32 = filter.iter().map(|word| word.count_ones()).sum();
            assert!(set > 970, "word {word}: {set} bits of 1000");
        }
    }
}
