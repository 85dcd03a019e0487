//! The targets: who is registered, their checks and what comes of them.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use tracing::{error, info, warn};

use super::{Agent, SHORTAGE_INTERVAL, STEP};
use crate::{
    address::is_global,
    config::{Target, TargetGroup},
    health::{CheckResult, Health, LocalFault, Outcome, Thresholds, Transition},
    metrics::Event,
    reconcile::{Availability, TargetKey},
    registry::{Now, Registered, Registration},
};

impl Agent {
    /// Registers the configuration's targets, gives each an id, and takes those
    /// of what is gone.
    pub(super) fn register_targets(&mut self, now: Now) {
        let registration = self.registry.register(&self.config, now);
        self.registered(&registration);
    }

    /// Says what has come of a registration, and follows it with the ids.
    pub(super) fn registered(&mut self, registration: &Registration) {
        for (key, transition) in &registration.transitions {
            log(key, transition);
        }
        for key in &registration.displaced {
            let (target_group, target) = (&key.group, key.to_string());
            warn!(
                target_group,
                target, "its flows end early: raise `targets` under [capacity]"
            );
        }
        for key in &registration.overruled {
            let (target_group, target) = (&key.group, key.to_string());
            info!(
                target_group,
                target, "its weight is that of the file, which has changed"
            );
        }
        self.assign_ids();
    }

    fn assign_ids(&mut self) {
        self.draining = self
            .registry
            .draining()
            .map(|(key, _)| key.clone())
            .collect();
        self.ids.assign(&self.config, &self.draining);
        self.state.touch();
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let address = self.retiring.values().min().copied();
        let step = (!self.slow_starts.is_empty()).then(|| self.last_step + STEP);
        let ends = [self.registry.next_end(), address, step];
        ends.into_iter().flatten().min()
    }

    /// Ends what has gone on long enough: targets that drain, addresses without
    /// a listener, a step of a slow start.
    pub(super) async fn expire(&mut self) {
        self.internals.handled(Event::Expiry, 1);
        let now = Now::read();
        let steps = !self.slow_starts.is_empty() && now.steady >= self.last_step + STEP;
        if steps {
            self.last_step = now.steady;
        }
        let ended = self.registry.expire(&self.config, now);
        for key in &ended {
            let (target_group, target) = (&key.group, key.to_string());
            info!(target_group, target, "drained: its flows end");
        }
        if !ended.is_empty() {
            self.assign_ids();
        }
        if steps || !ended.is_empty() {
            self.reconcile();
        }
        self.remove_retired(now.steady).await;
    }

    /// Checks every target in use where it is now, and no other; what goes on
    /// as before isn't disturbed.
    pub(super) fn start_checks(&mut self) {
        let own = self.own_address();
        let mut checked = HashSet::new();
        for group in &self.config.target_groups {
            for target in &group.targets {
                let key = TargetKey::new(group, target);
                if !self.registry.get(&key).is_some_and(Registered::is_checked) {
                    continue;
                }
                checked.insert(key.clone());
                let Some(address) = check_address(group, target, own) else {
                    continue;
                };
                if let Err(error) = self.checker.start(key, address, &group.health_check) {
                    // Validation has tried the path and the host already.
                    error!(target_group = group.name, target = %address, %error, "the health check can't be made");
                }
            }
        }
        self.checker.keep_only(&checked);
    }

    /// Where ports of this host are checked: where clients find them.
    pub(super) fn own_address(&self) -> Option<IpAddr> {
        let interface = self.host.interface(self.config.interfaces.first()?)?;
        let mut addresses = interface.addresses.iter().copied();
        addresses.find(|&address| is_global(address))
    }

    /// Applies results and then writes the maps once for all of them.
    pub(super) fn checked(&mut self, results: &mut Vec<CheckResult<TargetKey>>) {
        self.internals.handled(Event::CheckResult, results.len());
        let mut changes = Vec::new();
        for result in results.drain(..) {
            let change = self.observe(&result);
            changes.extend(change.map(|change| (result.key, change)));
        }
        if changes.is_empty() {
            return;
        }
        // The maps first: who reads the log or the status may rely on it.
        let groups = changes.iter().map(|(key, _)| key.group.as_str());
        self.reconcile_groups(&groups.collect());
        for (key, change) in &changes {
            log(key, change);
        }
        self.state.touch();
    }

    fn observe(&mut self, result: &CheckResult<TargetKey>) -> Option<Transition> {
        if !self.checker.is_current(result) {
            return None;
        }
        if let Outcome::Inconclusive(fault) = result.outcome {
            self.shortage(fault, &result.key.to_string());
        }
        let mut groups = self.config.target_groups.iter();
        let group = groups.find(|group| group.name == result.key.group)?;
        let thresholds = Thresholds::from(&group.health_check);
        self.internals.checked(&result.key.group, result.latency);
        self.registry.took(&result.key, result.latency);
        self.registry
            .observe(&result.key, &result.outcome, thresholds, Now::read())
    }

    /// Logs that this host lacks something for its checks, now and then: it
    /// lacks it for every target at once.
    fn shortage(&mut self, fault: LocalFault, target: &str) {
        if self
            .last_shortage
            .is_none_or(|last| last.elapsed() >= SHORTAGE_INTERVAL)
        {
            self.last_shortage = Some(Instant::now());
            warn!(target, %fault, "health checks can't be made; targets stay as they are");
        }
    }
}

/// Says that a target's health has changed.
fn log(key: &TargetKey, change: &Transition) {
    let (target_group, target) = (&key.group, key.to_string());
    let (from, to) = (change.from.as_str(), change.to.as_str());
    let reason = change.reason.map(|reason| reason.code());
    let description = change.reason.map(|reason| reason.to_string());
    let description = description.as_deref();
    match change.to {
        Health::Unhealthy => warn!(
            target_group,
            target, from, to, reason, description, "target health changed"
        ),
        _ => info!(
            target_group,
            target, from, to, reason, description, "target health changed"
        ),
    }
}

pub(super) fn availability(target: Option<&Registered>) -> Availability {
    match target.map(|target| target.health.health) {
        Some(Health::Healthy) => Availability::Healthy,
        Some(Health::Unhealthy) => Availability::Unhealthy,
        Some(Health::Draining) => Availability::Draining,
        Some(Health::Unused) => Availability::Unused,
        Some(Health::Initial) | None => Availability::Initial,
    }
}

fn check_address(group: &TargetGroup, target: &Target, own: Option<IpAddr>) -> Option<SocketAddr> {
    let address = target.address.or(own)?;
    let port = group.health_check.port.or(target.port)?;
    Some(SocketAddr::new(address, port.get()))
}
