//! What the maps hold, as an agent finds it that adopts them.

use std::{collections::BTreeMap, os::fd::AsFd as _, sync::Arc};

use lb_common::limits::MAX_GROUPS;

use super::{MapError, Maps, syscall};
use crate::reconcile::{MapState, UNKNOWN_SLOT};

impl Maps {
    /// Reads all that the agent writes.
    pub(in crate::dataplane) fn observe(&mut self) -> Result<MapState, MapError> {
        let mut state = MapState {
            settings: self.settings.get(&0, 0).map_err(unread("SETTINGS"))?,
            ..MapState::default()
        };
        for entry in self.interfaces.iter() {
            let (index, entry) = entry.map_err(unread("INTERFACES"))?;
            state.interfaces.insert(index, entry);
        }
        for mac in self.macs.keys() {
            state.macs.insert(mac.map_err(unread("MACS"))?);
        }
        for (id, entry) in (0..).zip(self.targets.iter()) {
            let entry = entry.map_err(unread("TARGETS"))?;
            if entry.generation != 0 {
                state.targets.insert(id, entry);
            }
        }
        for (id, limits) in (0..).zip(self.limits.iter()) {
            let limits = limits.map_err(unread("LISTENER_LIMITS"))?;
            if limits != Default::default() {
                state.limits.insert(id, limits);
            }
        }
        let mut rules = BTreeMap::new();
        self.v4.observe(&mut state, &mut rules)?;
        self.v6.observe(&mut state, &mut rules)?;
        for (group, mut rules) in rules {
            rules.sort_unstable_by_key(|&(prefix, _)| prefix);
            state.security_groups.insert(group, Arc::from(rules));
        }
        self.observe_tables(&mut state)?;
        // The next sweep sees whose target has left since.
        self.swept_targets = self
            .targets
            .iter()
            .collect::<Result<_, _>>()
            .map_err(unread("TARGETS"))?;
        Ok(state)
    }

    /// The tables themselves can't be opened without CAP_SYS_ADMIN. Their sizes
    /// are known from the listeners that use them.
    fn observe_tables(&self, state: &mut MapState) -> Result<(), MapError> {
        let sizes: BTreeMap<u32, u32> = state
            .listeners
            .values()
            .map(|listener| (listener.group, listener.table_size))
            .collect();
        for group in 0..MAX_GROUPS {
            let table: Option<u32> =
                syscall::look_up(self.maglev.as_fd(), &group).map_err(|source| {
                    MapError::System {
                        action: "read",
                        name: "MAGLEV",
                        source,
                    }
                })?;
            if table.is_some() {
                let size = sizes.get(&group).copied().unwrap_or(1);
                state
                    .tables
                    .insert(group, vec![UNKNOWN_SLOT; size as usize].into());
            }
        }
        Ok(())
    }
}

pub(super) fn unread(name: &'static str) -> impl FnOnce(aya::maps::MapError) -> MapError {
    move |source| MapError::Access {
        action: "read",
        name,
        source,
    }
}
