//! Going on where another agent has ended.

use tracing::{info, warn};

use super::{Agent, state::Saved};
use crate::{
    health::Health,
    reconcile::{Ids, TargetKey},
    registry::{Clock, Now, Registry},
};
use lb_common::target::TargetEntry;

impl Agent {
    /// Takes over what the maps hold and what the agent before has written down.
    /// Without the latter it goes by the maps alone.
    pub(super) fn adopt(&mut self, saved: Option<Saved>) -> anyhow::Result<()> {
        self.applied = self.dataplane.observe()?;
        let clock = Clock::read()?;
        self.has_history = saved.is_some();
        if saved.is_none() {
            warn!(
                "nothing is known of the agent before but the maps: targets that drain end now, \
                 and addresses that it has added stay"
            );
        }
        let saved = saved.unwrap_or_default();
        self.inherit(&saved);
        self.ids = Ids::restore(self.config.capacity, saved.ids, &self.applied);
        self.ids.recognise(&self.config, &self.applied);
        self.registry = Registry::restore(saved.targets, clock).with_overrides(saved.overrides);
        self.presume_healthy();
        let retiring = saved.retiring.iter();
        self.retiring = retiring
            .map(|&(address, end)| (address, clock.instant(end)))
            .collect();
        let targets = self.applied.targets.len();
        info!(targets, "adopted what another agent has left");
        Ok(())
    }

    /// Takes over what the agent before has added to interfaces: that is there
    /// even if the maps are gone.
    pub(super) fn inherit(&mut self, saved: &Saved) {
        self.qdiscs = saved.qdiscs.iter().copied().collect();
        self.managed.clone_from(&saved.addresses);
    }

    /// Forgets what the agent before had added and what has gone since.
    pub(super) fn forget_gone(&mut self) {
        let interfaces = &self.host.interfaces;
        self.qdiscs.retain(|index| interfaces.contains_key(index));
        self.managed.retain(|(index, address)| {
            let interface = interfaces.get(index);
            interface.is_some_and(|interface| interface.addresses.contains(address))
        });
    }

    /// A target that takes flows goes on with it, whatever is written down.
    fn presume_healthy(&mut self) {
        let now = Now::read();
        for key in TargetKey::all(&self.config) {
            let entry = self
                .ids
                .target(&key)
                .and_then(|id| self.applied.targets.get(&id));
            let health = self.registry.get(&key).map(|target| target.health.health);
            let is_unknown = matches!(health, None | Some(Health::Initial));
            if is_unknown && entry.is_some_and(|entry| entry.has(TargetEntry::ACCEPTS)) {
                self.registry.presume_healthy(key, now);
            }
        }
    }
}
