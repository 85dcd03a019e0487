//! `cargo xtask build` and `run`, and executables for other commands.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Builds the agent for release, and by its build script the kernel programs.
/// Returns where the binary `xlb` lies.
///
/// # Errors
/// If the build fails.
pub fn release(workspace: &Path) -> Result<PathBuf> {
    let mut cargo = command::cargo(workspace);
    cargo.args(["build", "--release", "--package", "lb-user", "--bin", "xlb"]);
    let built = executables(&mut cargo)?;
    let xlb = built.into_iter().find(|(name, _)| name == "xlb");
    let (_, path) = xlb.context("cargo didn't say where it put xlb")?;
    Ok(path)
}

/// Builds these test files, and doesn't run them. Returns each one's
/// executable by its name.
///
/// # Errors
/// If the build fails.
pub fn tests(workspace: &Path, names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = command::cargo(workspace);
    cargo.args(["test", "--no-run", "--package", "xlb-tests"]);
    cargo.args(names.iter().flat_map(|name| ["--test", name]));
    executables(&mut cargo)
}

/// Shows what the programs cost the kernel's verifier, and fails if that is
/// too near to its limits.
///
/// # Errors
/// If we aren't root, the kernel refuses a program or it costs too much.
pub fn stats(workspace: &Path) -> Result<()> {
    if !command::is_root() {
        bail!("--stats loads the programs to ask the kernel's verifier: run it as root");
    }
    let mut cargo = command::cargo(workspace);
    cargo.args(["test", "--quiet", "--package", "xlb-tests"]);
    command::run(cargo.args(["--test", "verifier", "--", "--show-output"]))
}

/// Builds xlb and becomes it, so that signals reach it directly.
///
/// # Errors
/// If the build fails or xlb can't be started.
pub fn run(workspace: &Path, arguments: &[OsString]) -> Result<()> {
    let xlb = release(workspace)?;
    let error = Command::new(&xlb).args(arguments).exec();
    Err(error).with_context(|| format!("can't start {}", xlb.display()))
}

/// Runs a cargo that builds: what executables there are now, by name.
///
/// # Errors
/// If the build fails.
pub fn executables(cargo: &mut Command) -> Result<Vec<(String, PathBuf)>> {
    // Errors still reach the terminal.
    cargo
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = cargo.output().context("can't start cargo")?;
    if !output.status.success() {
        bail!("xlb doesn't build");
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages aren't UTF-8")?;
    Ok(messages.lines().filter_map(executable).collect())
}

/// The name and path in a message of cargo's that tells of an executable.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let name = message.pointer("/target/name")?.as_str()?;
    let path = message.get("executable")?.as_str()?;
    Some((name.to_owned(), path.into()))
}

#[cfg(test)]
mod tests {
    use super::executable;

    #[test]
    fn the_binary_is_found_among_the_messages() {
        let other = r#"{"reason":"compiler-artifact","target":{"name":"aya"},"executable":null}"#;
        let xlb = r#"{"reason":"compiler-artifact","target":{"name":"xlb"},"executable":"/t/xlb"}"#;
        assert_eq!(executable(other), None);
        assert_eq!(executable("plain text"), None);
        assert_eq!(executable(xlb), Some(("xlb".to_owned(), "/t/xlb".into())));
    }
}
