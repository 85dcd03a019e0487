//! Maglev consistent hashing (Eisenbud et al., "Maglev: A Fast and Reliable
//! Software Network Load Balancer", NSDI 2016, section 3.4): members, weights
//! and a seed → slot table. Pure, and the same on every node.
//!
//! Each member walks its own permutation of the slots and in its turns takes
//! the next slot that is free. Two things differ from the paper, both so that a
//! change of membership moves few slots:
//!
//! - Each member has a quota of slots, its exact share, and stops there.
//! - A member's turns come at times that follow from its own weight alone, not
//!   from who else is there. So whoever stays keeps nearly all of its slots.
//!
//! The members' order, where it matters, is that of their keyed hashes.

use std::{cmp::Reverse, net::IpAddr};

use lb_common::limits::NO_TARGET;

/// One target of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is, over restarts and on every node: see [`identity`]. Unique.
    pub identity: u64,
    /// What its slots hold; anything but [`NO_TARGET`].
    pub id: u16,
    /// Its share, relative to the other members' weights. 0: no slot.
    pub weight: u16,
}

/// The identity of a target by its address and port. `None` is this host.
#[must_use]
pub fn identity(address: Option<IpAddr>, port: u16) -> u64 {
    match address {
        None => u64::from(port),
        Some(IpAddr::V4(address)) => u64::from(address.to_bits()) << 16 | u64::from(port),
        Some(IpAddr::V6(address)) => {
            let bits = address.to_bits();
            mix(mix((bits >> 64) as u64) ^ bits as u64).wrapping_add(u64::from(port))
        }
    }
}

/// Builds a table of `table_size` slots, which should be a prime.
///
/// Every member has as many slots as its weight's exact share, rounded up or
/// down (largest remainder). Without a member of weight every slot is
/// [`NO_TARGET`]. Takes about six steps a slot.
#[must_use]
pub fn build(members: &[Member], table_size: u32, seed: u64) -> Vec<u16> {
    fill(members, table_size, seed, few(table_size))
}

/// The same table, however many slots are the `last`: those are found instead of
/// walked to. None may be unless the size is a prime.
fn fill(members: &[Member], table_size: u32, seed: u64, last: usize) -> Vec<u16> {
    let mut table = vec![NO_TARGET; table_size as usize];
    let mut members: Vec<(u64, Member)> = members
        .iter()
        .filter(|member| member.weight > 0)
        .map(|&member| (mix(member.identity ^ seed), member))
        .collect();
    if members.is_empty() || table_size == 0 {
        return table;
    }
    members.sort_by_key(|&(hash, member)| (hash, member.identity, member.id));

    let mut walks: Vec<Walk> = members
        .iter()
        .map(|&(hash, _)| Walk::new(hash, table_size))
        .collect();
    let quotas = quotas(&members, table_size);
    let mut taken = Taken::new(table_size);
    let turns = turns(&members, &quotas);
    let (first, last) = turns.split_at(turns.len().saturating_sub(last));
    for &index in first {
        if let Some(slot) = walks[index].next_free(&taken) {
            taken.set(slot);
            table[slot as usize] = members[index].1.id;
        }
    }
    let mut free = taken.free(table_size);
    for &index in last {
        if let Some(slot) = walks[index].nearest(&mut free) {
            table[slot as usize] = members[index].1.id;
        }
    }
    table
}

/// Free slots that are so few that it takes less to work out how far away each
/// is than to walk to the nearest: a walk takes about as many steps then. Half of
/// all steps would be made after that. None unless the size is a prime, where
/// alone a walk comes to every slot.
fn few(table_size: u32) -> usize {
    match is_prime(table_size) {
        true => table_size.isqrt() as usize,
        false => 0,
    }
}

pub(crate) fn is_prime(number: u32) -> bool {
    number >= 2 && (2..=number.isqrt()).all(|it| !number.is_multiple_of(it))
}

/// Slots of each member, in all `table_size`. A remainder that several have is
/// given out in the members' order, so that it stays where it is when others go.
fn quotas(members: &[(u64, Member)], table_size: u32) -> Vec<u32> {
    let total: u64 = members
        .iter()
        .map(|(_, member)| u64::from(member.weight))
        .sum();
    let share = |index: usize| u64::from(table_size) * u64::from(members[index].1.weight);
    let mut quotas: Vec<u32> = (0..members.len())
        .map(|index| (share(index) / total) as u32)
        .collect();
    let left = table_size - quotas.iter().sum::<u32>();
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|&index| (Reverse(share(index) % total), index));
    for &index in order.iter().take(left as usize) {
        quotas[index] += 1;
    }
    quotas
}

