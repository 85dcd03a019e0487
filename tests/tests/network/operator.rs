//! What operators do to targets while connections run.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use xlb_tests::{
    command::output,
    wait,
    xlb::{Config, TargetStatus, binary},
};

use super::scenario::{HEALTH, LARGE, Mode, SMALL, Scenario, Setup, files};

/// [`SMALL`] in 4 s.
const SLOW: &str = "small?rate=250k";
const DELAY: Duration = Duration::from_secs(8);

fn start(mode: Mode) -> Result<(Scenario, Config)> {
    let setup = Setup::new(mode, 2);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.target_groups[0].settings = "deregistration_delay = \"8s\"\n".into();
    Ok((setup.start_with(topology, &config)?, config))
}

fn target(scenario: &Scenario) -> Result<TargetStatus> {
    let address = scenario.servers[0].place.address;
    Ok(scenario.xlb.status()?.target(address)?.clone())
}

/// As the first target is configured.
fn name(scenario: &Scenario) -> String {
    scenario.servers[0].place.address.to_string()
}

fn has(target: &TargetStatus, health: &str, reason: Option<&str>) -> Result<()> {
    ensure!(
        target.health == health && target.reason.as_deref() == reason,
        "{target:?}"
    );
    Ok(())
}

const BY_OPERATOR: Option<&str> = Some("drained_by_operator");

/// No new flow from that moment, whatever the file says; its flows go on for
/// the delay and not longer; and `enable` brings it back by a check.
fn drained_target(mode: Mode) -> Result<()> {
    let (scenario, config) = start(mode)?;
    let (xlb, name) = (&scenario.xlb, name(&scenario));
    let mut within = scenario.download_from("web1", SLOW)?;
    let mut beyond = scenario.download_from("web1", LARGE)?;

    let said = xlb.answer(&["drain", &name])?;
    ensure!(
        said.starts_with(&format!("{name} of web: draining: an operator drained it")),
        "{said}"
    );
    has(&target(&scenario)?, "draining", BY_OPERATOR)?;
    let remaining = target(&scenario)?.remaining.context("no end")?;
    ensure!(remaining > 0.0 && remaining <= 8.0, "{remaining} s");
    let spread = scenario.spread(40)?;
    ensure!(spread.of("web1") == 0, "{spread:?}");
    xlb.reload(&config)?;
    has(&target(&scenario)?, "draining", BY_OPERATOR)?;
    ensure!(target(&scenario)?.drained);

    let whole = within.wait(DELAY)?;
    ensure!(whole.is_ok(), "cut within the delay: {whole:?}");
    ensure!(
        fs::read(&within.copy)? == fs::read(files()?.join(SMALL))?,
        "the download isn't the file"
    );
    let cut = beyond.wait(DELAY * 2)?;
    ensure!(cut.is_err(), "{cut:?}");
    has(&target(&scenario)?, "unused", BY_OPERATOR)?;
    xlb.reload(&config)?;
    has(&target(&scenario)?, "unused", BY_OPERATOR)?;
    ensure!(scenario.spread(40)?.of("web2") == 40);

    xlb.answer(&["enable", &name])?;
    xlb.wait_for_health(scenario.servers[0].place.address, "healthy", HEALTH)?;
    let spread = scenario.spread(100)?;
    ensure!(spread.of("web1") > 20, "{spread:?}");
    Ok(())
}

#[test]
fn drained_target_local() -> Result<()> {
    drained_target(Mode::Local)
}

#[test]
fn drained_target_source_nat() -> Result<()> {
    drained_target(Mode::OneArm)
}

/// Within the delay it goes on as it was, flows and all.
#[test]
fn a_target_that_is_enabled_in_time_keeps_its_flows() -> Result<()> {
    let (scenario, _) = start(Mode::OneArm)?;
    let (xlb, name) = (&scenario.xlb, name(&scenario));
    let mut download = scenario.download_from("web1", SLOW)?;
    xlb.answer(&["drain", &name])?;
    xlb.answer(&["enable", &name])?;
    has(&target(&scenario)?, "healthy", None)?;
    let spread = scenario.spread(100)?;
    ensure!(spread.of("web1") > 20, "{spread:?}");
    let whole = download.wait(DELAY * 2)?;
    ensure!(whole.is_ok(), "{whole:?}");
    // The check that has been made since.
    wait::pause(Duration::from_secs(2))?;
    has(&target(&scenario)?, "healthy", None)
}

