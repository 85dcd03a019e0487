//! The contents of the maps that the agent writes, and changes of them.

use std::collections::BTreeMap;

use lb_common::{
    limits::{NO_TARGET, SLOTS_PER_ELEMENT},
    listener::{ListenerEntry, ListenerKey4},
    settings::{InterfaceEntry, Settings},
    target::TargetEntry,
};

/// What a table's map holds at one index.
pub type Element = [u16; SLOTS_PER_ELEMENT as usize];

/// The complete contents of the agent's maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapState {
    pub settings: Settings,
    /// By interface index.
    pub interfaces: BTreeMap<u32, InterfaceEntry>,
    pub listeners: BTreeMap<ListenerKey4, ListenerEntry>,
    /// Maglev tables by group id.
    pub tables: BTreeMap<u32, Vec<u16>>,
    /// By target id.
    pub targets: BTreeMap<u32, TargetEntry>,
}

/// One write to the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    SetSettings(Settings),
    SetInterface(u32, InterfaceEntry),
    RemoveInterface(u32),
    SetTarget(u32, TargetEntry),
    ClearTarget(u32),
    /// A table for a group that has none of this size.
    CreateTable {
        group: u32,
        slots: Vec<u16>,
    },
    /// Elements of a group's table, by index.
    SetSlots {
        group: u32,
        elements: Vec<(u32, Element)>,
    },
    RemoveTable {
        group: u32,
    },
    SetListener(ListenerKey4, ListenerEntry),
    RemoveListener(ListenerKey4),
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
            Change::SetTarget(id, entry) => {
                self.targets.insert(*id, *entry);
            }
            Change::ClearTarget(id) => {
                self.targets.remove(id);
            }
            Change::CreateTable { group, slots } => {
                self.tables.insert(*group, slots.clone());
            }
            Change::SetSlots { group, elements } => {
                if let Some(slots) = self.tables.get_mut(group) {
                    for (index, element) in elements {
                        let first = (index * SLOTS_PER_ELEMENT) as usize;
                        let room = element.len().min(slots.len().saturating_sub(first));
                        slots[first..first + room].copy_from_slice(&element[..room]);
                    }
                }
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
        }
    }
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
