//! Another configuration while connections run.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use xlb_tests::{
    client,
    topology::{FREE, Family, Far},
    tunnel::Encapsulation,
    wait,
    wrk::{Connections, wrk},
    xlb::{Config, TargetStatus},
};

use super::{
    dsr::{Dsr, Way},
    scenario::{LARGE, Mode, SMALL, Scenario, Setup, VIP, files},
};

/// [`SMALL`] in 4 s.
const SLOW: &str = "small?rate=250k";

const DELAY: Duration = Duration::from_secs(8);
const DELAY_SETTING: &str = "deregistration_delay = \"8s\"\n";

/// A scenario whose configuration changes.
fn start(mode: Mode, targets: usize, settings: &str) -> Result<(Scenario, Config)> {
    start_by(&Setup::new(mode, targets), settings)
}

fn start_by(setup: &Setup, settings: &str) -> Result<(Scenario, Config)> {
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.target_groups[0].settings = settings.into();
    Ok((setup.start_with(topology, &config)?, config))
}

/// The same without the nth target.
fn without(config: &Config, n: usize) -> Config {
    let mut config = config.clone();
    config.target_groups[0].targets.remove(n);
    config
}

fn target(scenario: &Scenario, n: usize) -> Result<TargetStatus> {
    let address = scenario.servers[n].place.address;
    Ok(scenario.xlb.status()?.target(address)?.clone())
}

/// In the same state, and for how long still.
fn drains(target: &TargetStatus, at_most: f64) -> Result<()> {
    let remaining = target.remaining.context("no remaining time")?;
    ensure!(
        target.health == "draining"
            && target.reason.as_deref() == Some("deregistration_in_progress")
            && remaining > 0.0
            && remaining <= at_most,
        "{target:?}"
    );
    Ok(())
}

fn removed_target(family: Family, mode: Mode) -> Result<()> {
    let setup = Setup::in_family(family, mode, 2);
    let (scenario, config) = start_by(&setup, DELAY_SETTING)?;
    remove_target(&scenario, &config)
}

/// A download that ends within the delay is whole, new connections go
/// elsewhere at once, and what is left after the delay is cut.
fn remove_target(scenario: &Scenario, config: &Config) -> Result<()> {
    let mut within = scenario.download_from("web1", SLOW)?;
    let mut beyond = scenario.download_from("web1", LARGE)?;

    scenario.xlb.reload(&without(config, 0))?;
    let removed = Instant::now();
    drains(&target(scenario, 0)?, 8.0)?;
    let spread = scenario.spread(50)?;
    ensure!(spread.of("web1") == 0, "{spread:?}");

    let whole = within.wait(DELAY)?;
    ensure!(whole.is_ok(), "cut within the delay: {whole:?}");
    ensure!(
        fs::read(&within.copy)? == fs::read(files()?.join(SMALL))?,
        "the download isn't the file"
    );
    ensure!(
        removed.elapsed() < DELAY && beyond.is_running()?,
        "over before the delay"
    );
    drains(&target(scenario, 0)?, 6.0)?;

    let cut = beyond.wait(DELAY * 2)?;
    let after = removed.elapsed();
    ensure!(
        cut.is_err() && after > DELAY - Duration::from_millis(100),
        "{cut:?} after {after:?}"
    );
    ensure!(after < DELAY * 2, "cut only after {after:?}");
    ensure!(
        target(scenario, 0).is_err(),
        "still in the status: {:?}",
        target(scenario, 0)
    );
    ensure!(scenario.spread(50)?.of("web2") == 50);
    Ok(())
}

#[test]
fn removed_target_local() -> Result<()> {
    removed_target(Family::V4, Mode::Local)
}

#[test]
fn removed_target_source_nat() -> Result<()> {
    removed_target(Family::V4, Mode::OneArm)
}

#[test]
fn removed_target_preserve_client_ip() -> Result<()> {
    removed_target(Family::V4, Mode::Preserve)
}

#[test]
fn removed_target_source_nat_v6() -> Result<()> {
    removed_target(Family::V6, Mode::OneArm)
}

#[test]
fn removed_target_dsr_ipip() -> Result<()> {
    let way = Way::by(Encapsulation::Ipip, Family::V4, Family::V4);
    let dsr = Dsr::start_with(way, 2, Far::Nobody, |_, config| {
        config.target_groups[0].settings += DELAY_SETTING;
        Ok(())
    })?;
    remove_target(&dsr.scenario, &dsr.config)
}

