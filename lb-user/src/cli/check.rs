//! `xlb check`: validates a configuration.

use std::{path::PathBuf, process::ExitCode};

use super::USAGE;
use crate::config;

/// Validate a configuration file without applying it
///
/// Prints every error with its line and column, and what to do about it. Exits
/// with 0 if the file can be applied and 2 if it can't. What depends on the
/// host, such as whether an interface exists, is checked by `xlb run`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The configuration file (TOML)
    file: PathBuf,
}

pub(super) fn run(command: &Check) -> anyhow::Result<ExitCode> {
    Ok(match config::load(&command.file) {
        Ok(parsed) => {
            eprint!("{}", parsed.warnings);
            let listeners = parsed.config.listeners.len();
            let groups = parsed.config.target_groups.len();
            let targets = parsed.config.targets();
            println!(
                "{}: valid: {listeners} listeners, {groups} target groups, {targets} targets",
                command.file.display(),
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint!("{error}");
            ExitCode::from(USAGE)
        }
    })
}
