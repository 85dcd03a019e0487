//! What is counted of checks as they are made.

use std::time::Duration;

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

/// Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// Checks under way.
    pub in_flight: Gauge,
    /// Checks that began late by more than a tenth of their interval: this host
    /// is too busy for them.
    pub late: Counter,
}

impl Meter {
    /// A check has begun, by so much after its time.
    pub(super) fn began(&self, late: Duration, interval: Duration) {
        if late > interval / 10 {
            self.late.inc();
        }
    }

    /// Counts a check as long as it is under way; it may be dropped before its
    /// end.
    pub(super) async fn count<T>(&self, check: impl Future<Output = T>) -> T {
        struct Under<'a>(&'a Gauge);
        impl Drop for Under<'_> {
            fn drop(&mut self) {
                self.0.dec();
            }
        }
        self.in_flight.inc();
        let _under_way = Under(&self.in_flight);
        check.await
    }
}
