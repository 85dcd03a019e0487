//! `cargo xtask fuzz`: the fuzz test of the packet tier, for longer and from
//! another seed each time.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail};

use crate::{command, setup};

/// Runs it for so many minutes.
///
/// # Errors
/// If set-up fails, or the programs and their model differ.
pub fn run(workspace: &Path, minutes: u64, seed: Option<u64>) -> Result<()> {
    if !command::is_root() {
        bail!("the kernel runs programs for root only: run this as root");
    }
    setup::run(workspace, setup::Purpose::Tests)?;
    let seed = seed.unwrap_or_else(by_the_clock);
    println!("=== seed {seed}, {minutes} min");
    let mut cargo = command::cargo(workspace);
    cargo.args(["test", "--package", "xlb-tests", "--test", "fuzz"]);
    cargo.args(["--", "--nocapture"]);
    cargo.env("XLB_FUZZ_SEED", seed.to_string());
    cargo.env("XLB_FUZZ_SECONDS", (minutes * 60).to_string());
    command::run(&mut cargo)
}

/// Far from that of any other run: each takes those that follow its own.
fn by_the_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() << 24)
}
