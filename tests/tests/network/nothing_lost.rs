//! What an agent knows survives it.

use std::{
    collections::BTreeSet,
    fs::{self},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xlb_tests::{
    client::request_kept,
    topology::{FREE, Family},
    wait,
    xlb::Xlb,
};

use super::restarted::{Run, names, nothing};
use super::scenario::{HEALTH, LARGE, Mode, Scenario};

/// A removed target drains on for as long as it had left.
#[test]
fn drains() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 2, "deregistration_delay = \"10s\"\n")?;
    let mut download = run.scenario()?.download_from("web1", LARGE)?;
    run.config.target_groups[0].targets.remove(0);
    run.scenario()?.xlb.reload(&run.config)?;
    wait::pause(Duration::from_secs(2))?;
    run.restart(|_| wait::pause(Duration::from_secs(1)))?;
    let target = run.target(0)?;
    let remaining = target.remaining.context("no remaining time")?;
    ensure!(
        target.health == "draining" && (1.0..7.0).contains(&remaining),
        "{target:?}"
    );
    ensure!(run.scenario()?.spread(50)?.of("web2") == 50);
    ensure!(download.is_running()?, "its flow has ended");
    let ended = download.wait(Duration::from_secs(20))?;
    ensure!(ended.is_err(), "it went on after the delay: {ended:?}");
    Ok(())
}

/// What an operator has been told is done survives a crash at that very moment.
#[test]
fn drains_before_a_crash() -> Result<()> {
    let mut run = Run::start(Mode::Local, 3, "")?;
    let scenario = run.scenario.take().context("no scenario")?;
    for n in [0, 1] {
        let target = scenario.servers[n].place.address.to_string();
        scenario.xlb.answer(&["drain", &target])?;
    }
    // It is killed.
    drop(scenario.xlb);
    let topology = &scenario.topology;
    let xlb = Xlb::start(&topology.balancer, &run.config, topology.directory())?;
    run.scenario = Some(Scenario { xlb, ..scenario });
    for n in [0, 1] {
        let target = run.target(n)?;
        ensure!(target.health == "draining", "{target:?}");
    }
    Ok(())
}

/// A target that the configuration has lost while no agent ran drains, too.
#[test]
fn a_target_that_was_removed_meanwhile() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 2, "")?;
    let mut stream = run.scenario()?.connect()?;
    let name = request_kept(&mut stream)?;
    let n = usize::from(name == "web2");
    run.config.target_groups[0].targets.remove(n);
    run.restart(nothing)?;
    let target = run.target(n)?;
    ensure!(target.health == "draining", "{target:?}");
    ensure!(request_kept(&mut stream)? == name, "another target");
    ensure!(run.scenario()?.spread(50)?.of(&name) == 0);
    Ok(())
}

/// Healthy and unhealthy, with the reason and the counters.
#[test]
fn health() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 3, "on_unhealthy = \"keep\"\n")?;
    run.scenario()?.set_health(0, false)?;
    run.scenario()?.spread(60)?;
    wait::pause(Duration::from_millis(1_500))?;
    let before = [run.target(0)?, run.target(1)?];
    ensure!(before[1].traffic.new_flows > 0, "{before:?}");
    run.restart(nothing)?;
    let after = [run.target(0)?, run.target(1)?];
    for (before, after) in before.iter().zip(&after) {
        ensure!(
            (&before.health, &before.reason) == (&after.health, &after.reason)
                && before.traffic.new_flows == after.traffic.new_flows
                && before.checks.successes <= after.checks.successes,
            "{before:?}, then {after:?}"
        );
    }
    ensure!(after[0].health == "unhealthy", "{after:?}");
    // None of them to the unhealthy one, from the first moment on.
    ensure!(run.scenario()?.spread(60)?.of("web1") == 0);
    Ok(())
}

/// Without the file the maps tell who took flows, and whose they are.
#[test]
fn the_state_is_lost() -> Result<()> {
    for damage in [
        |folder: &Path| Ok(fs::remove_file(folder.join("state.json"))?),
        |folder: &Path| Ok(fs::write(folder.join("state.json"), "{\"ids\": [")?),
    ] {
        let mut run = Run::start(Mode::OneArm, 2, "")?;
        let mut streams = Vec::new();
        for _ in 0..10 {
            let mut stream = run.scenario()?.connect()?;
            let name = request_kept(&mut stream)?;
            streams.push((stream, name));
        }
        run.restart(damage)?;
        for n in [0, 1] {
            let target = run.target(n)?;
            ensure!(target.health == "healthy", "{target:?}");
        }
        for (stream, name) in &mut streams {
            ensure!(request_kept(stream)? == *name, "another target");
        }
        let spread = run.scenario()?.spread(100)?;
        ensure!(
            spread.of("web1") > 20 && spread.of("web2") > 20,
            "{spread:?}"
        );
    }
    Ok(())
}