/// Back within the delay it is healthy without a check, and its flow goes on
/// beyond the delay.
#[test]
fn a_target_that_comes_back_keeps_its_flows() -> Result<()> {
    let settings = "deregistration_delay = \"2s\"";
    let (scenario, config) = start(Mode::OneArm, 2, settings)?;
    let began = Instant::now();
    let mut download = scenario.download_from("web1", SLOW)?;
    scenario.xlb.reload(&without(&config, 0))?;
    drains(&target(&scenario, 0)?, 2.0)?;
    scenario.xlb.reload(&config)?;
    let back = target(&scenario, 0)?;
    ensure!(
        back.health == "healthy" && back.remaining.is_none(),
        "{back:?}"
    );
    let spread = scenario.spread(100)?;
    ensure!(spread.of("web1") > 20, "{spread:?}");
    let whole = download.wait(Duration::from_secs(15))?;
    ensure!(whole.is_ok(), "{whole:?}");
    ensure!(
        began.elapsed() > Duration::from_secs(3),
        "too fast to say anything"
    );
    Ok(())
}

/// A new target gets its share as soon as it is healthy; those that stay keep
/// their health.
#[test]
fn added_target_gets_its_share() -> Result<()> {
    let setup = Setup::new(Mode::OneArm, 3);
    let topology = setup.topology()?;
    let config = setup.config(&topology);
    let scenario = setup.start_with(topology, &without(&config, 2))?;
    ensure!(scenario.spread(60)?.of("web3") == 0);
    scenario.xlb.reload(&config)?;
    for n in [0, 1] {
        let stays = target(&scenario, n)?;
        ensure!(stays.health == "healthy", "{stays:?}");
    }
    scenario.wait_for_health(2, "healthy")?;
    let spread = scenario.spread(300)?;
    // A third is 100, and 5 sigmas are 41.
    ensure!((59..=141).contains(&spread.of("web3")), "{spread:?}");
    Ok(())
}

/// Targets, weights and listeners come and go ten times: of 100 connections
/// that carry requests all the while none breaks, and new ones succeed.
#[test]
fn connections_outlive_ten_reloads() -> Result<()> {
    const CONNECTIONS: u32 = 100;
    let (scenario, config) = start(Mode::OneArm, 4, "")?;
    let client = &scenario.topology.client;
    let url = format!("http://{VIP}/");
    let report = thread::scope(|scope| {
        let load = scope.spawn(|| wrk(client, &url, Connections::Kept, CONNECTIONS, 10));
        for round in 0..10 {
            wait::pause(Duration::from_millis(400))?;
            scenario.xlb.reload(&changed(&config, round))?;
            scenario.spread(5)?;
        }
        ensure!(!load.is_finished(), "the requests ended before the reloads");
        load.join().map_err(|_| anyhow!("the load panicked"))?
    })?;
    ensure!(report.errors == 0, "requests failed: {report:?}");
    // One that breaks is made anew.
    let status = scenario.xlb.status()?;
    let flows: u64 = status.targets().map(|(_, it)| it.traffic.new_flows).sum();
    // wrk makes one to try first.
    let expected = u64::from(1 + CONNECTIONS) + 10 * 5;
    ensure!(flows == expected, "{flows} flows, not {expected}");
    Ok(())
}

fn changed(config: &Config, round: u16) -> Config {
    let mut config = match round % 2 {
        0 => without(config, usize::from(round) % 4),
        _ => config.clone(),
    };
    config.target_groups[0].targets[0].1 = 1 + round;
    let mut more = config.listeners[0].clone();
    more.name = format!("more{round}");
    more.address.set_port(8000 + round);
    config.listeners.push(more);
    config
}

