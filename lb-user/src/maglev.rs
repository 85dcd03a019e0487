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
/// [`NO_TARGET`]. Takes about ten steps a slot.
#[must_use]
pub fn build(members: &[Member], table_size: u32, seed: u64) -> Vec<u16> {
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
    for index in turns(&members, &quotas) {
        if let Some(slot) = walks[index].next_free(&table) {
            table[slot] = members[index].1.id;
        }
    }
    table
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
    let round = |index: usize, turn: u32| {
        (u64::from(turn) * scale).div_ceil(u64::from(members[index].1.weight)) as usize
    };
    let rounds = (0..members.len())
        .map(|index| round(index, quotas[index]))
        .max()
        .unwrap_or(0);
    // First where each round begins, then where its next turn goes.
    let mut next = vec![0usize; rounds + 2];
    for (index, &quota) in quotas.iter().enumerate() {
        for turn in 1..=quota {
            next[round(index, turn) + 1] += 1;
        }
    }
    for round in 1..next.len() {
        next[round] += next[round - 1];
    }
    let mut turns = vec![0; next[rounds + 1]];
    for (index, &quota) in quotas.iter().enumerate() {
        for turn in 1..=quota {
            let at = &mut next[round(index, turn)];
            turns[*at] = index;
            *at += 1;
        }
    }
    turns
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

    fn next_free(&mut self, table: &[u16]) -> Option<usize> {
        for _ in 0..self.table_size {
            let slot = self.slot as usize;
            self.slot += self.skip;
            if self.slot >= self.table_size {
                self.slot -= self.table_size;
            }
            if table[slot] == NO_TARGET {
                return Some(slot);
            }
        }
        // Only if the size isn't prime: the walk may leave slots out.
        table.iter().position(|&slot| slot == NO_TARGET)
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
