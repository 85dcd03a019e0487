//! Ranges of ports as a trie holds them: blocks whose keys differ in their low
//! bits only.

use std::ops::RangeInclusive;

/// The ports that share all but their `open_bits` low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    /// Lowest port, its open bits zero (host order).
    pub first: u16,
    /// 0 to 16.
    pub open_bits: u8,
}

impl Block {
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        let open = (1u32 << self.open_bits) - 1;
        u32::from(port) & !open == u32::from(self.first)
    }
}

/// The fewest blocks that cover exactly the ports of `range`, in their order.
pub fn blocks(range: &RangeInclusive<u16>) -> Vec<Block> {
    let (mut first, last) = (u32::from(*range.start()), u32::from(*range.end()));
    let mut blocks = Vec::new();
    while first <= last {
        // As large as its first port's alignment allows, and what is left.
        let alignment = first.trailing_zeros().min(u16::BITS);
        let fits = (last - first + 1).ilog2();
        let open_bits = alignment.min(fits);
        blocks.push(Block {
            first: first as u16,
            open_bits: open_bits as u8,
        });
        first += 1 << open_bits;
    }
    blocks
}

/// What is left of `range` without the `taken` ones.
pub fn without(
    range: &RangeInclusive<u16>,
    taken: &[RangeInclusive<u16>],
) -> Vec<RangeInclusive<u16>> {
    let mut taken: Vec<_> = taken.to_vec();
    taken.sort_unstable_by_key(|range| *range.start());
    let mut left = Vec::new();
    // Wider than a port, to go past the last one.
    let mut next = u32::from(*range.start());
    let end = u32::from(*range.end());
    for taken in taken {
        let (start, last) = (u32::from(*taken.start()), u32::from(*taken.end()));
        if start > end {
            break;
        }
        if start > next {
            left.push(next as u16..=(start - 1) as u16);
        }
        next = next.max(last + 1);
    }
    if next <= end {
        left.push(next as u16..=end as u16);
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn range() -> impl Strategy<Value = RangeInclusive<u16>> {
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b))
    }

    fn ports(block: Block) -> RangeInclusive<u16> {
        let last = u32::from(block.first) + (1 << block.open_bits) - 1;
        block.first..=u16::try_from(last).unwrap()
    }

    #[test]
    fn known_ranges() {
        let blocks = |range: RangeInclusive<u16>| -> Vec<(u16, u8)> {
            let blocks = super::blocks(&range);
            blocks.iter().map(|b| (b.first, b.open_bits)).collect()
        };
        assert_eq!(blocks(0..=65535), [(0, 16)], "every port is one block");
        assert_eq!(blocks(80..=80), [(80, 0)]);
        assert_eq!(blocks(8000..=8007), [(8000, 3)]);
        assert_eq!(blocks(1..=4), [(1, 0), (2, 1), (4, 0)]);
        assert_eq!(blocks(1..=65534).len(), 30, "the most that a range takes");
        assert_eq!(blocks(65535..=65535), [(65535, 0)]);
    }

    proptest! {
        #[test]
        fn blocks_are_aligned_and_cover_exactly_the_range(range in range()) {
            let mut next = u32::from(*range.start());
            for block in blocks(&range) {
                prop_assert_eq!(u32::from(block.first), next);
                prop_assert_eq!(next % (1 << block.open_bits), 0);
                next = u32::from(*ports(block).end()) + 1;
            }
            prop_assert_eq!(next, u32::from(*range.end()) + 1);
        }

        /// Two neighbours of one size that could be one block would be one.
        #[test]
        fn there_are_no_fewer_blocks(range in range()) {
            for pair in blocks(&range).windows(2) {
                let mergeable = pair[0].open_bits == pair[1].open_bits
                    && u32::from(pair[0].first) % (2 << pair[0].open_bits) == 0;
                prop_assert!(!mergeable, "{:?}", pair);
            }
        }

        #[test]
        fn what_is_left_is_in_the_range_and_not_taken(
            range in range(), taken in vec(range(), 0..4), port in any::<u16>(),
        ) {
            let left = without(&range, &taken);
            let wanted = range.contains(&port) && !taken.iter().any(|taken| taken.contains(&port));
            prop_assert_eq!(left.iter().filter(|left| left.contains(&port)).count(), usize::from(wanted));
        }
    }
}
