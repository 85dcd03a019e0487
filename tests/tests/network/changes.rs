//! 200 parallel connections while a target goes and returns.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use xlb_tests::{
    client::{Attempt, Load},
    process::Process,
    wait,
};

use super::scenario::{Mode, SMALL, Scenario, Setup, VIP, files};

const DOWNLOADS: usize = 150;
const WORKERS: usize = 50;
/// 1 MB at this rate, in bytes a second, takes longer than all the changes.
const RATE: &str = "80k";
const SMALL_LENGTH: u64 = 1 << 20;

/// When the target was killed, was known to be dead, was started again.
struct Changes {
    killed: Instant,
    unhealthy: Instant,
    started: Instant,
}

impl Changes {
    /// Seconds since the death was known; before it they are negative.
    fn since(&self, at: Instant) -> f64 {
        let before = self.unhealthy.saturating_duration_since(at);
        at.saturating_duration_since(self.unhealthy).as_secs_f64() - before.as_secs_f64()
    }
}

fn while_targets_change(mode: Mode) -> Result<()> {
    let mut scenario = Setup::new(mode, 4).start()?;
    let copies = scenario.topology.directory().join("copies");
    fs::create_dir(&copies)?;
    let client = scenario.topology.client.clone();
    let pause = Duration::from_millis(20);

    let ((changes, mut downloads), attempts) = Load::during(&client, VIP, WORKERS, pause, |_| {
        let downloads = start_downloads(&scenario, &copies)?;
        let changes = change(&mut scenario)?;
        Ok((changes, downloads))
    })?;
    // curl's exit code is that of the last transfer; the report has them all.
    downloads.wait(Duration::from_secs(45))?;
    check_downloads(&downloads.output(), &copies)?;
    check_attempts(&attempts, &changes)
}

/// The last server, web4, goes and returns.
fn change(scenario: &mut Scenario) -> Result<Changes> {
    let killed = Instant::now();
    scenario.servers[3].kill();
    scenario.wait_for_health(3, "unhealthy")?;
    let unhealthy = Instant::now();
    wait::pause(Duration::from_secs(1))?;
    let started = Instant::now();
    scenario.servers[3].start_again()?;
    scenario.wait_for_health(3, "healthy")?;
    wait::pause(Duration::from_secs(1))?;
    Ok(Changes {
        killed,
        unhealthy,
        started,
    })
}

/// Starts long downloads, all in parallel, and waits until each has a target.
fn start_downloads(scenario: &Scenario, copies: &Path) -> Result<Process> {
    let mut curl = scenario.topology.client.command("curl");
    curl.args([
        "-s",
        "--no-progress-meter",
        "--parallel",
        "--parallel-immediate",
    ])
    .args([
        "--parallel-max",
        &DOWNLOADS.to_string(),
        "--limit-rate",
        RATE,
    ])
    // A client that only waits doesn't learn that its target's flows were cut:
    // it would have to send something.
    .args(["--connect-timeout", "5", "--max-time", "40"])
    // A connection for each.
    .args(["-H", "Connection: close"])
    .args(["-w", "%{exitcode} %{size_download} %header{x-target}\n"])
    .arg("-o")
    .arg(copies.join("#1"))
    .arg(format!("http://{VIP}/{SMALL}?[1-{DOWNLOADS}]"));
    let log = scenario.topology.directory().join("downloads.log");
    let mut process = Process::spawn(&mut curl, &log)?;
    wait::until("all downloads to begin", Duration::from_secs(15), || {
        if let Some(status) = process.ended()? {
            anyhow::bail!("curl ended early ({status}): {}", process.output());
        }
        Ok((fs::read_dir(copies)?.count() == DOWNLOADS).then_some(()))
    })?;
    Ok(process)
}

/// Downloads from targets that stay are whole and right.
fn check_downloads(report: &str, copies: &Path) -> Result<()> {
    let original = fs::read(files()?.join(SMALL))?;
    let mut whole = 0;
    for line in report.lines() {
        let [code, size, target] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            anyhow::bail!("a download without a target: {line}");
        };
        if target == "web4" {
            continue;
        }
        ensure!(
            code == "0",
            "a download from {target} failed after {size} bytes (curl: {code})"
        );
        ensure!(
            size.parse() == Ok(SMALL_LENGTH),
            "{target} sent {size} bytes"
        );
        whole += 1;
    }
    ensure!(
        report.lines().count() == DOWNLOADS,
        "some downloads are missing: {report}"
    );
    // 3 of 4 targets stay: 112 of 150, and 5 sigmas are 27.
    ensure!(
        whole >= 85,
        "only {whole} of {DOWNLOADS} downloads were at targets that stayed"
    );
    let mut right = 0;
    for n in 1..=DOWNLOADS {
        let copy = fs::read(copies.join(n.to_string())).context("a copy is missing")?;
        ensure!(original.starts_with(&copy), "download {n} has wrong bytes");
        right += usize::from(copy.len() == original.len());
    }
    ensure!(
        right >= whole,
        "{whole} downloads reported, {right} whole copies"
    );
    Ok(())
}

/// Only what was under way between the death and its detection may fail.
fn check_attempts(attempts: &[Attempt], changes: &Changes) -> Result<()> {
    let mut returned = 0;
    for Attempt {
        began,
        ended,
        answer,
    } in attempts
    {
        let in_doubt = *ended >= changes.killed && *began < changes.unhealthy;
        match answer {
            Ok(name) if name == "web4" => {
                let dead = *began > changes.unhealthy && *began < changes.started;
                ensure!(!dead, "an answer of a dead target");
                returned += usize::from(*began > changes.started);
            }
            Ok(_) => {}
            Err(error) => {
                let (from, to) = (changes.since(*began), changes.since(*ended));
                ensure!(
                    in_doubt,
                    "a request failed, from {from:.3} s to {to:.3} s: {error}"
                );
            }
        }
    }
    ensure!(
        attempts.len() > 1000,
        "only {} connections were tried",
        attempts.len()
    );
    ensure!(returned > 0, "the target that returned got nothing");
    Ok(())
}

#[test]
fn local() -> Result<()> {
    while_targets_change(Mode::Local)
}

#[test]
fn source_nat_one_arm() -> Result<()> {
    while_targets_change(Mode::OneArm)
}

#[test]
fn preserve_client_ip() -> Result<()> {
    while_targets_change(Mode::Preserve)
}
