//! `cargo xtask lint`: formatting and lints; everything runs, then it fails.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use bpf_build::{TARGET, Toolchain};

use crate::command;

/// What builds for the host.
const HOST_PACKAGES: [&str; 6] = [
    "bpf-build",
    "lb-common",
    "lb-user",
    "xlb-bench",
    "xlb-tests",
    "xtask",
];
/// What needs a target of its own.
const BPF_PACKAGES: [&str; 2] = ["lb-ebpf", "bench-ebpf"];

/// A tool that not everyone has.
struct Tool {
    name: &'static str,
    /// What is started: cargo, for a command of cargo's.
    runs: &'static str,
    /// The package that `cargo install` makes it from.
    package: &'static str,
}

/// Formats TOML files, as taplo.toml says.
const TAPLO: Tool = Tool {
    name: "taplo",
    runs: "taplo",
    package: "taplo-cli",
};
/// Checks what we depend on, as deny.toml says.
const DENY: Tool = Tool {
    name: "cargo-deny",
    runs: "cargo",
    package: "cargo-deny",
};
/// What needs no network.
const DENIED: [&str; 5] = ["deny", "check", "bans", "licenses", "sources"];
/// What needs the database of advisories, which comes by network.
const ADVISORIES: [&str; 3] = ["deny", "check", "advisories"];

/// Checks formatting and lints.
///
/// # Errors
/// If something is to be mended.
pub fn run(workspace: &Path) -> Result<()> {
    let mut commands = vec![format(workspace), clippy(workspace)];
    commands.extend(clippy_bpf(workspace)?);
    commands.extend(unit(workspace)?);
    commands.extend(installed(workspace, &TAPLO, &["fmt", "--check"]));
    if let Some(deny) = installed(workspace, &DENY, &DENIED) {
        commands.push(deny);
        commands.extend(advisories(workspace));
    }

    let mut failed = Vec::new();
    for mut command in commands {
        println!("=== {}", command::shown(&command));
        if command::run(&mut command).is_err() {
            failed.push(command::shown(&command));
        }
    }
    if !failed.is_empty() {
        bail!("to be mended, see above:\n  {}", failed.join("\n  "));
    }
    println!("=== nothing to mend");
    Ok(())
}

fn format(workspace: &Path) -> Command {
    let mut cargo = command::cargo(workspace);
    cargo.args(["fmt", "--all", "--check"]);
    cargo
}

fn clippy(workspace: &Path) -> Command {
    let mut cargo = command::cargo(workspace);
    cargo.args(["clippy", "--all-targets"]);
    cargo.args(
        HOST_PACKAGES
            .iter()
            .flat_map(|package| ["--package", package]),
    );
    cargo.args(["--", "-Dwarnings"]);
    cargo
}

/// Clippy for the kernel programs, if their toolchain has one.
fn clippy_bpf(workspace: &Path) -> Result<Option<Command>> {
    let toolchain = Toolchain::find(workspace)?
        .context("no toolchain for the BPF target was found: run `cargo xtask setup` once")?;
    let run = ["run", toolchain.name.as_str(), "cargo", "clippy"];
    if !command::succeeds(Command::new("rustup").args(run).arg("--version")) {
        println!(
            "=== clippy for the BPF programs: left out, toolchain {} has none",
            toolchain.name
        );
        return Ok(None);
    }
    let mut command = Command::new("rustup");
    command.current_dir(workspace).args(run);
    command.args(
        BPF_PACKAGES
            .iter()
            .flat_map(|package| ["--package", package]),
    );
    command.args(["--bins", "--release", "--target", TARGET]);
    command.args([
        "-Zbuild-std=core",
        "--target-dir",
        "target/bpf",
        "--",
        "-Dwarnings",
    ]);
    // As aya-build does: these name the cargo that runs us, not this one.
    command
        .env_remove("RUSTC")
        .env_remove("CARGO")
        .envs(toolchain.environment());
    Ok(Some(command))
}

/// systemd's look at a copy of the unit in which xlb is a program that every
/// machine has.
fn unit(workspace: &Path) -> Result<Option<Command>> {
    const NAME: &str = "systemd-analyze";
    if bpf_build::on_path(NAME).is_none() {
        println!("=== {NAME}: left out, it isn't installed; it comes with systemd");
        return Ok(None);
    }
    let unit = fs::read_to_string(workspace.join("packaging/xlb.service"))?;
    let folder = workspace.join("target/lint");
    fs::create_dir_all(&folder).context("can't make target/lint")?;
    let copy = folder.join("xlb.service");
    fs::write(&copy, unit.replace("/usr/bin/xlb", "/bin/true"))?;
    // It only warns of a line that it doesn't understand.
    let script = format!(
        "said=$({NAME} verify --man=no \"$1\" 2>&1) && [ -z \"$said\" ] || {{ echo \"$said\"; false; }}"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).arg(copy);
    Ok(Some(command))
}

/// A check by a tool, if that is installed; else says how to install it.
fn installed(workspace: &Path, tool: &Tool, arguments: &[&str]) -> Option<Command> {
    if bpf_build::on_path(tool.name).is_none() {
        println!(
            "=== {}: left out, it isn't installed; `cargo install {} --locked` does that",
            tool.name, tool.package
        );
        return None;
    }
    let mut command = Command::new(tool.runs);
    command.current_dir(workspace).args(arguments);
    Some(command)
}

/// The check for advisories, if their database can be fetched.
fn advisories(workspace: &Path) -> Option<Command> {
    let mut fetch = installed(workspace, &DENY, &["deny", "fetch", "db"])?;
    if !command::succeeds(&mut fetch) {
        println!("=== advisories: left out, their database can't be fetched from here");
        return None;
    }
    installed(workspace, &DENY, &ADVISORIES)
}
