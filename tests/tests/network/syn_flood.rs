//! A flood of SYNs from nobody, while real clients go on.

use std::{
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use xlb_tests::{client::request_kept, syn_flood::flood, wait};

use super::scenario::{Mode, Scenario, Setup};

/// Half-open flows that there is room for, the default.
const HALF_OPEN: u64 = 65_536;
const SYNS: u64 = 5_000_000;
/// A second: so many that all source ports are taken after two, and so few that
/// two processors do it all.
const RATE: u64 = 50_000;
const LONGEST: Duration = Duration::from_secs(300);
const CONNECTIONS: usize = 1000;

/// Clients with connections that last, and one with new ones.
#[derive(Default)]
struct Clients {
    ended: AtomicBool,
    answers: AtomicU64,
    new: AtomicU64,
}

impl Clients {
    /// A request on each connection, again and again.
    fn keep(&self, connections: &mut [TcpStream]) -> Result<()> {
        while !self.ended.load(Ordering::Relaxed) {
            for (index, stream) in connections.iter_mut().enumerate() {
                let answer = request_kept(stream);
                answer.with_context(|| format!("established connection {index}"))?;
                self.answers.fetch_add(1, Ordering::Relaxed);
                // A round in two seconds: the flood is to have the processors.
                wait::pause(Duration::from_millis(2))?;
            }
        }
        Ok(())
    }

    /// A new connection, again and again. Each succeeds; one of eight takes a
    /// second or more: its SYN got the source port of one that its target still
    /// holds half-open, and was taken for a segment of that.
    fn begin(&self, scenario: &Scenario) -> Result<()> {
        scenario.topology.client.join()?;
        while !self.ended.load(Ordering::Relaxed) {
            let answer = connect(scenario.listener).and_then(|mut it| request_kept(&mut it));
            let number = self.new.fetch_add(1, Ordering::Relaxed);
            answer.with_context(|| format!("new connection {number}"))?;
            wait::pause(Duration::from_millis(50))?;
        }
        Ok(())
    }
}

/// With the patience for five SYNs, at 0, 1, 3, 7 and 15 s.
const PATIENCE: Duration = Duration::from_secs(30);

fn connect(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn connections(scenario: &Scenario) -> Result<Vec<TcpStream>> {
    scenario.topology.client.enter(|| {
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = connect(scenario.listener)?;
            request_kept(&mut stream)?;
            all.push(stream);
        }
        Ok(all)
    })?
}

/// By source NAT, for which a flood wants source ports too.
#[test]
fn established_connections_survive_and_new_ones_begin() -> Result<()> {
    let setup = Setup::new(Mode::OtherInterface, 2);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.settings = format!("capacity.half_open_flows = {HALF_OPEN}\n");
    let scenario = setup.start_with(topology, &config)?;
    let SocketAddr::V4(listener) = scenario.listener else {
        bail!("the flood is of IPv4");
    };
    let mut established = connections(&scenario)?;
    let clients = Clients::default();
    let (sent, kept, new) = thread::scope(|scope| {
        let kept = scope.spawn(|| clients.keep(&mut established));
        let new = scope.spawn(|| clients.begin(&scenario));
        let sent = flood(&scenario.topology.client, listener, SYNS, RATE, LONGEST);
        clients.ended.store(true, Ordering::Relaxed);
        (sent, kept.join(), new.join())
    });
    let (Ok(kept), Ok(new)) = (kept, new) else {
        bail!("a client panicked");
    };
    kept.and(new)?;
    let sent = sent?;
    ensure!(sent >= SYNS, "only {sent} SYNs were sent in {LONGEST:?}");
    let began = scenario.xlb.status()?.listeners[0].traffic.new_flows;
    let [answers, new] =
        [&clients.answers, &clients.new].map(|count| count.load(Ordering::Relaxed));
    ensure!(
        began >= SYNS && answers > 3 * CONNECTIONS as u64 && new > 100,
        "{began} flows began; {answers} answers, {new} new connections"
    );
    // And none of the thousand is broken after it.
    let mut alive = 0;
    for stream in &mut established {
        alive += usize::from(request_kept(stream).is_ok());
    }
    ensure!(alive == CONNECTIONS, "{alive} connections are left");
    Ok(())
}
