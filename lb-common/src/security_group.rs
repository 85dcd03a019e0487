//! Security groups: which sources may begin flows at a listener.
//!
//! One longest-prefix-match trie per address family holds all groups. A group's
//! default is its entry for the empty prefix, so a look-up always finds one.

use crate::wire::{Ipv4, Ipv6};

/// The part of a trie's key behind the prefix length, which counts the group's
/// [`GROUP_BITS`] too.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SourceKey<A> {
    /// The security group's id; 0 is none.
    pub group: u32,
    pub address: A,
}

pub const GROUP_BITS: u32 = u32::BITS;

/// What a prefix means.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    Deny = 0,
    Allow = 1,
}

crate::map_value!(SourceKey<Ipv4>, SourceKey<Ipv6>);
