//! A server at thousands of ports that answers health checks, and fails those
//! of one port on demand: one thread, which waits for all of them at once.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use super::process;

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
const BAD: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// How soon it sees that it is to end.
const PATIENCE: u16 = 50;

/// Serves until it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    /// Connections that were accepted.
    accepted: AtomicU64,
    failing: Mutex<Failing>,
}

#[derive(Default)]
struct Failing {
    port: Option<u16>,
    /// When each failing answer was about to be sent, by CLOCK_MONOTONIC.
    answers: Vec<Duration>,
}

impl Server {
    /// Listens at so many ports of the calling thread's namespace.
    pub fn start(first: u16, count: u16) -> Result<Self> {
        let mut worker = Worker::new()?;
        for port in first..first + count {
            worker.listen(port)?;
        }
        let shared = Arc::clone(&worker.shared);
        let thread = std::thread::spawn(move || worker.run());
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Connections that were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// From now on checks of this port fail, and of no other.
    pub fn fail(&self, port: Option<u16>) {
        *self.shared.failing() = Failing {
            port,
            answers: Vec::new(),
        };
    }

    /// When the nth failing answer was sent since [`fail`](Self::fail), from 0.
    pub fn failed_at(&self, index: usize) -> Option<Duration> {
        self.shared.failing().answers.get(index).copied()
    }

    /// Fails if the thread has ended, with why.
    pub fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            return self.end();
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let ended = thread.join();
        ended.map_err(|_| anyhow::anyhow!("the server panicked"))?
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Err(error) = self.end() {
            eprintln!("the server of health checks failed: {error:#}");
        }
    }
}

impl Shared {
    fn failing(&self) -> MutexGuard<'_, Failing> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    epoll: Epoll,
    /// By port.
    listeners: HashMap<u16, TcpListener>,
    /// With their ports, by descriptor.
    connections: HashMap<i32, (TcpStream, u16)>,
    shared: Arc<Shared>,
}

/// Marks events of listeners, beside descriptors of connections.
const LISTENER: u64 = 1 << 32;

impl Worker {
    fn new() -> Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            listeners: HashMap::new(),
            connections: HashMap::new(),
            shared: Arc::default(),
        })
    }

    fn listen(&mut self, port: u16) -> Result<()> {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let listener = TcpListener::bind(address).with_context(|| format!("port {port}"))?;
        listener.set_nonblocking(true)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, LISTENER | u64::from(port));
        self.epoll.add(&listener, event)?;
        self.listeners.insert(port, listener);
        Ok(())
    }

    fn run(mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        while !self.shared.ends.load(Ordering::Relaxed) {
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(PATIENCE)) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                let data = event.data();
                if data & LISTENER != 0 {
                    self.accept(data as u16)?;
                } else {
                    self.answer(data as i32)?;
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, port: u16) -> Result<()> {
        let Some(listener) = self.listeners.get(&port) else {
            return Ok(());
        };
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // The client may have gone again.
            Err(error) if is_transient(error.kind()) => return Ok(()),
            Err(error) => return Err(error).context("no check can be accepted"),
        };
        self.shared.accepted.fetch_add(1, Ordering::Relaxed);
        stream.set_nonblocking(true)?;
        let descriptor = stream.as_raw_fd();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, descriptor as u64);
        self.epoll.add(&stream, event)?;
        self.connections.insert(descriptor, (stream, port));
        Ok(())
    }

    /// Answers what came whole, and closes, as `Connection: close` asks. A
    /// check that only connects sends nothing and closes.
    fn answer(&mut self, descriptor: i32) -> Result<()> {
        let Some((mut stream, port)) = self.connections.remove(&descriptor) else {
            return Ok(());
        };
        let mut request = [0; 2_048];
        let length = match stream.read(&mut request) {
            Ok(length) => length,
            Err(error) if is_transient(error.kind()) => 0,
            Err(error) => return Err(error).context("a check can't be read"),
        };
        if length == 0 {
            return Ok(());
        }
        // The agent sends a check's request by one write.
        ensure!(
            request[..length].ends_with(b"\r\n\r\n"),
            "half a request came"
        );
        // A client that has gone doesn't want it.
        let _ = stream.write_all(self.verdict(port)?);
        Ok(())
    }

    fn verdict(&self, port: u16) -> Result<&'static [u8]> {
        let mut failing = self.shared.failing();
        if failing.port != Some(port) {
            return Ok(GOOD);
        }
        failing.answers.push(process::now()?);
        Ok(BAD)
    }
}

/// What a client that goes in the middle makes of a socket.
fn is_transient(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::Interrupted
    )
}
