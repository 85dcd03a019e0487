//! Targets that die and return.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use xlb_tests::{
    client,
    server::{Kind, WebServer},
    topology::{Family, Topology},
    wait,
    xlb::Xlb,
};

use super::scenario::{HEALTH, Mode, Setup, VIP};

fn dies_and_returns(family: Family, mode: Mode) -> Result<()> {
    let mut scenario = Setup::in_family(family, mode, 4).start()?;
    let dying = scenario.servers[1].place.address;

    scenario.servers[1].kill();
    scenario.wait_for_health(1, "unhealthy")?;
    let before = scenario.xlb.status()?.target(dying)?.traffic.new_flows;
    let without = scenario.spread(200)?;
    ensure!(
        without.of("web2") == 0 && without.by_name.len() == 3,
        "{without:?}"
    );
    let after = scenario.xlb.status()?.target(dying)?.traffic.new_flows;
    ensure!(
        after == before,
        "{} flows began at a dead target",
        after - before
    );

    scenario.servers[1].start_again()?;
    scenario.wait_for_health(1, "healthy")?;
    let with = scenario.spread(400)?;
    // A quarter is 100, and 5 sigmas are 43.
    ensure!(
        (57..=143).contains(&with.of("web2")),
        "not its share: {with:?}"
    );
    Ok(())
}

#[test]
fn local_target_dies_and_returns() -> Result<()> {
    dies_and_returns(Family::V4, Mode::Local)
}

#[test]
fn remote_target_dies_and_returns() -> Result<()> {
    dies_and_returns(Family::V4, Mode::OneArm)
}

#[test]
fn ipv6_target_dies_and_returns() -> Result<()> {
    dies_and_returns(Family::V6, Mode::OneArm)
}

/// A server that answers, but not what the check expects, is as good as dead.
#[test]
fn wrong_answer_is_unhealthy() -> Result<()> {
    let topology = Topology::one_host(2)?;
    let directory = topology.directory();
    let python = |n: usize| {
        let name = format!("web{}", n + 1);
        WebServer::start(Kind::Python, &name, &topology.targets[n], None, directory)
    };
    let (_first, _second) = (python(0)?, python(1)?);
    let config = Setup::new(Mode::Local, 2).config(&topology);
    let xlb = Xlb::start(&topology.balancer, &config, directory)?;
    xlb.wait_until_healthy(HEALTH)?;

    fs::write(directory.join("web-web1/system/check"), "out of order\n")?;
    xlb.wait_for_health(topology.targets[0].address, "unhealthy", HEALTH)?;
    let checks = xlb.status()?.target(topology.targets[0].address)?.checks;
    ensure!(
        checks.successes > 0
            && checks.failures >= 2
            && checks.latency.is_some_and(|s| s > 0.0 && s < 0.5),
        "{checks:?}"
    );
    let url = format!("http://{VIP}/");
    let by_second = client::spread(&topology.client, &url, 50)?;
    ensure!(by_second.of("web2") == 50, "{by_second:?}");

    fs::write(
        directory.join("web-web1/system/check"),
        "system is running...\n",
    )?;
    xlb.wait_for_health(topology.targets[0].address, "healthy", HEALTH)?;
    ensure!(
        client::spread(&topology.client, &url, 50)?.of("web1") > 0,
        "web1 gets nothing"
    );
    Ok(())
}

/// One failed check is below the threshold of two.
#[test]
fn one_failure_is_forgiven() -> Result<()> {
    let mut scenario = Setup::new(Mode::Local, 2).start()?;
    let address = scenario.servers[0].place.address;
    scenario.servers[0].kill();
    // Checks are a second apart: at most one falls into this time.
    wait::pause(Duration::from_millis(700))?;
    scenario.servers[0].start_again()?;
    for _ in 0..20 {
        let status = scenario.xlb.status()?;
        let health = &status.target(address)?.health;
        ensure!(health == "healthy", "{health} after a single failure");
        wait::pause(Duration::from_millis(100))?;
    }
    Ok(())
}
