//! A group with too few healthy targets.

use std::{fs, path::PathBuf};

use anyhow::{Result, ensure};
use xlb_tests::{
    server::{HEALTH_BODY, HEALTH_PATH, Kind, WebServer},
    topology::Topology,
    wait,
    xlb::Xlb,
};

use super::scenario::{HEALTH, Mode, Scenario, Setup};

/// Three servers whose health checks can fail while they serve requests.
fn start() -> Result<Scenario> {
    let setup = Setup::new(Mode::Local, 3);
    let topology = Topology::one_host(3)?;
    let servers = (1..)
        .zip(&topology.targets)
        .map(|(n, place)| {
            let name = format!("web{n}");
            WebServer::start(Kind::Python, &name, place, None, topology.directory())
        })
        .collect::<Result<_>>()?;
    let mut config = setup.config(&topology);
    config.target_groups[0].settings = "fail_open = { min_healthy = 2 }".into();
    let xlb = Xlb::start(&topology.balancer, &config, topology.directory())?;
    xlb.wait_until_healthy(HEALTH)?;
    Ok(Scenario {
        xlb,
        servers,
        topology,
        listener: setup.listener,
    })
}

/// Lets the nth server's health check succeed or fail, and waits for it.
fn set_health(scenario: &Scenario, n: usize, healthy: bool) -> Result<()> {
    let name = &scenario.servers[n].name;
    let file: PathBuf = scenario.topology.directory().join(format!("web-{name}"));
    let (text, health) = match healthy {
        true => (HEALTH_BODY, "healthy"),
        false => ("out of order", "unhealthy"),
    };
    fs::write(file.join(&HEALTH_PATH[1..]), text)?;
    scenario.wait_for_health(n, health)
}

/// Whether the group is open, as status and log say, and who is sent to.
fn check(scenario: &Scenario, open: bool, servers: &[&str]) -> Result<()> {
    let status = scenario.xlb.status()?;
    ensure!(
        status.target_groups[0].fail_open == open,
        "{:?}",
        status.target_groups[0]
    );
    let spread = scenario.spread(100)?;
    let found: Vec<&str> = spread.by_name.keys().map(String::as_str).collect();
    ensure!(found == servers, "{spread:?}, not {servers:?}");
    Ok(())
}

#[test]
fn below_two_healthy_targets_all_are_used() -> Result<()> {
    let scenario = start()?;
    let logged = |text: &str| {
        wait::until(text, HEALTH, || {
            Ok(scenario.xlb.log().contains(text).then_some(()))
        })
    };
    set_health(&scenario, 0, false)?;
    check(&scenario, false, &["web2", "web3"])?;
    set_health(&scenario, 1, false)?;
    check(&scenario, true, &["web1", "web2", "web3"])?;
    logged("too few healthy targets")?;
    set_health(&scenario, 0, true)?;
    check(&scenario, false, &["web1", "web3"])?;
    logged("enough healthy targets")
}
