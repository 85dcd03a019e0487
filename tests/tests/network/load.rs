//! As fast as it goes, for a few seconds.

use anyhow::{Result, ensure};
use xlb_tests::{
    iperf::{self, Direction},
    server,
    topology::{BALANCER, Family},
    wrk::{Connections, wrk},
    xlb::{Listener, TargetGroup},
};

use super::scenario::{Mode, Setup, VIP};

fn requests(mode: Mode, connections: Connections, enough: u64) -> Result<()> {
    let scenario = Setup::new(mode, 2).start()?;
    let url = format!("http://{VIP}/");
    let report = wrk(&scenario.topology.client, &url, connections, 50, 3)?;
    ensure!(
        report.errors == 0,
        "{} of {} requests failed",
        report.errors,
        report.requests
    );
    ensure!(
        report.requests > enough,
        "only {} requests in 3 s",
        report.requests
    );
    Ok(())
}

#[test]
fn wrk_local() -> Result<()> {
    requests(Mode::Local, Connections::Kept, 1000)
}

#[test]
fn wrk_source_nat() -> Result<()> {
    requests(Mode::OneArm, Connections::Kept, 1000)
}

#[test]
fn wrk_preserve_client_ip() -> Result<()> {
    requests(Mode::Preserve, Connections::Kept, 1000)
}

#[test]
fn wrk_new_connections_local() -> Result<()> {
    requests(Mode::Local, Connections::New, 500)
}

#[test]
fn wrk_new_connections_source_nat() -> Result<()> {
    requests(Mode::OtherInterface, Connections::New, 500)
}

/// Adds a listener for iperf3 with the first target only, since a test of
/// iperf3's takes several connections to one server.
fn bulk(mode: Mode) -> Result<()> {
    let setup = Setup::new(mode, 2);
    let topology = setup.topology()?;
    let place = iperf::beside(&topology.targets[0]);
    let listener = Family::V4.at(BALANCER, 5000);
    let mut config = setup.config(&topology);
    config.listeners.push(Listener {
        name: "bulk".into(),
        address: listener,
        target_group: "bulk".into(),
        ..config.listeners[0].clone()
    });
    config.target_groups.push(TargetGroup {
        name: "bulk".into(),
        targets: vec![(place.address, 1)],
        health_port: Some(topology.targets[0].address.port()),
        ..config.target_groups[0].clone()
    });
    let _server = server::iperf(&place, topology.directory())?;
    let scenario = setup.start_with(topology, &config)?;
    for direction in [Direction::Up, Direction::Down] {
        let report = iperf::iperf(&scenario.topology.client, listener, direction, 2)?;
        ensure!(
            report.bytes > 10 << 20,
            "{direction:?}: only {} bytes in 2 s",
            report.bytes
        );
    }
    Ok(())
}

#[test]
fn iperf_local() -> Result<()> {
    bulk(Mode::Local)
}

#[test]
fn iperf_source_nat_one_arm() -> Result<()> {
    bulk(Mode::OneArm)
}

#[test]
fn iperf_preserve_client_ip() -> Result<()> {
    bulk(Mode::Preserve)
}
