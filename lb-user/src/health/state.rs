//! A target's health: a pure state machine over the results of its checks.
//!
//! A new target is `initial` and gets no traffic until its first result, which
//! alone decides, as in ELB. After that, results in a row count against the
//! thresholds, and a contrary result starts the row again.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::reason::{Outcome, Reason};
use crate::config::HealthCheck;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// No result yet.
    Initial,
    Healthy,
    Unhealthy,
    /// Removed or drained by an operator: no new flow, and its flows end until
    /// the delay is over.
    Draining,
    /// No listener uses it, or an operator has drained it; it isn't checked.
    Unused,
}

impl Health {
    pub const ALL: [Self; 5] = [
        Self::Initial,
        Self::Healthy,
        Self::Unhealthy,
        Self::Draining,
        Self::Unused,
    ];

    /// The word for it, in JSON, metrics and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Unused => "unused",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is known of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetHealth {
    pub health: Health,
    /// Why it isn't healthy; of a healthy target, why its last check failed.
    pub reason: Option<Reason>,
    /// When `health` took its present value.
    pub since: SystemTime,
    /// What it was before it began to drain, while it drains.
    before: Option<(Health, Option<Reason>)>,
    /// It wasn't checked while it drained, so its next result decides alone.
    outdated: bool,
    /// How long the last check took.
    pub latency: Option<Duration>,
    /// Results in a row that speak against `health`, always less than the
    /// threshold that they count against.
    pub contrary: u32,
    /// Successes since the target was registered.
    pub successes: u64,
    /// Failures since the target was registered.
    pub failures: u64,
    /// Checks since the target was registered that couldn't be made.
    pub inconclusive: u64,
}

/// Results in a row that it takes. Zero counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub healthy: u32,
    pub unhealthy: u32,
}

impl From<&HealthCheck> for Thresholds {
    fn from(check: &HealthCheck) -> Self {
        Self {
            healthy: check.healthy_threshold,
            unhealthy: check.unhealthy_threshold,
        }
    }
}

/// `health` changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: Health,
    pub to: Health,
    /// Why, unless `to` is healthy.
    pub reason: Option<Reason>,
}

impl TargetHealth {
    /// A target that was registered just now: `initial`.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self {
            health: Health::Initial,
            reason: Some(Reason::RegistrationInProgress),
            since: now,
            before: None,
            outdated: false,
            latency: None,
            contrary: 0,
            successes: 0,
            failures: 0,
            inconclusive: 0,
        }
    }

    /// Applies the result of a check. A target that is draining or unused
    /// counts it, and stays what it is.
    pub fn observe(
        &mut self,
        outcome: &Outcome,
        now: SystemTime,
        thresholds: Thresholds,
    ) -> Option<Transition> {
        let needed = |threshold| if self.outdated { 1 } else { threshold };
        match *outcome {
            Outcome::Inconclusive(_) => {
                self.inconclusive += 1;
                None
            }
            Outcome::Success => {
                let threshold = needed(thresholds.healthy);
                self.outdated = false;
                self.successes += 1;
                self.succeeded(now, threshold)
            }
            Outcome::Failure(reason) => {
                let threshold = needed(thresholds.unhealthy);
                self.outdated = false;
                self.failures += 1;
                self.failed(reason, now, threshold)
            }
        }
    }

    /// The target gets no new flow, its flows may end. Only the reason changes
    /// of one that drains already.
    pub fn drain(&mut self, reason: Reason, now: SystemTime) -> Option<Transition> {
        let before = (self.health, self.reason);
        let transition = self.enter(Health::Draining, Some(reason), now)?;
        self.before = Some(before);
        Some(transition)
    }

    /// The target is out of use. Only the reason changes of one that is already.
    pub fn set_unused(&mut self, reason: Reason, now: SystemTime) -> Option<Transition> {
        self.before = None;
        self.enter(Health::Unused, Some(reason), now)
    }

    /// A target that was draining is used again: what it was before, for that
    /// is still the best guess, until the next result decides alone. One that
    /// was unused is `initial` until then. Of any other target nothing changes.
    pub fn resume(&mut self, now: SystemTime) -> Option<Transition> {
        let initial = (Health::Initial, Some(Reason::RegistrationInProgress));
        match self.health {
            Health::Draining | Health::Unused => {
                let (health, reason) = self.before.take().unwrap_or(initial);
                self.outdated = true;
                self.enter(health, reason, now)
            }
            Health::Initial | Health::Healthy | Health::Unhealthy => None,
        }
    }

    /// It is known to have taken flows.
    pub fn presume_healthy(&mut self, now: SystemTime) {
        self.before = None;
        self.enter(Health::Healthy, None, now);
    }

    fn succeeded(&mut self, now: SystemTime, threshold: u32) -> Option<Transition> {
        match self.health {
            Health::Initial => self.enter(Health::Healthy, None, now),
            Health::Unhealthy => {
                self.contrary += 1;
                if self.contrary < threshold {
                    return None;
                }
                self.enter(Health::Healthy, None, now)
            }
            Health::Healthy => {
                self.contrary = 0;
                self.reason = None;
                None
            }
            Health::Draining | Health::Unused => None,
        }
    }

    fn failed(&mut self, reason: Reason, now: SystemTime, threshold: u32) -> Option<Transition> {
        match self.health {
            Health::Initial => self.enter(Health::Unhealthy, Some(reason), now),
            Health::Healthy => {
                self.contrary += 1;
                self.reason = Some(reason);
                if self.contrary < threshold {
                    return None;
                }
                self.enter(Health::Unhealthy, Some(reason), now)
            }
            Health::Unhealthy => {
                self.contrary = 0;
                self.reason = Some(reason);
                None
            }
            Health::Draining | Health::Unused => None,
        }
    }

    fn enter(&mut self, to: Health, reason: Option<Reason>, now: SystemTime) -> Option<Transition> {
        let from = self.health;
        self.reason = reason;
        if from == to {
            return None;
        }
        self.health = to;
        self.since = now;
        self.contrary = 0;
        Some(Transition { from, to, reason })
    }
}

#[cfg(test)]
mod tests;
