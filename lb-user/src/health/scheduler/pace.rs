//! Spreading checks in time: first checks by a rate, later ones by chance.

use std::time::Duration;

use tokio::time::Instant;

/// First checks that may start together.
pub(super) const BURST: u32 = 100;

/// Between first checks beyond the burst: 2,000 in 100 ms, so 10,000 targets
/// have all been checked after half a second.
pub(super) const GAP: Duration = Duration::from_micros(50);

/// A check interval is at least this, whatever was asked for.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// A leaky bucket: says when the next first check may start.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// When all starts so far would be done, at one per [`GAP`].
    busy_until: Option<Instant>,
}

impl Pacer {
    pub(super) fn next(&mut self, now: Instant) -> Instant {
        let slot = self.busy_until.map_or(now, |until| until.max(now));
        self.busy_until = Some(slot + GAP);
        let ahead = slot - now;
        now + ahead.saturating_sub(GAP * (BURST - 1))
    }
}

/// Intervals that differ by chance by up to a tenth, so that targets which
/// started together drift apart.
#[derive(Debug)]
pub(super) struct Jitter {
    state: u64,
}

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 0.9 to 1.1 × `interval`.
    pub(super) fn apply(&mut self, interval: Duration) -> Duration {
        const STEPS: u32 = 1 << 16;
        let step = (self.next() >> 48) as u32; // the top 16 bits
        let tenth = interval / 10;
        let least = interval - tenth;
        (least + (tenth * 2).mul_f64(f64::from(step) / f64::from(STEPS))).max(SHORTEST_INTERVAL)
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.state;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
