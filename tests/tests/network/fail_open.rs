//! A group with too few healthy targets.

use anyhow::{Result, ensure};
use xlb_tests::{client, topology::Family, wait};

use super::scenario::{HEALTH, Mode, Scenario, Setup};

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

/// Two healthy targets are enough by this setting, and one is too few.
fn below_two(family: Family, targets: usize, setting: &str) -> Result<()> {
    let setup = Setup::in_family(family, Mode::Local, targets);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.target_groups[0].settings = format!("fail_open = {setting}");
    let scenario = setup.start_with(topology, &config)?;
    let logged = |text: &str| {
        wait::until(text, HEALTH, || {
            Ok(scenario.xlb.log().contains(text).then_some(()))
        })
    };
    let names: Vec<&str> = scenario.servers.iter().map(|it| &*it.name).collect();
    let (first, last) = (names[0], names[targets - 1]);
    for n in 0..targets - 2 {
        scenario.set_health(n, false)?;
        check(&scenario, false, &names[n + 1..])?;
    }
    scenario.set_health(targets - 2, false)?;
    check(&scenario, true, &names)?;
    logged("too few healthy targets")?;
    scenario.set_health(0, true)?;
    check(&scenario, false, &[first, last])?;
    logged("enough healthy targets")
}

#[test]
fn below_two_healthy_targets_all_are_used() -> Result<()> {
    below_two(Family::V4, 3, "{ min_healthy = 2 }")
}

#[test]
fn below_two_healthy_targets_all_are_used_v6() -> Result<()> {
    below_two(Family::V6, 3, "{ min_healthy = 2 }")
}

/// Half of them isn't below half.
#[test]
fn below_half_of_the_targets_all_are_used() -> Result<()> {
    below_two(Family::V4, 4, "\"50%\"")
}

#[test]
fn below_half_of_the_targets_all_are_used_v6() -> Result<()> {
    below_two(Family::V6, 4, "\"50%\"")
}

/// Where that isn't wanted a group without a healthy target takes nobody.
#[test]
fn it_can_be_forbidden() -> Result<()> {
    let setup = Setup::in_family(Family::V4, Mode::Local, 2);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.target_groups[0].settings = "fail_open = false".into();
    let scenario = setup.start_with(topology, &config)?;
    scenario.set_health(0, false)?;
    check(&scenario, false, &["web2"])?;
    scenario.set_health(1, false)?;
    let spread = client::spread(&scenario.topology.client, &scenario.url("/"), 5)?;
    ensure!(spread.failed == 5, "{spread:?} without a healthy target");
    ensure!(scenario.drops("no_target")? > 0, "no drop was counted");
    scenario.set_health(1, true)?;
    check(&scenario, false, &["web2"])
}
