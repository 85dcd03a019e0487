//! What can be said about a packet beside what the data path does with it: whose
//! listener it is for, which rule of a security group its source meets, and
//! which slot its hash picks. Pure: from what the maps hold.

pub mod frame;

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    Address, Be16, Ipv4, Ipv6,
    flow::{Endpoints, FlowKey},
    hash,
    limits::NO_TARGET,
    listener::{ListenerEntry, SourceRateKey},
    wire::wide,
};

use crate::{
    address::Prefix,
    config::Rule,
    reconcile::{MapState, PlacePorts},
};

/// Both ends of a packet, which are of one family, and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// As in an IP header.
    pub protocol: u8,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// Where a packet's hash leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub input: &'static str,
    pub slot: u32,
    pub slots: u32,
    /// Whose it is, a target's id.
    pub target: Option<u32>,
}

/// The listener that a packet is for: one of a single port, or else that of the
/// smallest block of ports.
#[must_use]
pub fn listener(state: &MapState, ends: &Ends) -> Option<ListenerEntry> {
    let (address, port) = (ends.destination.ip(), ends.destination.port());
    let at = |ports: &PlacePorts| match ports {
        PlacePorts::One(one) => (*one == port).then_some(0),
        PlacePorts::Block(block) => block.contains(port).then_some(1 + block.open_bits),
    };
    let places = state.listeners.iter();
    places
        .filter(|(place, _)| (place.address, place.protocol) == (address, ends.protocol))
        .filter_map(|(place, entry)| Some((at(&place.ports)?, *entry)))
        .min_by_key(|(width, _)| *width)
        .map(|(_, entry)| entry)
}

/// The rule of the longest prefix that the source is in.
#[must_use]
pub fn rule(state: &MapState, security_group: u16, source: IpAddr) -> Option<(Prefix, Rule)> {
    let rules = state.security_groups.get(&security_group.into())?;
    let matching = rules.iter().filter(|(prefix, _)| prefix.contains(source));
    matching.max_by_key(|(prefix, _)| prefix.length()).copied()
}

/// Where new flows of a source are counted at a listener.
#[must_use]
pub fn source_rate(state: &MapState, listener: u32, source: IpAddr) -> Option<SourceRateKey> {
    let limits = state.limits.get(&listener)?;
    let bits = match source {
        IpAddr::V4(_) => limits.prefix_v4,
        IpAddr::V6(_) => limits.prefix_v6,
    };
    let prefix = Prefix::around(source, u8::try_from(bits).ok()?)?;
    Some(SourceRateKey {
        prefix: wide(prefix.address()),
        listener,
    })
}

/// The first slot that a new flow looks at.
#[must_use]
pub fn slot(state: &MapState, listener: &ListenerEntry, ends: &Ends) -> Option<Slot> {
    let hash_key = state.settings.hash_key;
    let (input, hash) = match (ends.source.ip(), ends.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => hash_of(
            hash_key,
            listener,
            &key(ends, Ipv4::from(source), Ipv4::from(destination)),
        ),
        (IpAddr::V6(source), IpAddr::V6(destination)) => hash_of(
            hash_key,
            listener,
            &key(ends, Ipv6::from(source), Ipv6::from(destination)),
        ),
        _ => return None,
    };
    let slot = hash::slot(hash, listener.table_size);
    let table = state.tables.get(&listener.group)?;
    let target = table.get(slot as usize).copied();
    Some(Slot {
        input,
        slot,
        slots: listener.table_size,
        target: target.filter(|&id| id != NO_TARGET).map(u32::from),
    })
}

fn key<A: Address>(ends: &Ends, source: A, destination: A) -> FlowKey<A> {
    let endpoints = Endpoints {
        source,
        destination,
        source_port: Be16::new(ends.source.port()),
        destination_port: Be16::new(ends.destination.port()),
    };
    FlowKey::new(endpoints, ends.protocol)
}

/// What picks the target, in the words of the configuration, and its hash.
fn hash_of<A: Address>(
    hash_key: u64,
    listener: &ListenerEntry,
    key: &FlowKey<A>,
) -> (&'static str, u64) {
    if listener.has(ListenerEntry::HASH_SOURCE) {
        ("source_ip", hash::source(hash_key, key))
    } else if listener.has(ListenerEntry::HASH_PORT) {
        ("destination_port", hash::destination_port(hash_key, key))
    } else {
        ("flow", hash::flow(hash_key, key))
    }
}

#[cfg(test)]
mod tests;