/// An address that xlb has added goes when its time is over, or with xlb.
#[test]
fn a_managed_address() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 1, "deregistration_delay = \"6s\"\n")?;
    let balancer = run.scenario()?.topology.balancer.clone();
    let has_address =
        || -> Result<bool> { Ok(balancer.ip("-o address show")?.contains(&FREE.to_string())) };
    let one = run.config.clone();
    let mut more = one.listeners[0].clone();
    more.name = "more".into();
    more.address = Family::V4.at(FREE, 80);
    run.config.listeners.push(more.clone());
    run.scenario()?.xlb.reload(&run.config)?;
    ensure!(has_address()?, "no address");
    run.restart(nothing)?;
    ensure!(has_address()?, "the address went with the agent");
    run.scenario()?.xlb.reload(&one)?;
    run.config = one;
    run.restart(nothing)?;
    ensure!(has_address()?, "the address went before its time");
    let goes = || {
        wait::until("the address to go", Duration::from_secs(8), || {
            Ok((!has_address()?).then_some(()))
        })
    };
    goes()?;

    // It isn't wanted any more when the next agent comes.
    let one = run.config.clone();
    run.config.listeners.push(more);
    run.scenario()?.xlb.reload(&run.config)?;
    ensure!(has_address()?, "no address");
    run.config = one;
    run.restart(nothing)?;
    goes()
}

/// An interface that isn't configured any more is left.
#[test]
fn an_interface_less() -> Result<()> {
    let mut run = Run::start(Mode::Preserve, 2, "")?;
    let balancer = run.scenario()?.topology.balancer.clone();
    let programs = || -> Result<usize> {
        let links = balancer.run("ip -d -o link show")?;
        Ok(links.matches("prog/xdp").count())
    };
    ensure!(programs()? == 3);
    run.config.interfaces.truncate(1);
    run.restart(nothing)?;
    ensure!(programs()? == 1, "{} programs", programs()?);
    ensure!(run.scenario()?.spread(20)?.failed == 0);
    Ok(())
}

/// An agent takes over an interface that is down, says so, and nobody has to
/// tell it when the interface is up again.
#[test]
fn an_interface_that_is_down() -> Result<()> {
    let mut run = Run::start(Mode::OtherInterface, 2, "")?;
    let balancer = run.scenario()?.topology.balancer.clone();
    balancer.ip("link set eth2 down")?;
    run.restart(nothing)?;
    let status = run.scenario()?.xlb.status()?;
    let is_told = |it: &String| it.contains("eth2 is down");
    ensure!(status.problems.iter().any(is_told), "{:?}", status.problems);
    run.scenario()?.wait_for_health(1, "unhealthy")?;
    let spread = run.scenario()?.spread(20)?;
    ensure!(spread.of("web1") == 20, "{spread:?}");

    balancer.ip("link set eth2 up")?;
    run.scenario()?.wait_for_health(1, "healthy")?;
    wait::until("its share", HEALTH, || {
        let spread = run.scenario()?.spread(40)?;
        Ok((spread.of("web2") > 5).then_some(()))
    })
}

/// Another way to attach: there is a gap, and what was there goes.
#[test]
fn other_modes() -> Result<()> {
    let mut run = Run::start(Mode::Local, 2, "")?;
    for (xdp, tc) in [
        ("native", "clsact"),
        ("generic", "tcx"),
        ("generic", "clsact"),
        ("native", "tcx"),
    ] {
        (run.config.xdp_mode, run.config.tc_mode) = (Some(xdp), Some(tc));
        run.restart(nothing)?;
        let scenario = run.scenario()?;
        let status = scenario.xlb.status()?;
        let interface = &status.interfaces[0];
        ensure!(interface.xdp == xdp && interface.tc == tc, "{interface:?}");
        ensure!(scenario.spread(20)?.failed == 0);
        let (pins, filters) = match tc {
            "tcx" => (vec!["tcx-egress", "tcx-ingress"], 0),
            _ => (Vec::new(), 1),
        };
        let xdp = format!("xdp-{xdp}");
        let expected: BTreeSet<&str> = pins.into_iter().chain([xdp.as_str()]).collect();
        let pinned = names(&scenario.xlb.pins().join("links"))?;
        let hooks = pinned.iter().filter_map(|name| name.split_once('-'));
        let found: BTreeSet<&str> = hooks.map(|(_, hook)| hook).collect();
        ensure!(found == expected, "{pinned:?}");
        for direction in ["ingress", "egress"] {
            let show = format!("tc filter show dev eth0 {direction}");
            let shown = scenario.topology.balancer.run(&show)?;
            ensure!(shown.matches(" name xlb_").count() == filters, "{shown}");
        }
    }
    Ok(())
}
