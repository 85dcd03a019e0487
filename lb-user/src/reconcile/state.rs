//! The contents of the maps that the agent writes, and changes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::{
    limits::{NO_TARGET, SLOTS_PER_ELEMENT},
    listener::{ListenerEntry, ListenerLimits, VipEntry},
    settings::{InterfaceEntry, Settings},
    target::TargetEntry,
};

use super::ports::Block;
use crate::{
    address::Prefix,
    config::{Rule, Rules},
};

/// What a table's map holds at one index.
pub type Element = [u16; SLOTS_PER_ELEMENT as usize];

/// A Maglev table: the target id of each slot. Shared, for it may be a
/// hundred kilobytes and more, and whoever knows of the group has it.
pub type Slots = Arc<[u16]>;

/// A slot of a table that another agent has made, of which only the size is
/// known. No target has this id.
pub const UNKNOWN_SLOT: u16 = NO_TARGET - 1;

/// Where an entry of a listener stands: in the maps of its address's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub address: IpAddr,
    /// [`lb_common::flow::TCP`] or [`lb_common::flow::UDP`].
    pub protocol: u8,
    pub ports: PlacePorts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PlacePorts {
    /// In the hash, which is asked first.
    One(u16),
    /// In the trie.
    Block(Block),
}

impl Place {
    /// One port, which may not be 0 (host order).
    #[must_use]
    pub fn port(address: impl Into<IpAddr>, port: u16, protocol: u8) -> Self {
        Self {
            address: address.into(),
            protocol,
            ports: PlacePorts::One(port),
        }
    }
}

/// The complete contents of the agent's maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapState {
    pub settings: Settings,
    /// By interface index.
    pub interfaces: BTreeMap<u32, InterfaceEntry>,
    /// Link-layer addresses of this host, six bytes as they lie in memory.
    pub macs: BTreeSet<u64>,
    pub listeners: BTreeMap<Place, ListenerEntry>,
    /// By listener id; those without limits aren't there.
    pub limits: BTreeMap<u32, ListenerLimits>,
    /// By security group id.
    pub security_groups: BTreeMap<u32, Rules>,
    /// By the addresses that listeners have.
    pub vips: BTreeMap<IpAddr, VipEntry>,
    /// Maglev tables by group id.
    pub tables: BTreeMap<u32, Slots>,
    /// By target id.
    pub targets: BTreeMap<u32, TargetEntry>,
}

/// One write to the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    SetSettings(Settings),
    SetInterface(u32, InterfaceEntry),
    RemoveInterface(u32),
    AddMac(u64),
    RemoveMac(u64),
    SetTarget(u32, TargetEntry),
    ClearTarget(u32),
    /// A table for a group that has none of this size.
    CreateTable {
        group: u32,
        slots: Slots,
    },
    /// Elements of a group's table that are other than they were, by index.
    SetSlots {
        group: u32,
        /// All that it has then.
        slots: Slots,
        elements: Vec<(u32, Element)>,
    },
    RemoveTable {
        group: u32,
    },
    SetListener(Place, ListenerEntry),
    RemoveListener(Place),
    SetLimits(u32, ListenerLimits),
    ClearLimits(u32),
    /// Rules of a security group that are new or other than they were, and
    /// prefixes that have none any more.
    SetRules {
        id: u32,
        /// All that it has then.
        rules: Rules,
        set: Vec<(Prefix, Rule)>,
        gone: Vec<Prefix>,
    },
    RemoveRules {
        id: u32,
        gone: Vec<Prefix>,
    },
    SetVip(IpAddr, VipEntry),
    RemoveVip(IpAddr),
}

impl MapState {
    /// What the maps hold after `change`.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::SetSettings(settings) => self.settings = *settings,
            Change::SetInterface(index, entry) => {
                self.interfaces.insert(*index, *entry);
            }
            Change::RemoveInterface(index) => {
                self.interfaces.remove(index);
            }
            Change::AddMac(mac) => {
                self.macs.insert(*mac);
            }
            Change::RemoveMac(mac) => {
                self.macs.remove(mac);
            }
            Change::SetTarget(id, entry) => {
                self.targets.insert(*id, *entry);
            }
            Change::ClearTarget(id) => {
                self.targets.remove(id);
            }
            Change::CreateTable { group, slots } | Change::SetSlots { group, slots, .. } => {
                self.tables.insert(*group, Arc::clone(slots));
            }
            Change::RemoveTable { group } => {
                self.tables.remove(group);
            }
            Change::SetListener(key, entry) => {
                self.listeners.insert(*key, *entry);
            }
            Change::RemoveListener(key) => {
                self.listeners.remove(key);
            }
            Change::SetLimits(id, limits) => {
                self.limits.insert(*id, *limits);
            }
            Change::ClearLimits(id) => {
                self.limits.remove(id);
            }
            Change::SetRules { id, rules, .. } => {
                self.security_groups.insert(*id, rules.clone());
            }
            Change::RemoveRules { id, .. } => {
                self.security_groups.remove(id);
            }
            Change::SetVip(address, entry) => {
                self.vips.insert(*address, *entry);
            }
            Change::RemoveVip(address) => {
                self.vips.remove(address);
            }
        }
    }
}

/// Tables that are made together, at the most.
const TABLES: usize = 64;

/// The changes in their order, but new tables that follow each other together.
pub fn runs(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    let is_table = |change: &Change| matches!(change, Change::CreateTable { .. });
    changes
        .chunk_by(move |one, next| is_table(one) && is_table(next))
        .flat_map(|run| run.chunks(TABLES))
}

/// A table's slots as the elements of its map; the last one is filled up.
#[must_use]
pub fn elements(slots: &[u16]) -> Vec<Element> {
    slots
        .chunks(SLOTS_PER_ELEMENT as usize)
        .map(|chunk| {
            let mut element = [NO_TARGET; SLOTS_PER_ELEMENT as usize];
            element[..chunk.len()].copy_from_slice(chunk);
            element
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_tables_are_run_together_and_not_too_many() {
        let table = |group| Change::CreateTable {
            group,
            slots: Arc::default(),
        };
        let mut changes = vec![Change::ClearTarget(1), Change::ClearTarget(2)];
        changes.extend((0..100).map(table));
        changes.extend([Change::RemoveTable { group: 7 }, table(7), table(8)]);
        let lengths: Vec<usize> = runs(&changes).map(<[Change]>::len).collect();
        assert_eq!(lengths, [1, 1, 64, 36, 1, 2]);
        assert_eq!(runs(&changes).collect::<Vec<_>>().concat(), changes);
    }
}
