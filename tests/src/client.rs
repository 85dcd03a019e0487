//! Clients: curl for what a test measures, and small ones in this process
//! where a test must know when each connection was made.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::{output, run, run_words},
    interrupt,
    netns::Namespace,
    process::Process,
    wait,
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

/// A download by curl that runs beside the test.
#[derive(Debug)]
pub struct Download {
    process: Process,
    /// The server that it comes from, by its name.
    pub server: String,
    pub copy: PathBuf,
}

impl Download {
    /// Begins a download to a file that isn't there yet, and waits for the
    /// answer's header. It reads 5 MB a second at most, in bursts.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn start(namespace: &Namespace, url: &str, copy: &Path) -> Result<Self> {
        let head = copy.with_extension("head");
        let mut curl = namespace.command("curl");
        curl.args(["-sS", "--fail", "--connect-timeout", "5"])
            .args(["--limit-rate", "5m", "-D"])
            .arg(&head)
            .arg("-o")
            .arg(copy)
            .arg(url);
        let mut process = Process::spawn(&mut curl, &copy.with_extension("log"))?;
        let server = wait::until("a download to begin", Duration::from_secs(10), || {
            if let Some(status) = process.ended()? {
                bail!("curl ended early ({status}): {}", process.output());
            }
            let head = fs::read_to_string(&head).unwrap_or_default();
            let mut lines = head.lines();
            let name = lines.find_map(|line| line.strip_prefix("X-Target: "));
            Ok(name.map(str::to_owned))
        })?;
        Ok(Self {
            process,
            server,
            copy: copy.to_owned(),
        })
    }

    /// Whether it goes on.
    ///
    /// # Errors
    /// If the kernel doesn't say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// Waits until it ends. Says whether it was whole, or what curl said.
    ///
    /// # Errors
    /// If that takes longer than `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<Result<(), String>> {
        let status = self.process.wait(timeout)?;
        Ok(match status.success() {
            true => Ok(()),
            false => Err(self.process.output().trim().to_owned()),
        })
    }
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
    spread_by(namespace.command("curl"), url, count)
}

/// The same from one of the namespace's addresses.
///
/// # Errors
/// As [`spread`].
pub fn spread_from(namespace: &Namespace, source: IpAddr, url: &str, count: u32) -> Result<Spread> {
    let mut curl = namespace.command("curl");
    curl.args(["--interface", &source.to_string()]);
    spread_by(curl, url, count)
}

fn spread_by(mut curl: Command, url: &str, count: u32) -> Result<Spread> {
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
        server: SocketAddr,
        workers: usize,
        pause: Duration,
        scenario: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<(T, Vec<Attempt>)> {
        let load = Self::default();
        let outcome = thread::scope(|scope| {
            let threads: Vec<_> = (0..workers)
                .map(|_| scope.spawn(|| load.work(namespace, server, pause)))
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

/// `GET /` on a connection that stays open, to the end of the answer.
///
/// # Errors
/// If there is none.
pub fn request_kept(stream: &mut TcpStream) -> Result<String> {
    let server = stream.peer_addr()?;
    let head = format!("GET / HTTP/1.1\r\nHost: {server}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    // A name and the end of its line are the whole body.
    while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
        let length = stream.read(&mut part)?;
        ensure!(length > 0, "the server has closed the connection");
        answer.extend_from_slice(&part[..length]);
    }
    let answer = String::from_utf8_lossy(&answer);
    let (_, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    Ok(body.trim().to_owned())
}

/// A socket that is connected to a service: only datagrams from its address get
/// through, and they are waited for for two seconds.
///
/// # Errors
/// If it can't be had.
pub fn udp_socket(namespace: &Namespace, server: SocketAddr) -> Result<UdpSocket> {
    namespace.enter(|| {
        let socket = UdpSocket::bind(any_port(server))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(socket)
    })?
}

/// Sends datagrams to an echo service, one after the other, and checks that each
/// comes back from there, with its content.
///
/// # Errors
/// If one doesn't.
pub fn udp_echo(socket: &UdpSocket, sizes: &[usize]) -> Result<()> {
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
}

/// As [`udp_echo`], from so many sockets, one after the other. Each stays until
/// the last is done: the kernel may give a closed one's port to the next, and
/// that would be the same flow.
///
/// # Errors
/// As there.
pub fn udp_echoes(
    namespace: &Namespace,
    server: SocketAddr,
    count: usize,
    sizes: &[usize],
) -> Result<()> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = udp_socket(namespace, server)?;
        udp_echo(&socket, sizes)?;
        sockets.push(socket);
    }
    Ok(())
}

/// Any port of any address, in a server's family.
#[must_use]
pub fn any_port(server: SocketAddr) -> SocketAddr {
    match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Uploads a file by curl.
///
/// # Errors
/// If it isn't taken within a minute.
pub fn upload(namespace: &Namespace, file: &Path, url: &str) -> Result<()> {
    let mut curl = namespace.command("curl");
    curl.args(["-sS", "--fail", "--connect-timeout", "5"])
        .args(["--max-time", "60", "--upload-file"])
        .arg(file)
        .arg(url);
    run(&mut curl).map(drop)
}
