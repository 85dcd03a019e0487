//! The fragment table: what the first fragment of a datagram says of the later
//! ones, which have no ports of their own (RFC 791, section 3.2; RFC 8200,
//! section 4.5).

use crate::wire::{Be16, Ipv4, Ipv6};

/// What the fragments of one datagram have in common.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FragmentKey<A> {
    pub source: A,
    pub destination: A,
    /// The identification, wire order: 16 bits for IPv4, 32 for IPv6.
    pub identification: u32,
    /// IPv4's (RFC 791, section 3.2). 0 for IPv6, where only the first fragment
    /// says it for sure: the later ones name the header that follows theirs,
    /// which may be an extension (RFC 8200, section 4.5).
    pub protocol: u16,
    /// Where they are met: a datagram that is handed to the kernel as it came is
    /// met again when it goes out.
    pub hook: u16,
}

/// What the first fragment says.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FragmentEntry {
    pub source_port: Be16,
    pub destination_port: Be16,
    /// When it came, in seconds of CLOCK_MONOTONIC.
    pub second: u32,
    /// Of the datagram; [`FragmentEntry::NOT_OURS`] if it was passed.
    pub protocol: u32,
}

impl FragmentEntry {
    /// No transport protocol's number.
    pub const NOT_OURS: u32 = 0;
}

crate::map_value!(FragmentKey<Ipv4>, FragmentKey<Ipv6>, FragmentEntry);
