//! A configuration of 10,000 targets: reading it, and starting with it.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, ensure};
use lb_user::config;
use xlb_tests::{interrupt, xlb::Xlb};

use super::{
    Rig,
    config::{FIRST_PORT, Plan},
    server::Server,
};
use crate::report::Row;

/// Seconds.
const LOADED: f64 = 1.0;
/// An agent starts in seconds.
const STARTS: u32 = 3;

pub const PLAN: Plan = Plan {
    groups: 10,
    targets_per_group: 1_000,
    ..Plan::DEFAULT
};

pub fn measure(rig: &Rig) -> Result<Vec<Row>> {
    let path = rig.directory.path().join("load.toml");
    fs::write(&path, PLAN.text())?;
    let mut read = Vec::new();
    for _ in 0..rig.rounds {
        let begin = Instant::now();
        let parsed = config::load(&path).map_err(|error| anyhow::anyhow!("{error}"))?;
        read.push(begin.elapsed().as_secs_f64());
        ensure!(parsed.config.targets() == 10_000, "not all targets");
    }
    let _server = Server::start(FIRST_PORT, PLAN.ports())?;
    let (mut started, mut reloaded) = (Vec::new(), Vec::new());
    for _ in 0..STARTS.min(rig.rounds) {
        interrupt::check()?;
        let begin = Instant::now();
        let xlb = start(rig, &PLAN.text())?;
        started.push(begin.elapsed().as_secs_f64());
        // Every target is new to it once more: another hash key, other tables.
        let text = format!("hash_key = \"0123456789abcdef\"\n{}", PLAN.text());
        let begin = Instant::now();
        let output = xlb.try_reload(&text)?;
        reloaded.push(begin.elapsed().as_secs_f64());
        ensure!(output.status.success(), "it can't be reloaded: {output:?}");
        xlb.unload()?;
    }
    Ok(vec![
        Row::limited("10,000 targets read and validated", "s", &read, LOADED),
        Row::limited(
            "10,000 targets reloaded by a running agent, all tables new",
            "s",
            &reloaded,
            LOADED,
        ),
        Row::found("start with 10,000 targets, until ready", "s", &started),
    ])
}

/// An agent with this configuration, ready.
pub fn start(rig: &Rig, text: &str) -> Result<Xlb> {
    let directory = rig.directory.path();
    let path = directory.join("xlb.toml");
    fs::write(&path, text)?;
    let path = path.to_string_lossy();
    Xlb::run(&rig.namespace, &["--config", &path], directory).context("the agent didn't start")
}
