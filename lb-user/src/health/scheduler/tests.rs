use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::{
    net::TcpListener,
    time::{advance, sleep, timeout},
};

use super::{
    pace::{BURST, GAP},
    *,
};
use crate::{config::Probe, health::Reason};

const INTERVAL: Duration = Duration::from_secs(10);

/// Takes `duration`; counts how many run now, and how many were started.
#[derive(Clone, Default)]
struct Fake {
    duration: Duration,
    running: Arc<AtomicU32>,
    started: Arc<AtomicU32>,
}

struct Running(Arc<AtomicU32>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Check for Fake {
    async fn check(&self) -> Outcome {
        let running = Running(Arc::clone(&self.running));
        assert_eq!(running.0.fetch_add(1, Ordering::SeqCst), 0, "overlap");
        self.started.fetch_add(1, Ordering::SeqCst);
        sleep(self.duration).await;
        Outcome::Success
    }
}

fn spawn(
    fake: &Fake,
    capacity: usize,
) -> (
    tokio::task::JoinHandle<()>,
    mpsc::Receiver<CheckResult<u32>>,
) {
    spawn_metered(fake, capacity, &Meter::default())
}

fn spawn_metered(
    fake: &Fake,
    capacity: usize,
    meter: &Meter,
) -> (
    tokio::task::JoinHandle<()>,
    mpsc::Receiver<CheckResult<u32>>,
) {
    let (results, receiver) = mpsc::channel(capacity);
    let schedule = Schedule {
        first: Instant::now(),
        interval: INTERVAL,
        jitter: Jitter::new(7),
    };
    let report = Report {
        key: 1,
        run: 0,
        results,
        meter: meter.clone(),
    };
    let task = tokio::spawn(check_forever(fake.clone(), schedule, report));
    (task, receiver)
}

fn tcp_check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        port: None,
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(40),
        healthy_threshold: 3,
        unhealthy_threshold: 3,
    }
}

#[tokio::test(start_paused = true)]
async fn first_at_once_then_by_interval() {
    let fake = Fake::default();
    let (_task, mut results) = spawn(&fake, 8);
    let mut last = Instant::now();
    results.recv().await.unwrap();
    assert_eq!(last.elapsed(), Duration::ZERO, "the first check is at once");
    let mut gaps = Vec::new();
    for _ in 0..200 {
        results.recv().await.unwrap();
        gaps.push(last.elapsed());
        last = Instant::now();
    }
    let (least, most) = (*gaps.iter().min().unwrap(), *gaps.iter().max().unwrap());
    // Tokio's timers have a granularity of 1 ms.
    assert!(
        least >= INTERVAL.mul_f64(0.9) && least < INTERVAL.mul_f64(0.92),
        "{least:?}"
    );
    assert!(
        most <= INTERVAL.mul_f64(1.1) + Duration::from_millis(1),
        "{most:?}"
    );
    assert!(most > INTERVAL.mul_f64(1.08), "{most:?}");
}

#[tokio::test(start_paused = true)]
async fn slow_checks_do_not_overlap() {
    let fake = Fake {
        duration: INTERVAL * 2,
        ..Fake::default()
    };
    let (task, mut results) = spawn(&fake, 8);
    let start = Instant::now();
    for done in 1..=5 {
        let result = results.recv().await.unwrap();
        assert!(result.latency >= INTERVAL * 2 && result.latency < INTERVAL * 2 + GAP * 40);
        assert!(start.elapsed() >= INTERVAL * 2 * done, "one after another");
    }
    assert!(!task.is_finished(), "no overlap was asserted");
}

