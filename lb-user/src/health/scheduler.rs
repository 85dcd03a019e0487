//! When targets are checked: one task per target, which sleeps, checks, and
//! sends the result. Checks of one target can't overlap, because its task does
//! one thing at a time, and stopping it drops whatever it is doing.

mod meter;
mod pace;

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

pub use self::meter::Meter;
use self::pace::{Jitter, Pacer};
use super::{
    probe::{PrepareError, Prober},
    reason::Outcome,
};
use crate::config::HealthCheck;

/// One check was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult<K> {
    pub key: K,
    pub outcome: Outcome,
    /// From before the connection to the verdict.
    pub latency: Duration,
    run: u64,
}

/// What [`Checker::start`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    New,
    /// The key was checked otherwise until now.
    Restarted,
    /// The key is checked like this already; nothing happened.
    Unchanged,
}

/// Checks targets, and sends what it finds.
///
/// Dropping it ends all checks.
#[derive(Debug)]
pub struct Checker<K> {
    results: mpsc::Sender<CheckResult<K>>,
    meter: Meter,
    runs: HashMap<K, Run>,
    next_run: u64,
    pacer: Pacer,
    jitter_seed: RandomState,
}

#[derive(Debug)]
struct Run {
    id: u64,
    prober: Arc<Prober>,
    interval: Duration,
    task: AbortHandle,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Checker<K> {
    /// Results go to `results`. While that is full, checks wait: they become
    /// late, and no result is lost. Once its receiver is gone, checks end.
    #[must_use]
    pub fn new(results: mpsc::Sender<CheckResult<K>>) -> Self {
        Self {
            results,
            meter: Meter::default(),
            runs: HashMap::new(),
            next_run: 0,
            pacer: Pacer::default(),
            jitter_seed: RandomState::new(),
        }
    }

    /// What is counted of its checks.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Checks `key` at `address` from now on: at once, unless many start
    /// together, then every `check.interval` ± 10 %. If the key is checked in
    /// another way already, that ends; if in the same way, it goes on (the
    /// thresholds of `check` play no part in that).
    ///
    /// # Errors
    /// When the check can't be put into a request; then nothing has changed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(
        &mut self,
        key: K,
        address: SocketAddr,
        check: &HealthCheck,
    ) -> Result<Started, PrepareError> {
        let prober = Prober::new(address, check)?;
        let started = match self.runs.get(&key) {
            None => Started::New,
            Some(run) if *run.prober == prober && run.interval == check.interval => {
                return Ok(Started::Unchanged);
            }
            Some(_) => Started::Restarted,
        };
        let prober = Arc::new(prober);
        let id = self.next_run;
        self.next_run += 1;
        let schedule = self.schedule(&key, check.interval);
        let report = Report {
            key: key.clone(),
            run: id,
            results: self.results.clone(),
            meter: self.meter.clone(),
        };
        let task =
            tokio::spawn(check_forever(Arc::clone(&prober), schedule, report)).abort_handle();
        let run = Run {
            id,
            prober,
            interval: check.interval,
            task,
        };
        self.runs.insert(key, run);
        Ok(started)
    }

    /// Ends the checks of every key that isn't in `keys`, those under way too.
    pub fn keep_only(&mut self, keys: &HashSet<K>) {
        self.runs.retain(|key, _| keys.contains(key));
    }

    /// Does `result` come from the present checks of its key? Results that
    /// were waiting in the channel when their checks were stopped or restarted
    /// don't count any more; drop them.
    #[must_use]
    pub fn is_current(&self, result: &CheckResult<K>) -> bool {
        self.runs
            .get(&result.key)
            .is_some_and(|run| run.id == result.run)
    }

    fn schedule(&mut self, key: &K, interval: Duration) -> Schedule {
        Schedule {
            first: self.pacer.next(Instant::now()),
            interval,
            jitter: Jitter::new(self.jitter_seed.hash_one(key)),
        }
    }
}

/// What a task checks with; a fake in tests.
trait Check: Send + 'static {
    fn check(&self) -> impl Future<Output = Outcome> + Send;
}

impl Check for Arc<Prober> {
    fn check(&self) -> impl Future<Output = Outcome> + Send {
        self.run()
    }
}

struct Schedule {
    first: Instant,
    /// From the start of one check to the start of the next.
    interval: Duration,
    jitter: Jitter,
}

struct Report<K> {
    key: K,
    run: u64,
    results: mpsc::Sender<CheckResult<K>>,
    meter: Meter,
}

async fn check_forever<K: Clone>(check: impl Check, mut schedule: Schedule, report: Report<K>) {
    let mut next = schedule.first;
    loop {
        sleep_until(next).await;
        let start = Instant::now();
        report.meter.began(start - next, schedule.interval);
        // On the heap, and only while it runs: between checks, which is nearly
        // always, a target holds no memory for connections.
        let outcome = report.meter.count(Box::pin(check.check())).await;
        let result = CheckResult {
            key: report.key.clone(),
            outcome,
            latency: start.elapsed(),
            run: report.run,
        };
        if report.results.send(result).await.is_err() {
            return;
        }
        // From the start of this check, so a late one isn't made up for.
        next = start + schedule.jitter.apply(schedule.interval);
    }
}

#[cfg(test)]
mod tests;