/// All turns in the order of their times: indices of `members`.
///
/// A member of weight w has its kth turn (from 1) in round k × W / w, rounded
/// up. W is a power of two, so that another greatest weight scales all times
/// alike. Counting sort, stable by index.
fn turns(members: &[(u64, Member)], quotas: &[u32]) -> Vec<usize> {
    let greatest = members
        .iter()
        .map(|(_, member)| u64::from(member.weight))
        .max()
        .unwrap_or(1);
    let scale = greatest.next_power_of_two();
    let rounds_of = |index: usize| Rounds::new(scale, members[index].1.weight, quotas[index]);
    let rounds = (0..members.len()).filter_map(|index| rounds_of(index).last());
    // First where each round begins, then where its next turn goes.
    let mut next = vec![0usize; rounds.max().unwrap_or(0) + 2];
    for index in 0..members.len() {
        for round in rounds_of(index) {
            next[round + 1] += 1;
        }
    }
    for round in 1..next.len() {
        next[round] += next[round - 1];
    }
    let mut turns = vec![0; next[next.len() - 1]];
    for index in 0..members.len() {
        for round in rounds_of(index) {
            turns[next[round]] = index;
            next[round] += 1;
        }
    }
    turns
}

/// The rounds of a member's turns, `turn × scale / weight` rounded up, without
/// a division for each.
struct Rounds {
    whole: usize,
    rest: u64,
    weight: u64,
    left: u32,
    round: usize,
    /// What has been rounded up, in parts of `weight`.
    ahead: u64,
}

impl Rounds {
    fn new(scale: u64, weight: u16, turns: u32) -> Self {
        let weight = u64::from(weight);
        Self {
            whole: (scale / weight) as usize,
            rest: scale % weight,
            weight,
            left: turns,
            round: 0,
            ahead: 0,
        }
    }
}

impl Iterator for Rounds {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        self.round += self.whole;
        if self.ahead < self.rest {
            self.round += 1;
            self.ahead += self.weight;
        }
        self.ahead -= self.rest;
        Some(self.round)
    }
}

/// A member's permutation of the slots: `offset + i × skip`, modulo the size.
struct Walk {
    slot: u32,
    skip: u32,
    table_size: u32,
}

impl Walk {
    fn new(hash: u64, table_size: u32) -> Self {
        // Independent of the order of the members, which is `hash` itself.
        let hash = mix(hash.wrapping_add(0x9E37_79B9_7F4A_7C15));
        let (high, low) = ((hash >> 32) as u32, hash as u32);
        Self {
            slot: high % table_size,
            skip: low % (table_size - 1).max(1) + 1,
            table_size,
        }
    }

    fn next_free(&mut self, taken: &Taken) -> Option<u32> {
        let mut next = self.slot;
        for _ in 0..self.table_size {
            let slot = next;
            let sum = slot + self.skip;
            next = sum.min(sum.wrapping_sub(self.table_size));
            if !taken.has(slot) {
                self.slot = next;
                return Some(slot);
            }
        }
        // Only if the size isn't prime: the walk may leave slots out.
        (0..self.table_size).find(|&slot| !taken.has(slot))
    }

    /// Takes the slot from `free` that a walk would meet first. The size must be
    /// a prime.
    fn nearest(&mut self, free: &mut Vec<u32>) -> Option<u32> {
        let size = u64::from(self.table_size);
        let inverse = inverse(self.skip, self.table_size);
        let steps = |slot: u32| {
            let distance = u64::from(slot) + size - u64::from(self.slot);
            distance * inverse % size
        };
        let nearest = (0..free.len()).min_by_key(|&at| steps(free[at]))?;
        let slot = free.swap_remove(nearest);
        self.slot = slot;
        Some(slot)
    }
}

/// What `number` is to be multiplied by to give 1, modulo a prime that it is no
/// multiple of (Fermat's little theorem).
fn inverse(number: u32, prime: u32) -> u64 {
    let modulus = u64::from(prime);
    let (mut result, mut power, mut exponent) = (1, u64::from(number), prime - 2);
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = result * power % modulus;
        }
        power = power * power % modulus;
        exponent /= 2;
    }
    result
}

/// The slots that have a member, a bit each: most steps only look, and this
/// fits into the fastest cache where the table doesn't.
struct Taken(Vec<u64>);

impl Taken {
    fn new(table_size: u32) -> Self {
        Self(vec![0; table_size.div_ceil(u64::BITS) as usize])
    }

    fn has(&self, slot: u32) -> bool {
        self.0[(slot / u64::BITS) as usize] >> (slot % u64::BITS) & 1 == 1
    }

    /// All that have none, in order.
    fn free(&self, table_size: u32) -> Vec<u32> {
        (0..table_size).filter(|&slot| !self.has(slot)).collect()
    }

    fn set(&mut self, slot: u32) {
        self.0[(slot / u64::BITS) as usize] |= 1 << (slot % u64::BITS);
    }
}

/// MurmurHash3's 64-bit finaliser (public domain).
fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    word ^= word >> 33;
    word = word.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    word ^ (word >> 33)
}

#[cfg(test)]
mod tests;
