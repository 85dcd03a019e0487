//! What becomes of a connection that is idle, or whose target turns unhealthy.

use std::{
    io::{self, ErrorKind, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xlb_tests::{
    client::request_kept,
    process::Process,
    topology::{Family, Far},
    tunnel::Encapsulation,
    wait,
};

use super::{
    dsr::{Dsr, Way},
    scenario::{Mode, Scenario, Setup},
};

fn ask(stream: &mut TcpStream, path: &str) -> Result<()> {
    let head = format!("GET /{path} HTTP/1.1\r\nHost: web\r\n\r\n");
    Ok(stream.write_all(head.as_bytes())?)
}

/// Sends a request, which is answered by a RST; what had come before is read.
fn expect_reset(stream: &mut TcpStream) -> Result<()> {
    ask(stream, "")?;
    let error = io::copy(stream, &mut io::sink()).err();
    let error = error.context("the server has closed the connection")?;
    ensure!(
        error.kind() == ErrorKind::ConnectionReset,
        "no RST but: {error:#}"
    );
    Ok(())
}

/// A connection lives while it has something to say at least every two
/// seconds, and no longer.
fn idle(family: Family, mode: Mode) -> Result<()> {
    let setup = Setup::in_family(family, mode, 2);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.settings = "timeouts.tcp_established = \"2s\"\n".into();
    let scenario = setup.start_with(topology, &config)?;
    let mut stream = scenario.connect()?;
    let name = request_kept(&mut stream)?;
    for _ in 0..4 {
        wait::pause(Duration::from_millis(1500))?;
        ensure!(request_kept(&mut stream)? == name, "another target");
    }
    // Longer than from one sweep to the next.
    wait::pause(Duration::from_millis(8500))?;
    expect_reset(&mut stream)?;
    ensure!(scenario.drops("flow_reset")? == 1, "no RST of xlb's");
    ensure!(scenario.get("/")?.starts_with("web"), "no new connection");
    Ok(())
}

#[test]
fn idle_local() -> Result<()> {
    idle(Family::V4, Mode::Local)
}

#[test]
fn idle_source_nat() -> Result<()> {
    idle(Family::V4, Mode::OneArm)
}

#[test]
fn idle_preserve_client_ip_v6() -> Result<()> {
    idle(Family::V6, Mode::Preserve)
}

/// Two targets, and a connection to one of them.
fn connected(family: Family, mode: Mode, setting: &str) -> Result<(Scenario, TcpStream, String)> {
    let setup = Setup::in_family(family, mode, 2);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.target_groups[0].settings = format!("{setting}\n");
    let scenario = setup.start_with(topology, &config)?;
    let mut stream = scenario.connect()?;
    let name = request_kept(&mut stream)?;
    Ok((scenario, stream, name))
}

/// A target's health check fails, while its service goes on.
fn fail(scenario: &Scenario, name: &str) -> Result<()> {
    scenario.set_health(usize::from(name == "web2"), false)?;
    ensure!(
        scenario.spread(50)?.of(name) == 0,
        "new connections at an unhealthy target"
    );
    Ok(())
}

fn is_reset(family: Family, mode: Mode) -> Result<()> {
    let (scenario, mut stream, name) = connected(family, mode, "on_unhealthy = \"reset\"")?;
    fail(&scenario, &name)?;
    let before = scenario.drops("flow_reset")?;
    expect_reset(&mut stream)?;
    ensure!(
        scenario.drops("flow_reset")? > before,
        "the RST was somebody else's"
    );
    Ok(())
}

#[test]
fn unhealthy_is_reset_v4() -> Result<()> {
    is_reset(Family::V4, Mode::OneArm)
}

#[test]
fn unhealthy_is_reset_v6() -> Result<()> {
    is_reset(Family::V6, Mode::Preserve)
}

/// A client that only waits is told too, soon.
fn waiting_is_reset(family: Family, mode: Mode) -> Result<()> {
    let (scenario, stream, name) = connected(family, mode, "on_unhealthy = \"reset\"")?;
    // A sweep must have seen the target alive.
    wait::pause(Duration::from_secs(6))?;
    let before = scenario.drops("flow_reset")?;
    fail(&scenario, &name)?;
    expect_reset_of_waiting(&stream)?;
    ensure!(
        scenario.drops("flow_reset")? > before,
        "the RST was somebody else's"
    );
    Ok(())
}

fn expect_reset_of_waiting(mut stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(12)))?;
    let error = io::copy(&mut stream, &mut io::sink()).err();
    let error = error.context("the server has closed the connection")?;
    ensure!(
        error.kind() == ErrorKind::ConnectionReset,
        "no RST but: {error:#}"
    );
    Ok(())
}

