//! Listeners' addresses that no interface has: added while xlb needs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::Agent;
use crate::config::Config;

impl Agent {
    /// Adds those of `wanted` that no interface has to the first one.
    pub(super) async fn add_addresses(&mut self, wanted: BTreeSet<IpAddr>) -> anyhow::Result<()> {
        let first = self.config.interfaces.first();
        let Some(interface) = first.and_then(|name| self.host.interface(name)) else {
            return Ok(());
        };
        let interface = interface.index;
        for address in wanted {
            if !self.host.owns(address) && !self.managed.contains(&(interface, address)) {
                // First, so that it is known if this ends here.
                self.managed.push((interface, address));
                self.state.touch();
                self.netlink.add_address(interface, address).await?;
                info!(%address, "address added");
            }
        }
        Ok(())
    }

    /// Takes note of when the addresses go that `before` wanted and the present
    /// configuration doesn't: flows to them go on as long as to a target that
    /// was removed.
    pub(super) fn retire_addresses(&mut self, before: &Config, now: Instant) {
        let wanted = wanted(&self.config);
        self.retiring.retain(|address, _| !wanted.contains(address));
        for &(_, address) in &self.managed {
            if !wanted.contains(&address) {
                let end = now + delay(before, address);
                self.retiring.entry(address).or_insert(end);
            }
        }
        self.state.touch();
    }

    /// The same for what the agent before had added: whose delay that was isn't
    /// known any more, but who drains is.
    pub(super) fn retire_inherited(&mut self, now: Instant) {
        let wanted = wanted(&self.config);
        self.retiring.retain(|address, _| !wanted.contains(address));
        let drains = self.registry.draining();
        let last = drains.filter_map(|(_, target)| target.ends).max();
        for &(_, address) in &self.managed {
            if !wanted.contains(&address) {
                self.retiring.entry(address).or_insert(last.unwrap_or(now));
            }
        }
    }

    /// Removes the addresses whose time is over.
    pub(super) async fn remove_retired(&mut self, now: Instant) {
        let over = |end: &Instant| *end <= now;
        let gone: BTreeMap<IpAddr, Instant> =
            self.retiring.extract_if(.., |_, end| over(end)).collect();
        if gone.is_empty() {
            return;
        }
        self.state.touch();
        for (interface, address) in self.managed.extract_if(.., |(_, it)| gone.contains_key(it)) {
            match self.netlink.remove_address(interface, address).await {
                Ok(()) => {
                    info!(%address, "address removed");
                    // A reload may want it again before the host is looked at.
                    if let Some(interface) = self.host.interfaces.get_mut(&interface) {
                        interface.addresses.retain(|it| *it != address);
                    }
                }
                Err(error) => warn!(%address, %error, "could not remove the address"),
            }
        }
    }
}

/// The addresses that xlb sees to.
pub(super) fn wanted(config: &Config) -> BTreeSet<IpAddr> {
    let listeners = config.listeners.iter().filter(|_| config.manage_address);
    listeners.filter_map(|listener| listener.address).collect()
}

/// The longest deregistration delay behind an address.
fn delay(config: &Config, address: IpAddr) -> Duration {
    let listeners = config.listeners.iter();
    listeners
        .filter(|listener| listener.address == Some(address))
        .map(|listener| config.target_groups[listener.target_group].deregistration_delay)
        .max()
        .unwrap_or_default()
}