/// It was down when it was enabled: one check is enough to see it.
#[test]
fn a_dead_target_that_is_enabled_is_found_out_at_once() -> Result<()> {
    let (scenario, _) = start(Mode::OneArm)?;
    let name = name(&scenario);
    scenario.xlb.answer(&["drain", &name])?;
    scenario.servers[0].set_health(false)?;
    // Checks are a second apart, and it takes two failures otherwise.
    scenario.xlb.answer(&["enable", &name])?;
    let found_out = wait::until("the first check", Duration::from_millis(900), || {
        Ok((target(&scenario)?.health == "unhealthy").then_some(()))
    });
    found_out.with_context(|| format!("{:?}", target(&scenario)))
}

#[test]
fn a_weight_moves_new_flows_and_outlives_a_reload() -> Result<()> {
    let (scenario, mut config) = start(Mode::Local)?;
    let (xlb, name) = (&scenario.xlb, name(&scenario));
    let weighs = |weight: u16, configured: Option<u16>, share: f64| -> Result<()> {
        let target = target(&scenario)?;
        let is = (target.weight, target.configured_weight, target.share);
        ensure!(is == (weight, configured, share), "{target:?}");
        Ok(())
    };
    weighs(1, None, 0.5)?;
    let said = xlb.answer(&["weight", &name, "3"])?;
    ensure!(said.contains("weight 3 instead of 1"), "{said}");
    weighs(3, Some(1), 0.75)?;
    // Of 400 flows 300 are expected, and 5 sigmas are 43.
    let spread = scenario.spread(400)?;
    ensure!((257..=343).contains(&spread.of("web1")), "{spread:?}");
    let text = xlb.status_text()?;
    ensure!(text.contains("3 (not 1)"), "{text}");

    xlb.reload(&config)?;
    weighs(3, Some(1), 0.75)?;
    config.target_groups[0].targets[0].1 = 9;
    xlb.reload(&config)?;
    weighs(9, None, 0.9)
}

/// Nothing changes, scripts get a code and people a sentence.
#[test]
fn what_cannot_be_done_says_so() -> Result<()> {
    let (scenario, _) = start(Mode::Local)?;
    let (xlb, name) = (&scenario.xlb, name(&scenario));
    let cases: [(&[&str], i32, &str); 6] = [
        (
            &["drain", "10.9.9.9:80"],
            2,
            "no target group has a target 10.9.9.9:80",
        ),
        (
            &["drain", &name, "--group", "api"],
            2,
            "no target group `api`",
        ),
        (&["enable", "web1"], 2, "has no port"),
        (&["weight", &name, "0"], 2, "1..=256"),
        (&["weight", &name], 2, "<WEIGHT>"),
        (&["drain", "--instance", "a/b", &name], 2, "a name has 1 to"),
    ];
    for (words, code, sentence) in cases {
        let output = xlb.ask(words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(code) && said.contains(sentence),
            "{words:?}: {}: {said}",
            output.status
        );
        ensure!(output.stdout.is_empty(), "{words:?}: {output:?}");
    }
    has(&target(&scenario)?, "healthy", None)?;

    for command in [&["drain", ":80"][..], &["status"], &["reload"], &["flows"]] {
        let mut nobody = scenario.topology.balancer.command(binary()?);
        nobody.args(command).args(["--socket", "/nowhere/xlb.sock"]);
        let output = output(&mut nobody)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(3) && said.contains("no xlb is running"),
            "{command:?}: {}: {said}",
            output.status
        );
    }

    let json = xlb.answer(&["drain", &name, "--json"])?;
    let report: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(
        report["target_group"] == "web" && report["health"] == "draining",
        "{json}"
    );
    let last = scenario.servers[1].place.address.to_string();
    let output = xlb.ask(&["drain", &last])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && said.contains("no target of the group `web`"),
        "{said}"
    );
    Ok(())
}
