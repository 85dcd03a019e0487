//! UDP through the balancer, to socat.

use anyhow::{Result, ensure};
use xlb_tests::{
    client,
    server::{Kind, WebServer, udp_echo},
    topology::Peers,
    xlb::Xlb,
};

use super::scenario::{HEALTH, Mode, Setup, VIP};

/// Datagrams of all sorts of lengths, the longest that fit into 1500 bytes.
const SIZES: [usize; 6] = [1, 2, 100, 511, 1471, 1472];

fn echo(mode: Mode) -> Result<()> {
    let setup = Setup::new(mode, 2);
    let topology = mode.topology(2, Peers::TakeXdp)?;
    let mut config = setup.config(&topology);
    config.listeners[0].protocol = "udp";
    // socat can't answer the check: a web server beside it does. Local targets
    // are one host, so that one is enough there.
    config.target_groups[0].health_port = Some(9000);
    let mut running = Vec::new();
    let mut web = Vec::new();
    for (n, place) in topology.targets.iter().enumerate() {
        running.push(udp_echo(place, topology.directory())?);
        let mut beside = place.clone();
        beside.address.set_port(9000);
        if mode != Mode::Local || n == 0 {
            let name = format!("check{n}");
            web.push(WebServer::start(
                Kind::Nginx,
                &name,
                &beside,
                None,
                topology.directory(),
            )?);
        }
    }
    let xlb = Xlb::start(&topology.balancer, &config, topology.directory())?;
    xlb.wait_until_healthy(HEALTH)?;

    for _ in 0..20 {
        client::udp_echo(&topology.client, VIP, &SIZES)?;
    }
    let status = xlb.status()?;
    let flows: Vec<u64> = status
        .targets()
        .map(|(_, target)| target.traffic.new_flows)
        .collect();
    // All 20 flows at one of two targets: a chance of 2 in a million.
    ensure!(
        flows.iter().sum::<u64>() == 20 && flows.iter().all(|&n| n > 0),
        "flows: {flows:?}"
    );
    Ok(())
}

#[test]
fn local() -> Result<()> {
    echo(Mode::Local)
}

#[test]
fn source_nat_one_arm() -> Result<()> {
    echo(Mode::OneArm)
}

#[test]
fn source_nat_other_interface() -> Result<()> {
    echo(Mode::OtherInterface)
}

#[test]
fn preserve_client_ip() -> Result<()> {
    echo(Mode::Preserve)
}

#[test]
fn preserve_client_ip_one_side() -> Result<()> {
    echo(Mode::PreserveOneSide)
}