#[tokio::test(start_paused = true)]
async fn a_full_channel_delays_and_loses_nothing() {
    let fake = Fake::default();
    let meter = Meter::default();
    let (_task, mut results) = spawn_metered(&fake, 1, &meter);
    sleep(INTERVAL * 20).await;
    assert_eq!(
        fake.started.load(Ordering::SeqCst),
        2,
        "one sent, one waiting"
    );
    let mut burst = 0;
    while timeout(INTERVAL / 2, results.recv()).await.is_ok() {
        burst += 1;
    }
    assert_eq!(burst, 3, "what waited, and one check that was overdue");
    assert_eq!((meter.in_flight.get(), meter.late.get()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn ends_with_its_receiver() {
    let (task, results) = spawn(&Fake::default(), 1);
    drop(results);
    timeout(INTERVAL * 2, task).await.expect("ended").unwrap();
}

#[tokio::test(start_paused = true)]
async fn abort_ends_a_check_under_way() {
    let fake = Fake {
        duration: INTERVAL,
        ..Fake::default()
    };
    let meter = Meter::default();
    let (task, mut results) = spawn_metered(&fake, 1, &meter);
    advance(INTERVAL / 2).await;
    assert_eq!(fake.running.load(Ordering::SeqCst), 1);
    assert_eq!(meter.in_flight.get(), 1);
    let run = Run {
        id: 0,
        prober: Arc::new(Prober::new(([127, 0, 0, 1], 1).into(), &tcp_check()).unwrap()),
        interval: INTERVAL,
        task: task.abort_handle(),
    };
    let before = Instant::now();
    drop(run);
    let ended = timeout(INTERVAL, task).await.expect("ended");
    assert!(ended.unwrap_err().is_cancelled());
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(fake.running.load(Ordering::SeqCst), 0);
    assert_eq!(meter.in_flight.get(), 0);
    assert_eq!(results.recv().await, None, "no result");
}

#[tokio::test(start_paused = true)]
async fn many_first_checks_are_spread() {
    let mut pacer = Pacer::default();
    let now = Instant::now();
    let starts: Vec<Duration> = (0..10_000).map(|_| pacer.next(now) - now).collect();
    let at_once = starts.iter().filter(|start| start.is_zero()).count();
    assert_eq!(at_once, BURST as usize);
    for window in 0..10 {
        let from = Duration::from_millis(100) * window;
        let to = from + Duration::from_millis(100);
        let count = starts
            .iter()
            .filter(|&&start| from <= start && start < to)
            .count();
        assert!(
            count <= 2_000 + BURST as usize,
            "{count} in window {window}"
        );
    }
    assert!(*starts.last().unwrap() <= Duration::from_millis(500));

    advance(Duration::from_secs(1)).await;
    let later = Instant::now();
    let at_once = (0..1_000).filter(|_| pacer.next(later) == later).count();
    assert_eq!(at_once, BURST as usize, "idle time isn't saved up");
}

#[test]
fn jitter_keeps_a_shortest_interval() {
    let mut jitter = Jitter::new(1);
    assert!(jitter.apply(Duration::ZERO) >= Duration::from_millis(1));
}

/// The next result that counts.
async fn next_current(
    checker: &Checker<&'static str>,
    results: &mut mpsc::Receiver<CheckResult<&'static str>>,
) -> CheckResult<&'static str> {
    loop {
        let result = results.recv().await.unwrap();
        if checker.is_current(&result) {
            return result;
        }
    }
}

#[tokio::test]
async fn checker_starts_restarts_and_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let (sender, mut results) = mpsc::channel(4);
    let mut checker = Checker::new(sender);
    let mut check = tcp_check();

    assert_eq!(checker.start("a", open, &check), Ok(Started::New));
    let old = results.recv().await.unwrap();
    assert_eq!((old.key, old.outcome), ("a", Outcome::Success));
    assert!(checker.is_current(&old));
    check.healthy_threshold = 9;
    assert_eq!(checker.start("a", open, &check), Ok(Started::Unchanged));
    assert!(checker.is_current(&old));

    assert_eq!(checker.start("a", closed, &check), Ok(Started::Restarted));
    assert!(!checker.is_current(&old), "of the former address");
    let new = next_current(&checker, &mut results).await;
    assert_eq!(new.outcome, Outcome::Failure(Reason::ConnectionRefused));
    check.interval *= 2;
    assert_eq!(checker.start("a", closed, &check), Ok(Started::Restarted));

    let last = next_current(&checker, &mut results).await;
    checker.keep_only(&HashSet::from(["a", "b"]));
    assert!(checker.is_current(&last));
    checker.keep_only(&HashSet::from(["b"]));
    assert!(!checker.is_current(&last));
    sleep(Duration::from_millis(20)).await;
    while results.try_recv().is_ok() {}
    assert!(
        timeout(check.interval * 2, results.recv()).await.is_err(),
        "silence"
    );
    drop(checker);
    assert_eq!(results.recv().await, None);
}
