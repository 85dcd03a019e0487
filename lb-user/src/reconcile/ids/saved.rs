//! Ids as the next agent gets them. What flows depend on is a target's id and
//! its generation, and of those the maps themselves are the truth: what the
//! agent before has written down is used as far as they agree, and what it
//! hasn't is told from them.

use std::collections::BTreeSet;

use lb_common::{flow, target::TargetEntry, wire::wide};
use serde::{Deserialize, Serialize};

use super::{Ids, Pool, TargetKey};
use crate::{
    config::{Capacity, Config, Listener, Ports, Protocol},
    reconcile::{MapState, Place, PlacePorts},
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedIds {
    listeners: SavedPool<String>,
    groups: SavedPool<String>,
    targets: SavedPool<TargetKey>,
    security_groups: SavedPool<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedPool<K> {
    owners: Vec<(K, u32)>,
    /// Ids without an owner that had one, the last one last.
    released: Vec<u32>,
    /// Of ids that were given out.
    generations: Vec<(u32, u32)>,
}

impl<K> Default for SavedPool<K> {
    fn default() -> Self {
        Self {
            owners: Vec::new(),
            released: Vec::new(),
            generations: Vec::new(),
        }
    }
}

impl Ids {
    #[must_use]
    pub fn save(&self) -> SavedIds {
        SavedIds {
            listeners: self.listeners.save(),
            groups: self.groups.save(),
            targets: self.targets.save(),
            security_groups: self.security_groups.save(),
        }
    }

    /// The ids that were saved, as far as what the maps hold agrees, with room
    /// for `capacity`.
    #[must_use]
    pub fn restore(capacity: Capacity, saved: SavedIds, maps: &MapState) -> Self {
        let listeners = maps.listeners.values();
        let groups = listeners.clone().map(|listener| listener.group);
        let security_groups = maps.security_groups.keys();
        let mut empty = Self::new(capacity);
        let mut targets = saved.targets;
        let fits = |(key, id): &(TargetKey, u32)| {
            let generation = targets.generations.iter().find(|(other, _)| other == id);
            let entry = maps.targets.get(id);
            entry.is_none_or(|entry| {
                is_of(key, entry) && generation.is_some_and(|&(_, it)| it == entry.generation)
            })
        };
        let owners = targets.owners.iter().filter(|owner| fits(owner));
        targets.owners = owners.cloned().collect();
        empty
            .listeners
            .restore(saved.listeners, &listeners.map(|it| it.id).collect());
        empty.groups.restore(saved.groups, &groups.collect());
        empty.security_groups.restore(
            saved.security_groups,
            &security_groups.map(|id| id - 1).collect(),
        );
        empty
            .targets
            .restore(targets, &maps.targets.keys().copied().collect());
        for (&id, entry) in &maps.targets {
            if let Some(generation) = empty.targets.generations.get_mut(id as usize) {
                *generation = entry.generation.max(*generation);
            }
        }
        empty
    }

    /// Gives what is in `config` and has no id the one that the maps have it
    /// under, as far as it can be told.
    pub fn recognise(&mut self, config: &Config, maps: &MapState) {
        // Those with an address first: they win over those without.
        let (exact, any): (Vec<&Listener>, Vec<&Listener>) = config
            .listeners
            .iter()
            .partition(|listener| listener.address.is_some());
        for listener in exact.into_iter().chain(any) {
            self.recognise_listener(config, listener, maps);
        }
        let owned: BTreeSet<u32> = self.targets.owners.values().copied().collect();
        let mut others = maps.targets.clone();
        others.retain(|id, _| !owned.contains(id));
        for key in TargetKey::all(config) {
            if others.is_empty() {
                return;
            }
            if self.target(&key).is_some() {
                continue;
            }
            let found = others.iter().find(|(_, entry)| is_of(&key, entry));
            if let Some(id) = found.map(|(&id, _)| id) {
                others.remove(&id);
                self.targets.claim(key, id);
            }
        }
    }

    fn recognise_listener(&mut self, config: &Config, listener: &Listener, maps: &MapState) {
        if self.listener(&listener.name).is_some() {
            return;
        }
        let mut places = maps.listeners.iter();
        let Some((_, entry)) = places.find(|(place, _)| is_at(listener, place)) else {
            return;
        };
        let group = &config.target_groups[listener.target_group].name;
        self.listeners.claim(listener.name.clone(), entry.id);
        self.groups.claim(group.clone(), entry.group);
        let security_group = listener.security_group;
        if let Some((index, id)) = security_group.zip(entry.security_group.checked_sub(1)) {
            let name = config.security_groups[index].name.clone();
            self.security_groups.claim(name, id.into());
        }
    }
}

/// Whether an entry may be a target's.
fn is_of(key: &TargetKey, entry: &TargetEntry) -> bool {
    let is_there = match key.address {
        None => entry.has(TargetEntry::LOCAL) && entry.address == [0; 4],
        Some(address) => {
            entry.address == wide(address) && entry.has(TargetEntry::IPV6) == address.is_ipv6()
        }
    };
    is_there && entry.port.get() == key.port
}

/// Whether a listener would have an entry there.
fn is_at(listener: &Listener, place: &Place) -> bool {
    let protocol = match listener.protocol {
        Protocol::Tcp => flow::TCP,
        Protocol::Udp => flow::UDP,
    };
    let has_port = match (listener.ports, place.ports) {
        (Ports::One(port), PlacePorts::One(other)) => port.get() == other,
        (Ports::Range { first, .. }, PlacePorts::Block(block)) => first == block.first,
        _ => false,
    };
    let has_address = listener.address.is_none_or(|it| it == place.address);
    protocol == place.protocol && has_port && has_address
}

impl<K: Ord + Clone> Pool<K> {
    fn save(&self) -> SavedPool<K> {
        let given = |&id: &u32| self.generations[id as usize] != 0;
        let owners = self.owners.iter();
        let generations = (0..).zip(self.generations.iter().copied());
        SavedPool {
            owners: owners.map(|(owner, &id)| (owner.clone(), id)).collect(),
            released: self.free.iter().copied().filter(given).collect(),
            generations: generations.filter(|&(_, it)| it != 0).collect(),
        }
    }

    /// Into a new pool. What is `in_use` without an owner is given out last.
    fn restore(&mut self, saved: SavedPool<K>, in_use: &BTreeSet<u32>) {
        for (id, generation) in saved.generations {
            if let Some(known) = self.generations.get_mut(id as usize) {
                *known = generation;
            }
        }
        let released = |id: u32| saved.released.iter().position(|&it| it == id);
        let rank = |id: u32| {
            let given = self.generations[id as usize] != 0;
            (in_use.contains(&id), given, given.then(|| released(id)))
        };
        self.free
            .make_contiguous()
            .sort_by_cached_key(|&id| rank(id));
        for (owner, id) in saved.owners {
            self.claim(owner, id);
        }
    }
}

#[cfg(test)]
mod tests;
