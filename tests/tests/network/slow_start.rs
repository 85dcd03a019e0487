//! The share of a target that has turned healthy.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xlb_tests::{topology::Family, wait};

use super::scenario::{Mode, Scenario, Setup};

const TIME: Duration = Duration::from_secs(16);

/// The share of the second target as the agent says it, and of `count`
/// connections as the clients see it.
fn share(scenario: &Scenario, count: u32) -> Result<(f64, u32)> {
    let told = scenario.xlb.status()?;
    let told = told.target(scenario.servers[1].place.address)?.share;
    Ok((told, scenario.spread(count)?.of("web2")))
}

fn share_rises(family: Family) -> Result<()> {
    let setup = Setup::in_family(family, Mode::OneArm, 2);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.target_groups[0].settings = "slow_start = \"16s\"".into();
    let mut scenario = setup.start_with(topology, &config)?;
    let (told, _) = share(&scenario, 1)?;
    ensure!(told == 0.5, "{told} though the whole group began at once");

    scenario.servers[1].kill();
    scenario.wait_for_health(1, "unhealthy")?;
    ensure!(share(&scenario, 50)? == (0.0, 0));
    scenario.servers[1].start_again()?;
    scenario.wait_for_health(1, "healthy")?;
    let healthy = Instant::now();

    // A tenth of its weight is a share of 1/11, so about 18 of 200, and 5
    // sigmas are 20; it may have risen to a fifth meanwhile.
    let (told, seen) = share(&scenario, 200)?;
    ensure!((0.08..0.2).contains(&told), "{told} at first");
    ensure!((1..=55).contains(&seen), "{seen} of 200 at first");
    let mut before = told;
    while healthy.elapsed() < TIME {
        let (told, _) = share(&scenario, 1)?;
        ensure!(told >= before, "{told} after {before}");
        // Two steps of a second at the most, each a 16th of the weight.
        ensure!(told - before < 0.08, "from {before} to {told} at once");
        before = told;
        // The agent takes a step a second.
        wait::pause(Duration::from_millis(500))?;
    }
    wait::until("its whole weight", Duration::from_secs(3), || {
        Ok((share(&scenario, 1)?.0 == 0.5).then_some(()))
    })?;
    let (_, seen) = share(&scenario, 200)?;
    ensure!((65..=135).contains(&seen), "{seen} of 200 in the end");
    Ok(())
}

#[test]
fn the_share_of_a_returning_target_rises() -> Result<()> {
    share_rises(Family::V4)
}

#[test]
fn the_share_of_a_returning_target_rises_v6() -> Result<()> {
    share_rises(Family::V6)
}
