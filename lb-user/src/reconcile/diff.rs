//! What to write so that the maps hold what they should.

mod rules;

use std::{collections::BTreeMap, sync::Arc};

use super::state::{Change, Element, MapState, Slots, UNKNOWN_SLOT, elements};

/// The changes from `observed` to `desired`, in an order in which each state
/// between is sound: a target is known before a slot names it, a table is there
/// before a listener names it and never has fewer slots than the listener says,
/// and both go only after what names them; so it is with a listener's limits and
/// its security group. A target that may have no new flow
/// is told first of all, in one write.
#[must_use]
pub fn diff(observed: &MapState, desired: &MapState) -> Vec<Change> {
    let mut changes = Vec::new();
    if observed.settings != desired.settings {
        changes.push(Change::SetSettings(desired.settings));
    }
    for (&index, &entry) in new(&observed.interfaces, &desired.interfaces) {
        changes.push(Change::SetInterface(index, entry));
    }
    for &index in gone(&observed.interfaces, &desired.interfaces) {
        changes.push(Change::RemoveInterface(index));
    }
    for &mac in desired.macs.difference(&observed.macs) {
        changes.push(Change::AddMac(mac));
    }
    for &mac in observed.macs.difference(&desired.macs) {
        changes.push(Change::RemoveMac(mac));
    }
    set_targets(observed, desired, &mut changes);
    let (shrinking, tables): (Vec<_>, Vec<_>) = new(&observed.tables, &desired.tables)
        .map(|(&group, slots)| (group, observed.tables.get(&group), slots))
        .partition(|(_, old, slots)| old.is_some_and(|old| old.len() > slots.len()));
    for (group, old, slots) in tables {
        changes.push(table(group, old, slots));
    }
    for (&id, &limits) in new(&observed.limits, &desired.limits) {
        changes.push(Change::SetLimits(id, limits));
    }
    for (&id, rules) in &desired.security_groups {
        changes.extend(rules::set(id, observed.security_groups.get(&id), rules));
    }
    for (&key, &entry) in new(&observed.listeners, &desired.listeners) {
        changes.push(Change::SetListener(key, entry));
    }
    for &key in gone(&observed.listeners, &desired.listeners) {
        changes.push(Change::RemoveListener(key));
    }
    for (&address, &entry) in new(&observed.vips, &desired.vips) {
        changes.push(Change::SetVip(address, entry));
    }
    for &address in gone(&observed.vips, &desired.vips) {
        changes.push(Change::RemoveVip(address));
    }
    for &id in gone(&observed.limits, &desired.limits) {
        changes.push(Change::ClearLimits(id));
    }
    for &id in gone(&observed.security_groups, &desired.security_groups) {
        changes.push(rules::remove(id, &observed.security_groups[&id]));
    }
    for (group, old, slots) in shrinking {
        changes.push(table(group, old, slots));
    }
    for &group in gone(&observed.tables, &desired.tables) {
        changes.push(Change::RemoveTable { group });
    }
    for &id in gone(&observed.targets, &desired.targets) {
        changes.push(Change::ClearTarget(id));
    }
    changes
}

/// As [`diff`], but of the targets and tables in `desired` alone, which is a
/// [group's part](super::desired_group): of what isn't there nothing is removed.
#[must_use]
pub fn diff_group(observed: &MapState, desired: &MapState) -> Vec<Change> {
    let mut changes = Vec::new();
    set_targets(observed, desired, &mut changes);
    for (&group, slots) in new(&observed.tables, &desired.tables) {
        changes.push(table(group, observed.tables.get(&group), slots));
    }
    changes
}

fn set_targets(observed: &MapState, desired: &MapState, changes: &mut Vec<Change>) {
    for (&id, &entry) in new(&observed.targets, &desired.targets) {
        // Its counters are those of the id's former holder.
        if observed
            .targets
            .get(&id)
            .is_some_and(|old| old.generation != entry.generation)
        {
            changes.push(Change::ClearTarget(id));
        }
        changes.push(Change::SetTarget(id, entry));
    }
}

/// Entries of `desired` that are not, or not so, in `observed`.
fn new<'a, K: Ord, V: PartialEq>(
    observed: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    desired
        .iter()
        .filter(|&(key, value)| observed.get(key) != Some(value))
}

/// Keys of `observed` that are not in `desired`.
fn gone<'a, K: Ord, V>(
    observed: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    observed.keys().filter(|key| !desired.contains_key(key))
}

/// Only what changed, unless the table is new, of another size, or not known.
fn table(group: u32, observed: Option<&Slots>, desired: &Slots) -> Change {
    let is_like = |observed: &&Slots| {
        observed.len() == desired.len() && observed.first() != Some(&UNKNOWN_SLOT)
    };
    let Some(observed) = observed.filter(is_like) else {
        return Change::CreateTable {
            group,
            slots: Arc::clone(desired),
        };
    };
    let changed: Vec<(u32, Element)> = (0u32..)
        .zip(elements(observed).into_iter().zip(elements(desired)))
        .filter(|(_, (old, new))| old != new)
        .map(|(index, (_, new))| (index, new))
        .collect();
    Change::SetSlots {
        group,
        slots: Arc::clone(desired),
        elements: changed,
    }
}

#[cfg(test)]
mod tests;
