//! One command of set-up: said before, timed, and quiet unless it fails.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Long enough for a slow machine and a slow mirror.
const LIMIT: Duration = Duration::from_secs(20 * 60);
const POLL: Duration = Duration::from_millis(50);
/// Lines of a failed command's output that are shown.
const TAIL: usize = 15;

/// Runs `command`, its output going to `.xlb/setup.log`.
///
/// # Errors
/// If it fails or takes too long, with the end of its output.
pub fn run(workspace: &Path, command: &mut Command) -> Result<()> {
    run_within(workspace, command, LIMIT)
}

/// As `run`, for a command that may hang.
///
/// # Errors
/// If it fails or takes longer than `limit`, with the end of its output.
pub fn run_within(workspace: &Path, command: &mut Command, limit: Duration) -> Result<()> {
    let shown = command::shown(command);
    println!("setup: {shown}");
    let path = workspace.join(".xlb/setup.log");
    fs::create_dir_all(workspace.join(".xlb")).context("can't create .xlb")?;
    let log = File::create(&path).context("can't create .xlb/setup.log")?;
    command
        .stdout(log.try_clone().context("can't share .xlb/setup.log")?)
        .stderr(log);

    let start = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("can't start {shown}"))?;
    let status = loop {
        if let Some(status) = child.try_wait().context("can't wait for it")? {
            break status;
        }
        if start.elapsed() > limit {
            child.kill().context("can't end it")?;
            child.wait().context("can't wait for it")?;
            bail!("{shown}: no end after {} s", limit.as_secs());
        }
        thread::sleep(POLL);
    };
    if !status.success() {
        let output = fs::read_to_string(&path).unwrap_or_default();
        bail!("{shown} failed ({status}):\n{}", tail(&output));
    }
    println!("setup: done in {} s", start.elapsed().as_secs());
    Ok(())
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{TAIL, tail};

    #[test]
    fn only_the_end_is_shown() {
        let text: String = (0..100).map(|number| format!("{number}\n")).collect();
        assert_eq!(tail(&text).lines().count(), TAIL);
        assert!(tail(&text).ends_with("99"));
        assert_eq!(tail("one\ntwo"), "one\ntwo");
        assert_eq!(tail(""), "");
    }
}
