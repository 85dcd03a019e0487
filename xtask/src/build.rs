//! `cargo xtask build` and `run`.

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
    // Errors still reach the terminal; stdout says where the binary is.
    cargo
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = cargo.output().context("can't start cargo")?;
    if !output.status.success() {
        bail!("xlb doesn't build");
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages aren't UTF-8")?;
    messages
        .lines()
        .find_map(executable)
        .context("cargo didn't say where it put xlb")
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

/// The path in the one message of cargo's that tells of the binary.
fn executable(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let named = message.pointer("/target/name")?.as_str()? == "xlb";
    let path = message.get("executable")?.as_str()?;
    named.then(|| path.into())
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
        assert_eq!(executable(xlb), Some("/t/xlb".into()));
    }
}
