//! Clients: curl for what a test measures, and small ones in this process
//! where a test must know when each connection was made.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{output, run, run_words},
    interrupt,
    netns::Namespace,
};

/// GETs a URL by curl and gives the body.
///
/// # Errors
/// If there is no answer, or not a 2xx one.
pub fn get(namespace: &Namespace, url: &str) -> Result<String> {
    run(namespace
        .command("curl")
        .args(["-sS", "--fail", "--max-time", "5", url]))
}

/// Downloads a file by curl.
///
/// # Errors
/// If there is no answer, or not a whole one within a minute.
pub fn download(namespace: &Namespace, url: &str, to: &Path) -> Result<()> {
    let mut curl = namespace.command("curl");
    curl.args([
        "-sS",
        "--fail",
        "--connect-timeout",
        "5",
        "--max-time",
        "60",
        "-o",
    ])
    .arg(to)
    .arg(url);
    run(&mut curl).map(drop)
}

/// A file's SHA-256, in hex.
///
/// # Errors
/// If it can't be read.
pub fn sha256(path: &Path) -> Result<String> {
    let line = run_words(&["sha256sum", &path.to_string_lossy()])?;
    Ok(line
        .split_whitespace()
        .next()
        .context("sha256sum said nothing")?
        .to_owned())
}

/// How many requests each server answered, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    pub by_name: BTreeMap<String, u32>,
    /// Requests without a proper answer.
    pub failed: u32,
}

impl Spread {
    #[must_use]
    pub fn of(&self, name: &str) -> u32 {
        self.by_name.get(name).copied().unwrap_or_default()
    }
}

/// Sends `count` requests by one curl, each on a new connection, one after the
/// other. `url` must answer with a name.
///
/// # Errors
/// If curl can't be started.
pub fn spread(namespace: &Namespace, url: &str, count: u32) -> Result<Spread> {
    let mut curl = namespace.command("curl");
    curl.args(["-s", "--fail", "--connect-timeout", "1", "--max-time", "3"])
        .args(["-H", "Connection: close"])
        .arg(format!("{url}?[1-{count}]"));
    let answers = output(&mut curl)?.stdout;
    interrupt::check()?;
    let mut spread = Spread::default();
    for name in String::from_utf8_lossy(&answers).lines() {
        *spread.by_name.entry(name.to_owned()).or_default() += 1;
    }
    spread.failed = count.saturating_sub(spread.by_name.values().sum());
    Ok(spread)
}

/// One request on a connection of its own.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub began: Instant,
    pub ended: Instant,
    /// The name that the server answered with, or what went wrong.
    pub answer: Result<String, String>,
}

/// New connections without a break, from several threads.
#[derive(Debug, Default)]
pub struct Load {
    attempts: Mutex<Vec<Attempt>>,
    stopped: AtomicBool,
}

impl Load {
    /// Runs `workers` threads in the namespace that request `/` of `server`
    /// again and again with `pause` between, while `scenario` runs. Gives all
    /// attempts in the order in which they ended.
    ///
    /// # Errors
    /// If `scenario` fails or the namespace can't be entered.
    pub fn during<T>(
        namespace: &Namespace,
        server: SocketAddrV4,
        workers: usize,
        pause: Duration,
        scenario: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<(T, Vec<Attempt>)> {
        let load = Self::default();
        let outcome = thread::scope(|scope| {
            let threads: Vec<_> = (0..workers)
                .map(|_| scope.spawn(|| load.work(namespace, server.into(), pause)))
                .collect();
            let outcome = scenario(&load);
            load.stopped.store(true, Ordering::Relaxed);
            for thread in threads {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client thread panicked"))??;
            }
            outcome
        })?;
        let attempts = load
            .attempts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok((outcome, attempts))
    }

    /// What there is so far.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn work(&self, namespace: &Namespace, server: SocketAddr, pause: Duration) -> Result<()> {
        namespace.join()?;
        while !self.stopped.load(Ordering::Relaxed) {
            let began = Instant::now();
            let answer = request(server).map_err(|error| format!("{error:#}"));
            let attempt = Attempt {
                began,
                ended: Instant::now(),
                answer,
            };
            self.attempts
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(attempt);
            thread::sleep(pause);
        }
        Ok(())
    }
}

/// `GET /` on a new connection, from the calling thread's namespace.
fn request(server: SocketAddr) -> Result<String> {
    let timeout = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&server, timeout).context("connect")?;
    stream.set_read_timeout(Some(timeout))?;
    let head = format!("GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).context("send")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("receive")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(
        head.starts_with("HTTP/1.1 200"),
        "{}",
        head.lines().next().unwrap_or_default()
    );
    Ok(body.trim().to_owned())
}

/// Sends datagrams to an echo service from one socket, one after the other,
/// and checks that each comes back from there, with its content.
///
/// # Errors
/// If one doesn't.
pub fn udp_echo(namespace: &Namespace, server: SocketAddrV4, sizes: &[usize]) -> Result<()> {
    namespace.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // Connected: only datagrams from the server's address get through.
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        for (round, &size) in sizes.iter().enumerate() {
            let sent: Vec<u8> = (0..size).map(|byte| (byte + round) as u8).collect();
            socket.send(&sent)?;
            let mut received = vec![0; size + 1];
            let length = socket
                .recv(&mut received)
                .with_context(|| format!("no echo of datagram {round} ({size} bytes)"))?;
            ensure!(
                received[..length] == sent[..],
                "the echo of datagram {round} differs"
            );
        }
        Ok(())
    })?
}
