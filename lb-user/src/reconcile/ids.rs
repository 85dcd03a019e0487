//! Who has which id. An id is an index of a map, so it must be small and must
//! not change while its owner lives; who has gone may still have flows that
//! name it, so an id is used again as late as can be, and a target's only with
//! a new generation.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::IpAddr,
    num::NonZeroU16,
};

use serde::{Deserialize, Serialize};

use crate::{
    address::with_port,
    config::{Capacity, Config, Ports, Target, TargetGroup},
};

/// A target as the agent knows it: within its group, by address and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TargetKey {
    pub group: String,
    /// `None`: this host.
    pub address: Option<IpAddr>,
    /// 0: the port that the client used.
    pub port: u16,
}

/// As the configuration has it.
impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self.port {
            0 => with_port(self.address, Ports::ALL),
            port => with_port(self.address, port),
        })
    }
}

impl TargetKey {
    #[must_use]
    pub fn new(group: &TargetGroup, target: &Target) -> Self {
        Self {
            group: group.name.clone(),
            address: target.address,
            port: target.port.map_or(0, NonZeroU16::get),
        }
    }

    /// Every target of the configuration.
    pub fn all(config: &Config) -> impl Iterator<Item = Self> {
        let groups = config.target_groups.iter();
        groups.flat_map(|group| group.targets.iter().map(|it| Self::new(group, it)))
    }
}

/// The ids in use.
#[derive(Clone, Debug)]
pub struct Ids {
    listeners: Pool<String>,
    groups: Pool<String>,
    targets: Pool<TargetKey>,
    security_groups: Pool<String>,
}

impl Ids {
    /// None in use yet.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        Self {
            listeners: Pool::new(capacity.listeners),
            groups: Pool::new(lb_common::limits::MAX_GROUPS),
            targets: Pool::new(capacity.targets),
            security_groups: Pool::new(lb_common::limits::MAX_SECURITY_GROUPS),
        }
    }

    /// Gives everything in `config` an id, and takes back those of what is not
    /// in it any more, but for targets that drain.
    pub fn assign(&mut self, config: &Config, draining: &BTreeSet<TargetKey>) {
        self.listeners.assign(
            config
                .listeners
                .iter()
                .map(|listener| listener.name.clone()),
        );
        self.groups
            .assign(config.target_groups.iter().map(|group| group.name.clone()));
        self.targets
            .assign(TargetKey::all(config).chain(draining.iter().cloned()));
        let security_groups = config.security_groups.iter();
        self.security_groups
            .assign(security_groups.map(|group| group.name.clone()));
    }

    #[must_use]
    pub fn listener(&self, name: &str) -> Option<u32> {
        self.listeners.get(name)
    }

    #[must_use]
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups.get(name)
    }

    #[must_use]
    pub fn target(&self, key: &TargetKey) -> Option<u32> {
        self.targets.get(key)
    }

    /// Never 0, which is none.
    #[must_use]
    pub fn security_group(&self, name: &str) -> Option<u16> {
        let id = self.security_groups.get(name)? + 1;
        u16::try_from(id).ok()
    }

    /// The generation of a target's id; never 0.
    #[must_use]
    pub fn generation(&self, id: u32) -> u32 {
        self.targets
            .generations
            .get(id as usize)
            .copied()
            .unwrap_or(1)
            .max(1)
    }
}

/// Ids from 0 on. Those given back wait behind all that are free already.
#[derive(Clone, Debug)]
struct Pool<K> {
    owners: BTreeMap<K, u32>,
    free: VecDeque<u32>,
    /// How often each id has been given out.
    generations: Vec<u32>,
}

impl<K: Ord> Pool<K> {
    fn new(size: u32) -> Self {
        Self {
            owners: BTreeMap::new(),
            free: (0..size).collect(),
            generations: vec![0; size as usize],
        }
    }

    fn get<Q: Ord + ?Sized>(&self, owner: &Q) -> Option<u32>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.owners.get(owner).copied()
    }

    /// Who finds no free id has none; the validated configuration fits.
    fn assign(&mut self, owners: impl Iterator<Item = K>) {
        let owners: BTreeSet<K> = owners.collect();
        let free = &mut self.free;
        self.owners.retain(|owner, id| {
            let stays = owners.contains(owner);
            if !stays {
                free.push_back(*id);
            }
            stays
        });
        for owner in owners {
            if self.owners.contains_key(&owner) {
                continue;
            }
            if let Some(id) = self.free.pop_front() {
                let generation = &mut self.generations[id as usize];
                *generation = generation.wrapping_add(1).max(1);
                self.owners.insert(owner, id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_and_come_back_last_with_a_new_generation() {
        let mut pool = Pool::new(3);
        pool.assign(["a", "b"].into_iter());
        assert_eq!((pool.get("a"), pool.get("b")), (Some(0), Some(1)));
        pool.assign(["b"].into_iter());
        pool.assign(["b", "c"].into_iter());
        assert_eq!(
            (pool.get("b"), pool.get("c")),
            (Some(1), Some(2)),
            "0 waits behind 2"
        );
        pool.assign(["b", "c", "d"].into_iter());
        assert_eq!(pool.get("d"), Some(0));
        assert_eq!(pool.generations, [2, 1, 1]);
        pool.assign(["b", "c", "d", "e"].into_iter());
        assert_eq!(pool.get("e"), None, "there are three");
    }
}
