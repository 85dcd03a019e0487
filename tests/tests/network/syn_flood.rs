//! A flood of SYNs from nobody, while real clients go on.

use std::{
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use xlb_tests::{client::request_kept, syn_flood::flood};

use super::scenario::{Mode, Scenario, Setup};

/// Half-open flows that there is room for, the default.
const HALF_OPEN: u64 = 65_536;
/// So many if the machine is fast enough, and at least enough to displace all
/// half-open flows several times over.
const SYNS: u64 = 5_000_000;
const ENOUGH: u64 = 4 * HALF_OPEN;
const LONGEST: Duration = Duration::from_secs(40);
const CONNECTIONS: usize = 1000;

/// Clients with connections that last, and one with new ones.
#[derive(Default)]
struct Clients {
    ended: AtomicBool,
    answers: AtomicU64,
    new: AtomicU64,
    /// New connections that failed.
    lost: AtomicU64,
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
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// A new connection now and then. A SYN may be lost in a flood, and is
    /// sent again; and of a connection whose handshake isn't over the flood may
    /// take the port, which the client sees as a reset.
    fn begin(&self, scenario: &Scenario) -> Result<()> {
        scenario.topology.client.join()?;
        while !self.ended.load(Ordering::Relaxed) {
            let answer = connect(scenario.listener).and_then(|mut it| request_kept(&mut it));
            let count = if answer.is_ok() {
                &self.new
            } else {
                &self.lost
            };
            count.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn connect(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
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
        let sent = flood(&scenario.topology.client, listener, SYNS, LONGEST);
        clients.ended.store(true, Ordering::Relaxed);
        (sent, kept.join(), new.join())
    });
    let counts = [&clients.answers, &clients.new, &clients.lost];
    let [answers, new_count, lost] = counts.map(|count| count.load(Ordering::Relaxed));
    let (Ok(kept), Ok(new)) = (kept, new) else {
        bail!("a client panicked");
    };
    kept.and(new)?;
    let sent = sent?;
    println!("{sent} SYNs sent; {new_count} new connections, {lost} failed");
    ensure!(sent >= ENOUGH, "only {sent} SYNs were sent in {LONGEST:?}");
    let began = scenario.xlb.status()?.listeners[0].traffic.new_flows;
    // On a slow machine a round takes as long as the flood.
    ensure!(
        began >= ENOUGH / 2 && answers >= CONNECTIONS as u64 && new_count > 20,
        "{began} flows began; {answers} answers, {new_count} new connections"
    );
    ensure!(
        lost * 20 <= new_count,
        "{lost} new connections failed, {new_count} didn't"
    );
    // And none of the thousand is broken after it.
    let mut alive = 0;
    for stream in &mut established {
        alive += usize::from(request_kept(stream).is_ok());
    }
    ensure!(alive == CONNECTIONS, "{alive} connections are left");
    Ok(())
}
