//! The listeners' entries: of each of their addresses, in the hash or the trie.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry as Slot},
    net::IpAddr,
    ops::RangeInclusive,
};

use lb_common::{
    flow,
    limits::{MAX_LISTENER_ADDRESSES, MAX_LISTENER_RANGES},
    listener::{ListenerEntry, ListenerLimits, VipEntry},
};

use super::{Inputs, Problems, report};
use crate::{
    address::{Family, is_global},
    config::{HashInput, Limits, Listener, Ports, Protocol},
    reconcile::{
        MapState, Place, PlacePorts, Problem,
        ports::{blocks, without},
    },
};

/// Adds all listeners, and the addresses that they have.
pub(super) fn add(inputs: &Inputs<'_>, state: &mut MapState, problems: &mut Problems) {
    // Those with an address first: they win over those without.
    let (exact, any): (Vec<_>, Vec<_>) = inputs
        .config
        .listeners
        .iter()
        .partition(|listener| listener.address.is_some());
    let mut places = Places::default();
    for listener in exact.into_iter().chain(any) {
        let Some(entry) = entry(inputs, listener) else {
            continue;
        };
        if let Some(limits) = listener.limits {
            state.limits.insert(entry.id, listener_limits(limits));
        }
        if let Some(index) = listener.security_group {
            let rules = inputs.config.security_groups[index].rules.clone();
            let id = entry.security_group.into();
            state.security_groups.insert(id, rules);
        }
        for address in addresses(inputs, listener, problems) {
            if let Err(problem) = places.add(listener, address, entry) {
                report(problems, problem);
                continue;
            }
            let owned = match inputs.host.owns(address) {
                true => 0,
                false => VipEntry::OWNED,
            };
            let ranges = match listener.ports {
                Ports::One(_) => 0,
                Ports::Range { .. } => VipEntry::RANGES,
            };
            state.vips.entry(address).or_default().flags |= owned | ranges;
        }
    }
    state.listeners = places.entries;
}

fn entry(inputs: &Inputs<'_>, listener: &Listener) -> Option<ListenerEntry> {
    let group = &inputs.config.target_groups[listener.target_group];
    let hash = match group.hash {
        HashInput::Flow => 0,
        HashInput::SourceIp => ListenerEntry::HASH_SOURCE,
        HashInput::DestinationPort => ListenerEntry::HASH_PORT,
    };
    let limited = match listener.limits {
        Some(_) => ListenerEntry::LIMITED,
        None => 0,
    };
    let security_group = match listener.security_group {
        // Without an id nobody comes, rather than everybody.
        Some(index) => {
            let group = &inputs.config.security_groups[index];
            inputs.ids.security_group(&group.name)?
        }
        None => 0,
    };
    Some(ListenerEntry {
        id: inputs.ids.listener(&listener.name)?,
        group: inputs.ids.group(&group.name)?,
        table_size: group.table_size,
        flags: hash | limited,
        security_group,
    })
}

fn listener_limits(limits: Limits) -> ListenerLimits {
    ListenerLimits {
        new_flows: limits.new_flows.unwrap_or(0),
        new_flows_per_source: limits.new_flows_per_source.unwrap_or(0),
        prefix_v4: limits.source_prefix_v4.into(),
        prefix_v6: limits.source_prefix_v6.into(),
    }
}

/// A listener's own address, or those of the interfaces that its targets can
/// be reached from.
fn addresses(inputs: &Inputs<'_>, listener: &Listener, problems: &mut Problems) -> Vec<IpAddr> {
    if let Some(address) = listener.address {
        return vec![address];
    }
    let family = inputs.config.target_groups[listener.target_group].family();
    let fits = |address: &IpAddr| {
        is_global(*address) && family.is_none_or(|family| family == Family::of(*address))
    };
    let mut all = Vec::new();
    for name in &inputs.config.interfaces {
        // One that is missing has been reported as such.
        let Some(interface) = inputs.host.interface(name) else {
            continue;
        };
        let before = all.len();
        all.extend(interface.addresses.iter().copied().filter(fits));
        if all.len() == before {
            let name = name.clone();
            report(problems, Problem::NoAddress { name, family });
        }
    }
    all
}

/// The entries so far, and what is taken.
#[derive(Default)]
struct Places {
    entries: BTreeMap<Place, ListenerEntry>,
    /// Ranges of listeners with an address.
    ranges: HashMap<(IpAddr, Protocol), Vec<RangeInclusive<u16>>>,
    /// Entries in the hash and in the trie of each family.
    counts: BTreeMap<(Family, bool), u32>,
}

impl Places {
    /// Adds a listener's ports at one address, except those that have an entry
    /// already, all or none.
    fn add(
        &mut self,
        listener: &Listener,
        address: IpAddr,
        entry: ListenerEntry,
    ) -> Result<(), Problem> {
        let family = Family::of(address);
        let protocol = listener.protocol;
        let (ports, limit, full) = match listener.ports {
            Ports::One(port) => {
                let limit = MAX_LISTENER_ADDRESSES;
                let full = Problem::TooManyAddresses { family, limit };
                (vec![PlacePorts::One(port.get())], limit, full)
            }
            Ports::Range { first, last } => {
                let limit = MAX_LISTENER_RANGES;
                let full = Problem::TooManyRanges { family, limit };
                let taken = self.ranges.entry((address, protocol)).or_default();
                let free = without(&(first..=last), taken);
                if listener.address.is_some() {
                    taken.push(first..=last);
                }
                let blocks = free.iter().flat_map(blocks).map(PlacePorts::Block);
                (blocks.collect(), limit, full)
            }
        };
        let is_range = matches!(listener.ports, Ports::Range { .. });
        let count = self.counts.entry((family, is_range)).or_default();
        if *count + ports.len() as u32 > limit {
            return Err(full);
        }
        for ports in ports {
            let place = Place {
                address,
                protocol: number(protocol),
                ports,
            };
            if let Slot::Vacant(slot) = self.entries.entry(place) {
                slot.insert(entry);
                *count += 1;
            }
        }
        Ok(())
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => flow::TCP,
        Protocol::Udp => flow::UDP,
    }
}
