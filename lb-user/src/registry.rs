//! Who is registered as a target, and who is on the way out: a state machine
//! over the configuration, the results of checks and the time. Pure.
//!
//! A target that the configuration doesn't have any more, or whose group no
//! listener uses any more, drains: it gets no new flow, and its flows go on
//! until the deregistration delay of its group is over. If it comes back before
//! that, it is what it was. So does a target that an operator drains, and it
//! stays out of use then until the operator enables it.

mod operator;

mod saved;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    config::Config,
    health::{Health, Outcome, Reason, TargetHealth, Thresholds, Transition},
    reconcile::TargetKey,
    slow_start,
};

pub use operator::{FindError, Operation, OperatorOverrides, Override, SetWeight, TargetName};
pub use saved::{Clock, SavedTarget};

/// The present time: as people read it, and as it can't be set back.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: SystemTime,
    pub steady: Instant,
}

impl Now {
    #[must_use]
    pub fn read() -> Self {
        Self {
            wall: SystemTime::now(),
            steady: Instant::now(),
        }
    }
}

/// Every target that is configured or draining.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    targets: BTreeMap<TargetKey, Registered>,
    /// Of targets that are registered.
    overrides: OperatorOverrides,
    /// Kept, for it is asked for at each event and seldom changes.
    next_end: Option<Instant>,
}

/// One target.
#[derive(Clone, Debug)]
pub struct Registered {
    pub health: TargetHealth,
    /// As last configured, or as an operator has set it since.
    pub weight: u16,
    /// Its group's deregistration delay, as last configured.
    delay: Duration,
    /// When its flows end, while it drains.
    pub ends: Option<Instant>,
    /// It was registered when others of its group were in use already. Those
    /// that start together have nobody to spare them.
    joined: bool,
    /// When its slow start began, if it is healthy and had one.
    healthy_since: Option<Instant>,
}

/// What came of a new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// Of targets that were there before.
    pub transitions: Vec<(TargetKey, Transition)>,
    /// Draining targets whose flows end now, since the configured targets need
    /// their ids.
    pub displaced: Vec<TargetKey>,
    /// Targets whose weight is the configuration's again, since that has changed.
    pub overruled: Vec<TargetKey>,
}

impl Registry {
    #[must_use]
    pub fn get(&self, key: &TargetKey) -> Option<&Registered> {
        self.targets.get(key)
    }

    /// Targets that drain, in order.
    pub fn draining(&self) -> impl Iterator<Item = (&TargetKey, &Registered)> {
        self.targets
            .iter()
            .filter(|(_, target)| target.ends.is_some())
    }

