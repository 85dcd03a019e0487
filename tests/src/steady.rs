//! A steady load: connections that carry requests all the while, and new ones
//! at a set rate. Every failure is kept.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt::Linger};

use crate::{client::request_kept, netns::Namespace};

/// Long enough for what was lost to be sent again a few times.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Threads that carry the connections that are kept, and that make new ones.
const KEEPERS: usize = 8;
pub const MAKERS: usize = 8;

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections that are kept.
    pub kept: usize,
    /// Between two requests on one of them.
    pub pause: Duration,
    /// New connections a second.
    pub rate: u32,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests that were answered on the connections that are kept.
    pub requests: u64,
    /// New connections whose request was answered.
    pub new: u64,
    /// Of them, those whose SYN or answer was lost and sent again: longer than
    /// 900 ms.
    pub slow: u64,
    /// New connections a second.
    pub rate: f64,
    /// What went wrong with connections that were kept, and with new ones.
    pub broken: Vec<String>,
    pub failed: Vec<String>,
}

impl Report {
    /// # Errors
    /// If anything went wrong.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.broken.is_empty() && self.failed.is_empty(),
            "{} of the kept connections broke, {} new ones failed (of {}): {:?}",
            self.broken.len(),
            self.failed.len(),
            self.new,
            self.broken
                .iter()
                .chain(&self.failed)
                .take(5)
                .collect::<Vec<_>>(),
        );
        Ok(())
    }
}

#[derive(Default)]
struct Counts {
    stopped: AtomicBool,
    requests: AtomicU64,
    new: AtomicU64,
    slow: AtomicU64,
    broken: Mutex<Vec<String>>,
    failed: Mutex<Vec<String>>,
}

/// Runs the load while `scenario` does, which begins once all connections that
/// are kept stand.
///
/// # Errors
/// If `scenario` fails, a connection can't be made before, or the namespace
/// can't be entered.
pub fn during<T>(
    namespace: &Namespace,
    server: SocketAddr,
    plan: Plan,
    scenario: impl FnOnce() -> Result<T>,
) -> Result<(T, Report)> {
    let counts = Counts::default();
    let kept = namespace.enter(|| {
        let connect = |_| TcpStream::connect_timeout(&server, TIMEOUT);
        (0..plan.kept).map(connect).collect::<Result<Vec<_>, _>>()
    })?;
    let mut kept = kept.context("the connections to be kept can't be made")?;
    for stream in &kept {
        stream.set_read_timeout(Some(TIMEOUT))?;
    }
    let share = kept.len().div_ceil(KEEPERS).max(1);
    let (outcome, took) = thread::scope(|scope| {
        let mut threads = Vec::new();
        for streams in kept.chunks_mut(share) {
            threads.push(scope.spawn(|| {
                keep(streams, plan.pause, &counts);
                Ok(())
            }));
        }
        for _ in 0..MAKERS {
            threads.push(scope.spawn(|| make(namespace, server, plan.rate, &counts)));
        }
        let began = Instant::now();
        let outcome = scenario();
        let took = began.elapsed();
        counts.stopped.store(true, Ordering::Relaxed);
        for thread in threads {
            let result = thread.join();
            result.map_err(|_| anyhow!("a client thread panicked"))??;
        }
        Ok::<_, anyhow::Error>((outcome, took))
    })?;
    let inner =
        |list: Mutex<Vec<String>>| list.into_inner().unwrap_or_else(PoisonError::into_inner);
    let new = counts.new.into_inner();
    let report = Report {
        requests: counts.requests.into_inner(),
        new,
        slow: counts.slow.into_inner(),
        rate: new as f64 / took.as_secs_f64(),
        broken: inner(counts.broken),
        failed: inner(counts.failed),
    };
    Ok((outcome?, report))
}

/// Requests on each stream in turn; one that breaks is left out from then on.
fn keep(streams: &mut [TcpStream], pause: Duration, counts: &Counts) {
    let mut streams: Vec<&mut TcpStream> = streams.iter_mut().collect();
    while !counts.stopped.load(Ordering::Relaxed) {
        let round = Instant::now();
        streams.retain_mut(|stream| match request_kept(stream) {
            Ok(_) => {
                counts.requests.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(error) => {
                push(&counts.broken, format!("{error:#}"));
                false
            }
        });
        thread::sleep(pause.saturating_sub(round.elapsed()));
    }
}

fn make(namespace: &Namespace, server: SocketAddr, rate: u32, counts: &Counts) -> Result<()> {
    namespace.join()?;
    let between = Duration::from_secs(MAKERS as u64) / rate.max(1);
    let mut next = Instant::now();
    while !counts.stopped.load(Ordering::Relaxed) {
        let began = Instant::now();
        match once(server) {
            Ok(()) => drop(counts.new.fetch_add(1, Ordering::Relaxed)),
            Err(error) => push(&counts.failed, format!("{error:#}")),
        }
        if began.elapsed() > Duration::from_millis(900) {
            counts.slow.fetch_add(1, Ordering::Relaxed);
        }
        next += between;
        // What one connection has delayed isn't made up for.
        next = next.max(Instant::now().checked_sub(between).unwrap_or(next));
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn push(list: &Mutex<Vec<String>>, text: String) {
    list.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(text);
}

/// One request on a connection that then ends by a RST, so that its ports are
/// free at once on both sides.
fn once(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT).context("connect")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let no_wait = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, Linger, &no_wait)?;
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {server}\r\n\r\n").as_bytes())
        .context("send")?;
    let mut answer = [0; 512];
    let length = stream.read(&mut answer).context("receive")?;
    ensure!(
        answer[..length].starts_with(b"HTTP/1.1 200"),
        "answered {:?}",
        String::from_utf8_lossy(&answer[..length])
    );
    Ok(())
}
