//! What the agent counts of its own work.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::health::Meter;

/// One label and its value.
type Label = [(&'static str, &'static str); 1];
/// The label of a target group.
type Group = [(&'static str, String); 1];

/// Upper ends of buckets in seconds: of checks, which take a round trip or time
/// out.
const LATENCIES: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];
/// And of work, which takes from a few writes to a million flows.
const WORK: [f64; 10] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// What the agent's task has attended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    CheckResult,
    /// A drain, a retired address or a step of a slow start was due.
    Expiry,
    HostChange,
    /// On the socket or the admin listener.
    Request,
    Sweep,
}

impl Event {
    const ALL: [Self; 5] = [
        Self::CheckResult,
        Self::Expiry,
        Self::HostChange,
        Self::Request,
        Self::Sweep,
    ];

    const fn label(self) -> Label {
        let name = match self {
            Self::CheckResult => "check_result",
            Self::Expiry => "expiry",
            Self::HostChange => "host_change",
            Self::Request => "request",
            Self::Sweep => "sweep",
        };
        [("event", name)]
    }
}

/// What became of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    Applied,
    /// The file has errors, so nothing has changed.
    Invalid,
    /// The host or the maps didn't take it.
    Failed,
}

impl Reloaded {
    const ALL: [Self; 3] = [Self::Applied, Self::Invalid, Self::Failed];

    const fn label(self) -> Label {
        let name = match self {
            Self::Applied => "applied",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        };
        [("result", name)]
    }
}

/// Counters of the agent. Clones count together.
#[derive(Clone, Debug)]
pub struct Internals {
    events: Family<Label, Counter>,
    reloads: Family<Label, Counter>,
    last_reload_successful: Gauge,
    applies: Histogram,
    maps_behind: Gauge,
    sweeps: Histogram,
    check_latency: Family<Group, Histogram, fn() -> Histogram>,
    checks: Meter,
}

impl Internals {
    /// With checks that are counted elsewhere.
    #[must_use]
    pub fn new(checks: Meter) -> Self {
        let internals = Self {
            events: Family::default(),
            reloads: Family::default(),
            last_reload_successful: Gauge::default(),
            applies: Histogram::new(WORK),
            maps_behind: Gauge::default(),
            sweeps: Histogram::new(WORK),
            check_latency: Family::new_with_constructor(|| Histogram::new(LATENCIES)),
            checks,
        };
        // What hasn't happened yet is zero, not unknown.
        for event in Event::ALL {
            internals.handled(event, 0);
        }
        for result in Reloaded::ALL {
            internals.reloads.get_or_create(&result.label()).inc_by(0);
        }
        internals.last_reload_successful.set(1);
        internals
    }

    pub fn handled(&self, event: Event, count: usize) {
        let counter = self.events.get_or_create(&event.label());
        counter.inc_by(count as u64);
    }

    pub fn reloaded(&self, result: Reloaded) {
        self.reloads.get_or_create(&result.label()).inc();
        let successful = result == Reloaded::Applied;
        self.last_reload_successful.set(successful.into());
    }

    /// Maps were written, or couldn't be: then they lack something.
    pub fn applied(&self, took: Duration, complete: bool) {
        self.applies.observe(took.as_secs_f64());
        self.maps_behind.set((!complete).into());
    }

    pub fn swept(&self, took: Duration) {
        self.sweeps.observe(took.as_secs_f64());
    }

    pub fn checked(&self, group: &str, took: Duration) {
        let label = [("target_group", group.to_owned())];
        let histogram = self.check_latency.get_or_create(&label);
        histogram.observe(took.as_secs_f64());
    }

    /// Forgets a target group that is gone.
    pub fn forget(&self, group: &str) {
        let label = [("target_group", group.to_owned())];
        self.check_latency.remove(&label);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "health_check_latency",
            "From before the connection to the verdict, by target group",
            Unit::Seconds,
            self.check_latency.clone(),
        );
        let agent = registry.sub_registry_with_prefix("agent");
        agent.register(
            "events",
            "What the agent's task has attended to",
            self.events.clone(),
        );
        agent.register("reloads", "Reloads by result", self.reloads.clone());
        agent.register(
            "last_reload_successful",
            "1 unless the last reload was not applied",
            self.last_reload_successful.clone(),
        );
        agent.register_with_unit(
            "apply_duration",
            "Time to write changes to the maps",
            Unit::Seconds,
            self.applies.clone(),
        );
        agent.register(
            "maps_behind",
            "1 while the maps lack something that could not be written",
            self.maps_behind.clone(),
        );
        agent.register_with_unit(
            "sweep_duration",
            "Time to go through the flow tables once",
            Unit::Seconds,
            self.sweeps.clone(),
        );
        agent.register(
            "health_checks_in_flight",
            "Health checks under way",
            self.checks.in_flight.clone(),
        );
        agent.register(
            "health_checks_late",
            "Health checks that began late by more than a tenth of their interval",
            self.checks.late.clone(),
        );
    }
}
