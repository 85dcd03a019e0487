//! 10,000 targets, each checked every second: the agent's time and memory.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use xlb_tests::{wait, xlb::Xlb};

use super::{
    Rig,
    config::{FIRST_PORT, Plan},
    load, process,
    server::Server,
};
use crate::report::Row;

/// Of a core.
const CPU: f64 = 0.5;
/// Megabytes.
const MEMORY: f64 = 200.0;
const HEALTHY: Duration = Duration::from_secs(30);
/// Checks that may be late, of all.
const LATE: f64 = 0.05;

const KINDS: [(&str, &str); 2] = [
    ("HTTP", "interval = \"1s\"\ntimeout = \"900ms\""),
    (
        "TCP",
        "protocol = \"tcp\"\ninterval = \"1s\"\ntimeout = \"900ms\"",
    ),
];

pub fn measure(rig: &Rig) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (kind, health_check) in KINDS {
        let plan = Plan {
            health_check,
            ..load::PLAN
        };
        let mut server = Server::start(FIRST_PORT, plan.ports())?;
        let xlb = load::start(rig, &plan.text())?;
        healthy(&xlb, &server, plan.targets())?;
        let found = observe(rig, &xlb, &server, plan.targets())?;
        let floor = (kind == "HTTP").then(|| floor(rig, &plan)).transpose()?;
        server.check()?;
        let status = xlb.status()?;
        let failures: u64 = status.targets().map(|(_, it)| it.checks.failures).sum();
        ensure!(failures == 0, "{failures} checks failed");
        xlb.unload()?;
        if let Some(floor) = floor {
            let case = "floor: the system calls of 10,000 HTTP checks: CPU time";
            rows.push(Row::found(case, "cores", &floor));
        }
        let case = |what: &str| format!("10,000 {kind} checks a second: {what}");
        rows.extend([
            Row::limited(case("CPU time"), "cores", &found.cpu, CPU),
            Row::found(case("of that in user space"), "cores", &found.user),
            Row::found(case("checks made"), "a second", &found.checks),
            Row::limited(case("resident memory"), "MB", &found.memory, MEMORY),
        ]);
    }
    Ok(rows)
}

/// Waits until every target has been checked and is healthy. The status of so
/// many isn't asked for more often than must be: that costs too.
pub fn healthy(xlb: &Xlb, server: &Server, targets: u32) -> Result<()> {
    wait::until("all targets to be checked", HEALTHY, || {
        Ok((server.accepted() >= targets.into()).then_some(()))
    })
    .with_context(|| format!("the agent's log: {}", xlb.log().trim()))?;
    xlb.wait_until_healthy(HEALTHY)
}

const REQUEST: &[u8] = b"GET /system/check HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// What a check can't do without: a socket, a connection, a request, its answer,
/// and the end by a RST; one after the other, and nothing else. In cores, of so
/// many a second as there are targets, a value for each second.
fn floor(rig: &Rig, plan: &Plan) -> Result<Vec<f64>> {
    let addresses = (FIRST_PORT..FIRST_PORT + plan.ports()).cycle();
    let mut addresses = addresses.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut cores = Vec::new();
    for _ in 0..rig.seconds {
        let (end, before) = (
            Instant::now() + Duration::from_secs(1),
            process::own_time()?,
        );
        let mut checks = 0;
        while Instant::now() < end {
            bare_check(addresses.next().context("no port")?)?;
            checks += 1;
        }
        let each = (process::own_time()? - before) / checks;
        cores.push(each.as_secs_f64() * f64::from(plan.targets()));
    }
    Ok(cores)
}

fn bare_check(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).context("a bare check")?;
    let reset = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &reset)?;
    stream.write_all(REQUEST)?;
    let length = stream.read(&mut [0; 1_024])?;
    ensure!(length > 0, "a bare check had no answer");
    Ok(())
}

/// A value for each second.
#[derive(Default)]
struct Found {
    cpu: Vec<f64>,
    user: Vec<f64>,
    checks: Vec<f64>,
    memory: Vec<f64>,
}

fn observe(rig: &Rig, xlb: &Xlb, server: &Server, targets: u32) -> Result<Found> {
    // What the first checks and the status cost is over.
    wait::pause(Duration::from_secs(2))?;
    let mut found = Found::default();
    let mut before = Sample::take(xlb.id(), server)?;
    for _ in 0..rig.seconds {
        wait::pause(Duration::from_secs(1))?;
        let now = Sample::take(xlb.id(), server)?;
        let seconds = (now.time - before.time).as_secs_f64();
        let user = (now.user - before.user).as_secs_f64();
        let system = (now.system - before.system).as_secs_f64();
        found.cpu.push((user + system) / seconds);
        found.user.push(user / seconds);
        found
            .checks
            .push((now.checks - before.checks) as f64 / seconds);
        found.memory.push(process::resident(xlb.id())?);
        before = now;
    }
    let mean = found.checks.iter().sum::<f64>() / f64::from(rig.seconds);
    ensure!(
        mean >= f64::from(targets) * (1.0 - LATE),
        "{mean:.0} checks a second were made, {targets} are meant"
    );
    Ok(found)
}

struct Sample {
    time: Instant,
    user: Duration,
    system: Duration,
    checks: u64,
}

impl Sample {
    fn take(pid: u32, server: &Server) -> Result<Self> {
        let (user, system) = process::cpu_time(pid)?;
        Ok(Self {
            time: Instant::now(),
            user,
            system,
            checks: server.accepted(),
        })
    }
}
