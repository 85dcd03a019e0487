//! Whether the agent is well, for `/live` and `/ready`: told without asking its
//! task, which may be what isn't.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// The agent's task comes round every few seconds, by its sweeps. When it
/// hasn't for so long it is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// The agent's pulse.
#[derive(Debug)]
pub struct Pulse {
    origin: Instant,
    ready: AtomicBool,
    /// Milliseconds after `origin`.
    last_beat: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            ready: AtomicBool::new(false),
            last_beat: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    /// The agent's task comes round.
    pub fn beat(&self) {
        self.last_beat.store(self.since_origin(), Relaxed);
    }

    /// It balances from now on, or no longer.
    pub fn set_ready(&self, ready: bool) {
        self.beat();
        self.ready.store(ready, Relaxed);
    }

    /// Whether everything is attached and the maps are written.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Whether it isn't stuck. A start or a stop may take its time.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let silence = self
            .since_origin()
            .saturating_sub(self.last_beat.load(Relaxed));
        !self.is_ready() || Duration::from_millis(silence) < STUCK
    }

    fn since_origin(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_agent_is_not_live() {
        let Some(origin) = Instant::now().checked_sub(STUCK * 2) else {
            panic!("this machine was started just now");
        };
        let pulse = Pulse {
            origin,
            ..Pulse::default()
        };
        assert!(!pulse.is_ready());
        assert!(pulse.is_live(), "it is still starting");
        pulse.set_ready(true);
        assert!(pulse.is_ready() && pulse.is_live());
        pulse.last_beat.store(0, Relaxed);
        assert!(pulse.is_ready() && !pulse.is_live());
        pulse.beat();
        assert!(pulse.is_live());
    }
}
