//! A target's health: a pure state machine over the results of its checks.
//!
//! A new target is `initial` and gets no traffic until its first result, which
//! alone decides, as in ELB. After that, results in a row count against the
//! thresholds, and a contrary result starts the row again.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::reason::{Outcome, Reason};
use crate::config::HealthCheck;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// No result yet.
    Initial,
    Healthy,
    Unhealthy,
    /// Removed: no new flow, and its flows end until the delay is over.
    Draining,
    /// No listener uses it; it isn't checked.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetHealth {
    pub health: Health,
    /// Why it isn't healthy; of a healthy target, why its last check failed.
    pub reason: Option<Reason>,
    /// When `health` took its present value.
    pub since: SystemTime,
    /// What it was before it began to drain, while it drains.
    before: Option<(Health, Option<Reason>)>,
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
        match *outcome {
            Outcome::Inconclusive(_) => {
                self.inconclusive += 1;
                None
            }
            Outcome::Success => {
                self.successes += 1;
                self.succeeded(now, thresholds.healthy)
            }
            Outcome::Failure(reason) => {
                self.failures += 1;
                self.failed(reason, now, thresholds.unhealthy)
            }
        }
    }

    /// The target was removed: it gets no new flow, its flows may end.
    pub fn drain(&mut self, now: SystemTime) -> Option<Transition> {
        let before = (self.health, self.reason);
        let reason = Some(Reason::DeregistrationInProgress);
        let transition = self.enter(Health::Draining, reason, now)?;
        self.before = Some(before);
        Some(transition)
    }

    /// No listener uses the target any more.
    pub fn set_unused(&mut self, now: SystemTime) -> Option<Transition> {
        self.before = None;
        self.enter(Health::Unused, Some(Reason::NotInUse), now)
    }

    /// A target that was draining is used again: what it was before, for that
    /// is still the best guess. One that was unused is `initial`, until the next
    /// result decides. Of any other target nothing changes.
    pub fn resume(&mut self, now: SystemTime) -> Option<Transition> {
        let initial = (Health::Initial, Some(Reason::RegistrationInProgress));
        match self.health {
            Health::Draining | Health::Unused => {
                let (health, reason) = self.before.take().unwrap_or(initial);
                self.enter(health, reason, now)
            }
            Health::Initial | Health::Healthy | Health::Unhealthy => None,
        }
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
        if from == to {
            return None;
        }
        self.health = to;
        self.reason = reason;
        self.since = now;
        self.contrary = 0;
        Some(Transition { from, to, reason })
    }
}

#[cfg(test)]
mod tests;
