//! `cargo xtask lint`: formatting and lints; everything runs, then it fails.

use std::{ffi::OsString, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    toolchain::{self, TARGET, Toolchain},
};

/// What builds for the host; lb-ebpf needs a target of its own.
const HOST_PACKAGES: [&str; 4] = ["lb-common", "lb-user", "xtask", "xlb-tests"];

/// Checks formatting and lints.
///
/// # Errors
/// If something is to be mended.
pub fn run(workspace: &Path) -> Result<()> {
    let mut commands = vec![format(workspace), clippy(workspace)];
    commands.extend(clippy_bpf(workspace)?);
    commands.extend(installed(workspace, "taplo", "taplo", &["fmt", "--check"]));
    // Licences would need a list of those allowed; these checks need none.
    let deny = ["deny", "check", "advisories", "bans", "sources"];
    commands.extend(installed(workspace, "cargo-deny", "cargo", &deny));

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
            "=== clippy for lb-ebpf: left out, toolchain {} has none",
            toolchain.name
        );
        return Ok(None);
    }
    let mut command = Command::new("rustup");
    command.current_dir(workspace).args(run);
    command.args([
        "--package",
        "lb-ebpf",
        "--bins",
        "--release",
        "--target",
        TARGET,
    ]);
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

/// A check by a tool that not everyone has.
fn installed(workspace: &Path, tool: &str, program: &str, arguments: &[&str]) -> Option<Command> {
    if toolchain::on_path(tool).is_none() {
        println!("=== {tool}: left out, it isn't installed");
        return None;
    }
    let mut command = Command::new(OsString::from(program));
    command.current_dir(workspace).args(arguments);
    Some(command)
}