    /// When [`expire`](Self::expire) has something to do.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        self.next_end
    }

    /// Applies a configuration.
    pub fn register(&mut self, config: &Config, now: Now) -> Registration {
        let mut done = Registration::default();
        let configured: BTreeSet<TargetKey> = TargetKey::all(config).collect();
        let in_use = self.groups_in_use();
        for (index, group) in config.target_groups.iter().enumerate() {
            let used = config.listeners.iter().any(|l| l.target_group == index);
            for target in &group.targets {
                let key = TargetKey::new(group, target);
                let is_new = !self.targets.contains_key(&key);
                let registered = self
                    .targets
                    .entry(key.clone())
                    .or_insert_with(|| Registered::new(now));
                let (weight, overruled) = self.overrides.weight(&key, target.weight);
                registered.weight = weight;
                registered.delay = group.deregistration_delay;
                if registered.health.health == Health::Unused {
                    registered.joined = in_use.contains(&group.name);
                }
                let transition = match (self.overrides.is_drained(&key), used) {
                    (true, _) => registered.retire(Out::Drained, now),
                    (false, false) => registered.retire(Out::NotUsed, now),
                    (false, true) => registered.resume(now),
                };
                done.overruled.extend(overruled.then(|| key.clone()));
                if let Some(transition) = transition.filter(|_| !is_new) {
                    done.transitions.push((key, transition));
                }
            }
        }
        self.remove(config, &configured, now, &mut done);
        self.make_room(config, &configured, &mut done);
        self.settle();
        done
    }

    /// After targets have come, gone or changed.
    fn settle(&mut self) {
        let targets = &self.targets;
        self.overrides.retain(|key| targets.contains_key(key));
        let ends = self.targets.values().filter_map(|target| target.ends);
        self.next_end = ends.min();
    }

    /// Takes note of how long a target's last check took.
    pub fn took(&mut self, key: &TargetKey, latency: Duration) {
        if let Some(target) = self.targets.get_mut(key) {
            target.health.latency = Some(latency);
        }
    }

    /// Applies a check's result.
    pub fn observe(
        &mut self,
        key: &TargetKey,
        outcome: &Outcome,
        thresholds: Thresholds,
        now: Now,
    ) -> Option<Transition> {
        let target = self.targets.get_mut(key)?;
        let change = target.health.observe(outcome, now.wall, thresholds)?;
        let is_slow = change.from != Health::Initial || target.joined;
        let begins = change.to == Health::Healthy && is_slow;
        target.healthy_since = begins.then_some(now.steady);
        Some(change)
    }

    /// Targets that start slowly, and the [parts](slow_start::PARTS) of their
    /// weight that they have.
    #[must_use]
    pub fn slow_starts(&self, config: &Config, now: Instant) -> BTreeMap<TargetKey, u16> {
        let mut parts = BTreeMap::new();
        for group in &config.target_groups {
            let Some(time) = group.slow_start else {
                continue;
            };
            for key in group.targets.iter().map(|it| TargetKey::new(group, it)) {
                let since = self.get(&key).and_then(|target| target.healthy_since);
                let has = since.map(|since| slow_start::parts(since, now, time));
                if let Some(has) = has.filter(|has| *has < slow_start::PARTS) {
                    parts.insert(key, has);
                }
            }
        }
        parts
    }

    fn groups_in_use(&self) -> BTreeSet<String> {
        let targets = self.targets.iter();
        targets
            .filter(|(_, target)| target.health.health != Health::Unused)
            .map(|(key, _)| key.group.clone())
            .collect()
    }

    /// Ends the drains whose time is over, and says whose. A target that is
    /// still configured, in a group without a listener or drained by an
    /// operator, is unused from then on.
    pub fn expire(&mut self, config: &Config, now: Now) -> Vec<TargetKey> {
        let is_over = |target: &Registered| target.ends.is_some_and(|end| end <= now.steady);
        let configured: BTreeSet<TargetKey> = TargetKey::all(config).collect();
        let over: Vec<TargetKey> = self
            .targets
            .iter()
            .filter(|(_, target)| is_over(target))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &over {
            match self.targets.get_mut(key) {
                Some(target) if configured.contains(key) => {
                    let drained = self.overrides.is_drained(key);
                    target.end(if drained { Out::Drained } else { Out::NotUsed }, now);
                }
                _ => {
                    self.targets.remove(key);
                }
            }
        }
        self.settle();
        over
    }

    /// Drains what isn't configured any more.
    fn remove(
        &mut self,
        config: &Config,
        configured: &BTreeSet<TargetKey>,
        now: Now,
        done: &mut Registration,
    ) {
        let delays: BTreeMap<&str, Duration> = config
            .target_groups
            .iter()
            .map(|group| (group.name.as_str(), group.deregistration_delay))
            .collect();
        self.targets.retain(|key, target| {
            if configured.contains(key) {
                return true;
            }
            if let Some(&delay) = delays.get(key.group.as_str()) {
                target.delay = delay;
            }
            let transition = target.retire(Out::NotUsed, now);
            let stays = target.ends.is_some();
            done.transitions
                .extend(transition.filter(|_| stays).map(|it| (key.clone(), it)));
            stays
        });
    }

    /// Ends the drains that are the nearest to their end, as many as ids are
    /// missing.
    fn make_room(
        &mut self,
        config: &Config,
        configured: &BTreeSet<TargetKey>,
        done: &mut Registration,
    ) {
        let capacity = config.capacity.targets as usize;
        let missing = self.targets.len().saturating_sub(capacity);
        let mut going: Vec<(Option<Instant>, TargetKey)> = self
            .draining()
            .filter(|(key, _)| !configured.contains(key))
            .map(|(key, target)| (target.ends, key.clone()))
            .collect();
        going.sort();
        for (_, key) in going.into_iter().take(missing) {
            self.targets.remove(&key);
            done.displaced.push(key);
        }
    }
}

impl Registered {
    /// Whether its health is to be checked.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        !matches!(self.health.health, Health::Draining | Health::Unused)
    }

    /// One that nothing uses yet.
    fn new(now: Now) -> Self {
        let mut health = TargetHealth::new(now.wall);
        health.set_unused(Reason::NotInUse, now.wall);
        Self {
            health,
            weight: 0,
            delay: Duration::ZERO,
            ends: None,
            joined: false,
            healthy_since: None,
        }
    }

    /// In use, or again.
    fn resume(&mut self, now: Now) -> Option<Transition> {
        self.ends = None;
        self.health.resume(now.wall)
    }

    /// Out of use: it drains, unless it was unused or no flow may go on.
    fn retire(&mut self, out: Out, now: Now) -> Option<Transition> {
        let unused = self.health.health == Health::Unused;
        if self.ends.is_none() && !unused && !self.delay.is_zero() {
            self.ends = Some(now.steady + self.delay);
        }
        match self.ends {
            Some(_) => self.health.drain(out.reason_to_drain(), now.wall),
            None => self.health.set_unused(out.reason_to_be_unused(), now.wall),
        }
    }

    /// Its drain is over.
    fn end(&mut self, out: Out, now: Now) {
        self.ends = None;
        self.health.set_unused(out.reason_to_be_unused(), now.wall);
    }
}

/// Why a target gets nothing.
#[derive(Clone, Copy)]
enum Out {
    /// It isn't configured, or no listener uses its group.
    NotUsed,
    Drained,
}

impl Out {
    fn reason_to_drain(self) -> Reason {
        match self {
            Self::NotUsed => Reason::DeregistrationInProgress,
            Self::Drained => Reason::DrainedByOperator,
        }
    }

    fn reason_to_be_unused(self) -> Reason {
        match self {
            Self::NotUsed => Reason::NotInUse,
            Self::Drained => Reason::DrainedByOperator,
        }
    }
}

#[cfg(test)]
mod tests;