/// A listener at an address that no interface has: its flows outlive it, and
/// the address goes after the delay.
#[test]
fn a_listener_goes_and_its_flows_go_on() -> Result<()> {
    let settings = "deregistration_delay = \"5s\"";
    let (scenario, config) = start(Mode::OneArm, 2, settings)?;
    let balancer = scenario.topology.balancer.clone();
    let has_address =
        || -> Result<bool> { Ok(balancer.ip("-o address show")?.contains(&FREE.to_string())) };
    let mut both = config.clone();
    let mut more = config.listeners[0].clone();
    more.name = "more".into();
    more.address = Family::V4.at(FREE, 80);
    let url = format!("http://{}/{SLOW}", more.address);
    both.listeners.push(more);
    scenario.xlb.reload(&both)?;
    ensure!(has_address()?, "no address");
    let client = &scenario.topology.client;
    let copy = scenario.topology.directory().join("copy");
    let mut download = client::Download::start(client, &url, &copy)?;

    scenario.xlb.reload(&config)?;
    ensure!(client::get(client, &url).is_err(), "a new connection");
    let whole = download.wait(Duration::from_secs(5))?;
    ensure!(whole.is_ok(), "{whole:?}");
    ensure!(has_address()?, "the address went before its time");
    wait::until("the address to go", Duration::from_secs(6), || {
        Ok((!has_address()?).then_some(()))
    })?;
    ensure!(scenario.get("/")?.starts_with("web"));
    Ok(())
}

/// Errors are printed and logged with their line, and all stays as it is.
#[test]
fn invalid_files_change_nothing() -> Result<()> {
    let (scenario, config) = start(Mode::Local, 2, "")?;
    let text = config.to_string();
    let cases = [
        (text.replace("targets", "targts"), "unknown key `targts`"),
        (text.replace(":8081", ":80810"), "is not a port"),
        (
            format!("capacity.flows = 77\n{text}"),
            "xlb.toml:1:18: error: `capacity.flows` can't change while xlb runs",
        ),
        (
            text.replace("\"eth0\"", "\"eth1\""),
            "xlb.toml:1:13: error: `interface` can't change while xlb runs",
        ),
        ("nonsense".to_owned(), "xlb.toml:1:"),
    ];
    for (text, message) in &cases {
        let output = scenario.xlb.try_reload(text)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(2) && said.contains(message) && said.contains("xlb.toml:"),
            "{}: {said}",
            output.status
        );
        let logged = scenario.xlb.hang_up(text, "nothing has changed")?;
        ensure!(logged.contains(message), "not logged: {logged}");
    }
    for n in [0, 1] {
        let stays = target(&scenario, n)?;
        ensure!(stays.health == "healthy", "{stays:?}");
    }
    let spread = scenario.spread(100)?;
    ensure!(
        spread.of("web1") > 20 && spread.of("web2") > 20,
        "{spread:?}"
    );

    let reloaded = without(&config, 0).to_string();
    scenario.xlb.hang_up(&reloaded, "configuration reloaded")?;
    ensure!(scenario.spread(20)?.of("web2") == 20, "SIGHUP did nothing");
    Ok(())
}

/// With `--json` a program gets what a person does, with the same exit code.
#[test]
fn programs_are_told_too() -> Result<()> {
    let (scenario, config) = start(Mode::Local, 2, "")?;
    let ask = |words: &[&str]| -> Result<(Option<i32>, Value)> {
        let output = scenario.xlb.ask(words)?;
        let said = String::from_utf8(output.stdout)?;
        let json = serde_json::from_str(&said).with_context(|| said.clone())?;
        Ok((output.status.code(), json))
    };
    let (code, reloaded) = ask(&["reload", "--json"])?;
    ensure!(
        code == Some(0) && reloaded["applied"] == true,
        "{code:?}: {reloaded}"
    );
    let wrong = config.to_string().replace("targets", "targts");
    fs::write(scenario.xlb.config(), wrong)?;
    let (code, reloaded) = ask(&["reload", "--json"])?;
    let findings = reloaded["findings"].as_array().context("no findings")?;
    let is_told = |it: &Value| {
        let message = it["message"].as_str().unwrap_or_default();
        message.contains("targts") && it["severity"] == "error" && it["line"].as_u64() > Some(1)
    };
    ensure!(
        code == Some(2) && reloaded["applied"] == false && findings.iter().any(is_told),
        "{code:?}: {reloaded}"
    );
    fs::remove_file(scenario.xlb.config())?;
    let (code, reloaded) = ask(&["reload", "--json"])?;
    let text = reloaded["text"].as_str().unwrap_or_default();
    ensure!(
        code == Some(2) && reloaded["applied"] == false && text.contains("could not be read"),
        "{code:?}: {reloaded}"
    );

    let (code, unloaded) = ask(&["unload", "--json"])?;
    ensure!(
        code == Some(0) && unloaded["ended"] == true && unloaded["instance"] == "default",
        "{code:?}: {unloaded}"
    );
    Ok(())
}
