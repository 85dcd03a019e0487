//! The registry as the next agent gets it.

use std::{
    io,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Now, Registered, Registry};
use crate::{
    health::{Health, TargetHealth},
    reconcile::TargetKey,
};

/// A target. Times that aren't set back are CLOCK_MONOTONIC's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedTarget {
    #[serde(flatten)]
    pub key: TargetKey,
    health: TargetHealth,
    weight: u16,
    delay: Duration,
    ends: Option<Duration>,
    joined: bool,
    healthy_since: Option<Duration>,
}

/// The same moment by both clocks: what an [`Instant`] is another process isn't
/// told.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    steady: Instant,
    monotonic: Duration,
}

impl Clock {
    /// # Errors
    /// If the kernel doesn't tell the time.
    pub fn read() -> io::Result<Self> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let steady = Instant::now();
        // SAFETY: `time` is a live timespec.
        if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let monotonic = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
        Ok(Self { steady, monotonic })
    }

    #[must_use]
    pub fn monotonic(self, time: Instant) -> Duration {
        match time.checked_duration_since(self.steady) {
            Some(ahead) => self.monotonic + ahead,
            None => self.monotonic.saturating_sub(self.steady - time),
        }
    }

    #[must_use]
    pub fn instant(self, time: Duration) -> Instant {
        match time.checked_sub(self.monotonic) {
            Some(ahead) => self.steady + ahead,
            None => {
                let ago = self.monotonic - time;
                self.steady.checked_sub(ago).unwrap_or(self.steady)
            }
        }
    }
}

impl Registry {
    #[must_use]
    pub fn save(&self, clock: Clock) -> Vec<SavedTarget> {
        let save = |(key, target): (&TargetKey, &Registered)| SavedTarget {
            key: key.clone(),
            health: target.health.clone(),
            weight: target.weight,
            delay: target.delay,
            ends: target.ends.map(|end| clock.monotonic(end)),
            joined: target.joined,
            healthy_since: target.healthy_since.map(|since| clock.monotonic(since)),
        };
        self.targets.iter().map(save).collect()
    }

    #[must_use]
    pub fn restore(saved: Vec<SavedTarget>, clock: Clock) -> Self {
        let restore = |saved: SavedTarget| {
            let target = Registered {
                health: saved.health,
                weight: saved.weight,
                delay: saved.delay,
                ends: saved.ends.map(|end| clock.instant(end)),
                joined: saved.joined,
                healthy_since: saved.healthy_since.map(|since| clock.instant(since)),
            };
            (saved.key, target)
        };
        let mut registry = Self {
            targets: saved.into_iter().map(restore).collect(),
            ..Self::default()
        };
        registry.settle();
        registry
    }

    /// A target of which nothing is known but that it takes flows.
    pub fn presume_healthy(&mut self, key: TargetKey, now: Now) {
        let target = self.targets.entry(key);
        let target = target.or_insert_with(|| Registered::new(now));
        if matches!(target.health.health, Health::Initial | Health::Unused) {
            target.health.presume_healthy(now.wall);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        health::{Outcome, Thresholds},
    };

    const TEXT: &str = r#"
        interface = "eth0"
        [[listener]]
        address = ":80"
        target_group = "a"
        [[target_group]]
        name = "a"
        slow_start = "100s"
        deregistration_delay = "60s"
        targets = [":1", ":2"]
    "#;

    /// Of the next process, which began at another moment.
    fn other(clock: Clock, later: Duration) -> Clock {
        Clock {
            steady: clock.steady + Duration::from_secs(1_000),
            monotonic: clock.monotonic + later,
        }
    }

    #[test]
    fn times_are_the_same_moments() {
        let clock = Clock::read().unwrap();
        let next = other(clock, Duration::from_secs(3));
        let left = |seconds: u64| {
            let end = clock.steady + Duration::from_secs(seconds);
            let end = next.instant(clock.monotonic(end));
            end.saturating_duration_since(next.steady)
        };
        assert_eq!(left(10), Duration::from_secs(7));
        assert_eq!(left(2), Duration::ZERO, "it is over");
        let past = next.monotonic(next.steady - Duration::from_secs(1));
        assert_eq!(past, next.monotonic - Duration::from_secs(1));
    }

    #[test]
    fn health_drains_and_slow_starts_go_on() {
        let clock = Clock::read().unwrap();
        let now = Now {
            wall: std::time::SystemTime::now(),
            steady: clock.steady,
        };
        let mut config = config::parse(TEXT, "x").unwrap().config;
        let keys: Vec<TargetKey> = TargetKey::all(&config).collect();
        let mut registry = Registry::default();
        registry.register(&config, now);
        let one = Thresholds {
            healthy: 1,
            unhealthy: 1,
        };
        let refused = Outcome::Failure(crate::health::Reason::ConnectionRefused);
        for outcome in [&refused, &Outcome::Success] {
            registry.observe(&keys[0], outcome, one, now);
        }
        registry.observe(&keys[1], &refused, one, now);
        config.target_groups[0].targets.pop();
        registry.register(&config, now);

        let text = serde_json::to_string(&registry.save(clock)).unwrap();
        let later = Duration::from_secs(50);
        let next = other(clock, later);
        let mut after = Registry::restore(serde_json::from_str(&text).unwrap(), next);
        let now = Now {
            wall: now.wall + later,
            steady: next.steady,
        };
        after.register(&config, now);
        for key in &keys {
            let health = |registry: &Registry| registry.get(key).unwrap().health.clone();
            assert_eq!(health(&after), health(&registry));
        }
        assert_eq!(
            after.next_end(),
            Some(next.steady + Duration::from_secs(10))
        );
        let parts = after.slow_starts(&config, next.steady);
        assert_eq!(parts.get(&keys[0]), Some(&64), "half of its time is over");
        // Back before its time is over, it is what it was.
        let all = config::parse(TEXT, "x").unwrap().config;
        after.register(&all, now);
        assert_eq!(
            after.get(&keys[1]).unwrap().health.health,
            Health::Unhealthy
        );
    }

    #[test]
    fn only_who_isnt_known_is_presumed_healthy() {
        let now = Now::read();
        let config = config::parse(TEXT, "x").unwrap().config;
        let mut registry = Registry::default();
        for key in TargetKey::all(&config) {
            registry.presume_healthy(key, now);
        }
        registry.register(&config, now);
        for key in TargetKey::all(&config) {
            assert_eq!(registry.get(&key).unwrap().health.health, Health::Healthy);
        }
    }
}