#[test]
fn waiting_is_reset_source_nat_v4() -> Result<()> {
    waiting_is_reset(Family::V4, Mode::OneArm)
}

#[test]
fn waiting_is_reset_preserve_client_ip_v6() -> Result<()> {
    waiting_is_reset(Family::V6, Mode::Preserve)
}

#[test]
fn waiting_is_reset_local_v4() -> Result<()> {
    waiting_is_reset(Family::V4, Mode::Local)
}

#[test]
fn waiting_is_reset_dsr_v4() -> Result<()> {
    let way = Way::by(Encapsulation::Ipip, Family::V4, Family::V4);
    let dsr = Dsr::start(way, 2, Far::Nobody)?;
    let mut stream = dsr.scenario.connect()?;
    let name = request_kept(&mut stream)?;
    wait::pause(Duration::from_secs(6))?;
    fail(&dsr.scenario, &name)?;
    expect_reset_of_waiting(&stream)
}

/// Prints every TCP packet that the balancer's host sends to the client.
fn watch(scenario: &Scenario) -> Result<Process> {
    let mut tcpdump = scenario.topology.client.command("tcpdump");
    tcpdump.args(["-n", "-q", "-l", "--immediate-mode", "-i", "eth0"]);
    tcpdump.arg(format!("tcp and src host {}", scenario.listener.ip()));
    let log = scenario.topology.directory().join("watch.log");
    let mut watch = Process::spawn(&mut tcpdump, &log)?;
    watch.wait_for_line("listening on", Duration::from_secs(5))?;
    Ok(watch)
}

/// The target is on the balancer's host and has more to send: none of that
/// gets to the client, which would know nothing of its port.
fn local_is_reset(family: Family) -> Result<()> {
    let setting = "on_unhealthy = \"reset\"";
    let (scenario, mut stream, name) = connected(family, Mode::Local, setting)?;
    let watch = watch(&scenario)?;
    ask(&mut stream, "small?rate=4k")?;
    fail(&scenario, &name)?;
    let before = scenario.drops("flow_reset")?;
    wait::until("the target to go on", Duration::from_secs(5), || {
        Ok((scenario.drops("flow_reset")? > before + 1).then_some(()))
    })?;
    expect_reset(&mut stream)?;
    // The target sends what isn't acknowledged again.
    wait::pause(Duration::from_secs(2))?;
    let next = request_kept(&mut scenario.connect()?)?;
    ensure!(next != name, "the next connection is at {name} too");

    let output = watch.output();
    let mut packets = output.lines().filter(|line| line.contains(" > "));
    let from = format!("{}.{} > ", scenario.listener.ip(), scenario.listener.port());
    ensure!(
        packets.clone().count() > 50,
        "packets weren't seen: {output}"
    );
    let other = packets.find(|line| !line.contains(&from));
    ensure!(other.is_none(), "a packet that wasn't rewritten: {other:?}");
    Ok(())
}

#[test]
fn unhealthy_local_is_reset_v4() -> Result<()> {
    local_is_reset(Family::V4)
}

#[test]
fn unhealthy_local_is_reset_v6() -> Result<()> {
    local_is_reset(Family::V6)
}

fn is_kept(family: Family, mode: Mode) -> Result<()> {
    let (scenario, mut stream, name) = connected(family, mode, "on_unhealthy = \"keep\"")?;
    fail(&scenario, &name)?;
    for _ in 0..7 {
        ensure!(request_kept(&mut stream)? == name, "another target");
        // Longer than from one sweep to the next.
        wait::pause(Duration::from_secs(1))?;
    }
    Ok(())
}

#[test]
fn unhealthy_is_kept_v4() -> Result<()> {
    is_kept(Family::V4, Mode::OneArm)
}

#[test]
fn unhealthy_is_kept_v6() -> Result<()> {
    is_kept(Family::V6, Mode::Preserve)
}
