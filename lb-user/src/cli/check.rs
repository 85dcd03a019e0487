//! `xlb check`: validates a configuration.

use std::{path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{USAGE, print};
use crate::config::{self, Error, Finding, Parsed};

/// Validate a configuration file without applying it
///
/// Prints every error with its line and column, and what to do about it. Exits
/// with 0 if the file can be applied and 2 if it can't. What depends on the
/// host, such as whether an interface exists, is checked by `xlb run`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The configuration file (TOML)
    file: PathBuf,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    valid: bool,
    /// Of a valid file, as the others.
    listeners: Option<usize>,
    target_groups: Option<usize>,
    targets: Option<usize>,
    /// Errors and warnings.
    findings: Vec<Finding>,
    /// Why the file could not be read.
    error: Option<String>,
}

pub(super) fn run(command: &Check) -> anyhow::Result<ExitCode> {
    let checked = config::load(&command.file);
    let code = match &checked {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(USAGE),
    };
    let file = command.file.display().to_string();
    if command.json {
        print(&(serde_json::to_string_pretty(&report(file, checked))? + "\n"))?;
        return Ok(code);
    }
    match checked {
        Ok(Parsed { config, warnings }) => {
            eprint!("{warnings}");
            let (listeners, groups) = (config.listeners.len(), config.target_groups.len());
            let targets = config.targets();
            print(&format!(
                "{file}: valid: {listeners} listeners, {groups} target groups, {targets} targets\n"
            ))?;
        }
        Err(error) => eprint!("{error}"),
    }
    Ok(code)
}

fn report(file: String, checked: Result<Parsed, Error>) -> Report {
    let config = checked.as_ref().ok().map(|parsed| &parsed.config);
    Report {
        file,
        valid: config.is_some(),
        listeners: config.map(|it| it.listeners.len()),
        target_groups: config.map(|it| it.target_groups.len()),
        targets: config.map(config::Config::targets),
        findings: match &checked {
            Ok(parsed) => parsed.warnings.findings(),
            Err(Error::Invalid(diagnostics)) => diagnostics.findings(),
            Err(_) => Vec::new(),
        },
        error: match &checked {
            Ok(_) | Err(Error::Invalid(_)) => None,
            Err(error) => Some(error.to_string().trim_end().to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_told_what_people_are() {
        let told = |text: &str| {
            let checked = config::parse(text, "x").map_err(Error::Invalid);
            serde_json::to_value(report("x".into(), checked)).unwrap()
        };
        let valid = "interface = \"eth0\"\n[[listener]]\naddress = \":80\"\n\
                     target_group = \"a\"\n[[target_group]]\nname = \"a\"\ntargets = [\":81\"]\n";
        let report = told(valid);
        assert_eq!(report["valid"], true);
        assert_eq!(
            (&report["listeners"], &report["targets"]),
            (&1.into(), &1.into())
        );
        let report = told(&valid.replace("targets", "targts"));
        assert_eq!(report["valid"], false);
        let finding = &report["findings"][0];
        assert_eq!(finding["severity"], "error", "{report}");
        assert!(finding["line"].as_u64() > Some(1), "{report}");
        let nowhere = config::load(std::path::Path::new("/nowhere/xlb.toml"));
        let report = serde_json::to_value(super::report("x".into(), nowhere)).unwrap();
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("could not be read"), "{error}");
    }
}
