//! What becomes of a connection that is idle, or whose target turns unhealthy.

use std::{io::ErrorKind, net::TcpStream, time::Duration};

use anyhow::{Context as _, Result, ensure};
use xlb_tests::{
    client::request_kept,
    server::{Kind, WebServer},
    topology::Family,
    wait,
};

use super::scenario::{HEALTH, Mode, Scenario, Setup};

/// Where a server beside each target answers the health checks.
const CHECK: u16 = 9000;

fn connect(scenario: &Scenario) -> Result<TcpStream> {
    let connected = scenario
        .topology
        .client
        .enter(|| TcpStream::connect_timeout(&scenario.listener, Duration::from_secs(2)))?;
    let stream = connected.context("no connection")?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

/// Sends a request, which is answered by a RST.
fn expect_reset(stream: &mut TcpStream) -> Result<()> {
    let error = request_kept(stream).err().context("the connection lives")?;
    let kind = error.downcast_ref().map(std::io::Error::kind);
    ensure!(
        kind == Some(ErrorKind::ConnectionReset),
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
    let mut stream = connect(&scenario)?;
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

/// A target's health check fails, while its service goes on.
fn unhealthy(family: Family, mode: Mode, setting: &str) -> Result<(Scenario, TcpStream, String)> {
    let setup = Setup::in_family(family, mode, 2);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    let group = &mut config.target_groups[0];
    group.settings = format!("{setting}\n");
    group.health_port = Some(CHECK);
    let directory = topology.directory().to_owned();
    let mut checks = Vec::new();
    for (n, place) in (1..).zip(&topology.targets) {
        let mut place = place.clone();
        place.address.set_port(CHECK);
        let name = format!("check{n}");
        checks.push(WebServer::start(
            Kind::Nginx,
            &name,
            &place,
            None,
            &directory,
        )?);
    }
    let scenario = setup.start_with(topology, &config)?;
    let mut stream = connect(&scenario)?;
    let name = request_kept(&mut stream)?;
    let index = usize::from(name == "web2");
    checks[index].kill();
    let target = scenario.servers[index].place.address;
    scenario.xlb.wait_for_health(target, "unhealthy", HEALTH)?;
    ensure!(
        scenario.spread(50)?.of(&name) == 0,
        "new connections at an unhealthy target"
    );
    Ok((scenario, stream, name))
}

fn is_reset(family: Family, mode: Mode) -> Result<()> {
    let (scenario, mut stream, _) = unhealthy(family, mode, "on_unhealthy = \"reset\"")?;
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

#[test]
fn unhealthy_is_kept() -> Result<()> {
    let setting = "on_unhealthy = \"keep\"";
    let (_scenario, mut stream, name) = unhealthy(Family::V4, Mode::OneArm, setting)?;
    for _ in 0..7 {
        ensure!(request_kept(&mut stream)? == name, "another target");
        // Longer than from one sweep to the next.
        wait::pause(Duration::from_secs(1))?;
    }
    Ok(())
}
