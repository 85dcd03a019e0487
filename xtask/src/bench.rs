//! `cargo xtask bench`: builds the benchmarks (bench/) and runs them; and two
//! commits' data path in turns.

mod compare;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build, command,
    setup::{self, Purpose},
};

/// Runs the benchmark that the arguments name.
///
/// # Errors
/// If set-up or a build fails, or the benchmark does.
pub fn run(workspace: &Path, arguments: &[OsString]) -> Result<()> {
    // It runs other balancers, and the agent's binary.
    let network = arguments.first().is_some_and(|name| name == "network");
    let purpose = if network {
        Purpose::Balancers
    } else {
        Purpose::Tests
    };
    let binary = prepare(workspace, purpose)?;
    if network {
        build::release(workspace)?;
    }
    command::run(std::process::Command::new(binary).args(arguments))
}

/// Measures the data path of this tree and of another commit in turns.
///
/// # Errors
/// If set-up or a build fails, or that commit has no such benchmark.
pub fn compare(workspace: &Path, base: &str, arguments: &[OsString]) -> Result<()> {
    let head = prepare(workspace, Purpose::Tests)?;
    let tree = compare::check_out(workspace, base)?;
    let base = benchmark(&tree).context("the other commit's benchmark doesn't build")?;
    compare::run([&base, &head], arguments)
}

fn prepare(workspace: &Path, purpose: Purpose) -> Result<PathBuf> {
    if !command::is_root() {
        bail!("the kernel runs programs for root only: run this as root");
    }
    setup::run(workspace, purpose)?;
    benchmark(workspace)
}

fn benchmark(workspace: &Path) -> Result<PathBuf> {
    let mut cargo = command::cargo(workspace);
    cargo.args(["build", "--release", "--package", "xlb-bench"]);
    let built = build::executables(&mut cargo)?;
    let bench = built.into_iter().find(|(name, _)| name == "xlb-bench");
    let (_, path) = bench.context("cargo didn't say where it put the benchmark")?;
    Ok(path)
}
