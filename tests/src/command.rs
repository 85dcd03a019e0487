//! Runs commands to their end; an error says which one failed and what it said.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Runs a command and gives its standard output.
///
/// # Errors
/// If it can't be started, or doesn't exit with 0.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    ensure!(
        output.status.success(),
        "`{}` failed ({}): {}{}",
        describe(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim(),
        String::from_utf8_lossy(&output.stdout).trim(),
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command whatever its exit code says.
///
/// # Errors
/// If it can't be started.
pub fn output(command: &mut Command) -> Result<Output> {
    // A group of its own: a terminal's Ctrl-C must not end a command that
    // takes something back.
    command
        .stdin(Stdio::null())
        .process_group(0)
        .output()
        .with_context(|| {
            format!(
                "`{}` can't be started; `cargo xtask setup` installs what is missing",
                describe(command)
            )
        })
}

/// Runs a command given as words.
///
/// # Errors
/// As [`run`].
pub fn run_words(words: &[&str]) -> Result<String> {
    let (program, arguments) = words.split_first().context("no command given")?;
    run(Command::new(program).args(arguments))
}

/// The command as one would type it.
#[must_use]
pub fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
