//! `xlb doctor`: what of this host keeps xlb from working.

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

use super::{USAGE, runtime};
use crate::{
    config::{self, Config},
    doctor::{self, Finding, Severity},
};

/// Looked at if no configuration is named, and it is there.
const DEFAULT_CONFIG: &str = "/etc/xlb/xlb.toml";

/// Say what of this host keeps xlb from working, or from working well
///
/// Looks at the kernel, this process's rights, and the interfaces, loads the
/// programs without attaching them, and tries what a configuration needs of this
/// host. Changes nothing, and needs no running agent. Every finding says what to
/// do about it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Findings are:
  ok       fine
  note     good to know
  warning  xlb works, but slower or not for all packets
  error    xlb doesn't start, or balances nothing

Exit codes:
  0  no warning and no error
  1  warnings, or the command failed
  2  errors, among them those of the configuration file

Examples:
  xlb doctor --interface eth0
  xlb doctor --config /etc/xlb/xlb.toml
  xlb doctor --json | jq '.findings[] | select(.severity == \"error\")'")]
pub(super) struct Doctor {
    /// Network interface to look at, instead of those of the configuration (repeatable)
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,

    /// Configuration file (TOML) [default: /etc/xlb/xlb.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print everything as one JSON document
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    worst: Severity,
    findings: &'a [Finding],
}

pub(super) fn run(command: &Doctor) -> anyhow::Result<ExitCode> {
    let config = match read(command.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            eprint!("{error}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let interfaces = match (&config, command.interface.is_empty()) {
        (Some(config), true) => &config.interfaces,
        _ => &command.interface,
    };
    let findings = runtime()?.block_on(doctor::examine(config.as_ref(), interfaces))?;
    let worst = doctor::worst(&findings);
    let text = if command.json {
        let findings = &findings;
        serde_json::to_string_pretty(&Report { worst, findings })? + "\n"
    } else {
        render(&findings, std::io::stdout().is_terminal())
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::from(exit_code(worst))),
    }
}

fn read(file: Option<&Path>) -> Result<Option<Config>, config::Error> {
    let default = Path::new(DEFAULT_CONFIG);
    let Some(file) = file.or_else(|| default.exists().then_some(default)) else {
        return Ok(None);
    };
    let parsed = config::load(file)?;
    eprint!("{}", parsed.warnings);
    Ok(Some(parsed.config))
}

fn exit_code(worst: Severity) -> u8 {
    match worst {
        Severity::Ok | Severity::Note => 0,
        Severity::Warning => 1,
        Severity::Error => USAGE,
    }
}

/// A line a finding, and one for what to do; `colours` only for a terminal.
fn render(findings: &[Finding], colours: bool) -> String {
    const INDENT: &str = "         ";
    let mut text = String::new();
    for finding in findings {
        let (word, colour) = shown(finding.severity);
        let word = format!("{word:<7}");
        let word = match colours {
            true => format!("\x1b[{colour}m{word}\x1b[0m"),
            false => word,
        };
        let interface = finding.interface.as_ref();
        let interface = interface.map_or_else(String::new, |name| format!("{name}: "));
        text += &format!(
            "{word}  {interface}{}: {}\n",
            finding.check, finding.message
        );
        if let Some(advice) = &finding.advice {
            text += &format!("{INDENT}-> {advice}\n");
        }
    }
    let count = |severity| findings.iter().filter(|it| it.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    text + &format!(
        "\n{errors} errors, {warnings} warnings, {} notes\n",
        count(Severity::Note)
    )
}

/// In a word, and a colour of ECMA-48.
fn shown(severity: Severity) -> (&'static str, &'static str) {
    match severity {
        Severity::Ok => ("ok", "32"),
        Severity::Note => ("note", "36"),
        Severity::Warning => ("warning", "33"),
        Severity::Error => ("error", "1;31"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, interface: Option<&str>, advice: Option<&str>) -> Finding {
        Finding {
            severity,
            check: "mtu",
            interface: interface.map(str::to_owned),
            message: "it is so".to_owned(),
            advice: advice.map(str::to_owned),
        }
    }

    #[test]
    fn a_finding_is_a_line_and_one_for_what_to_do() {
        let findings = [
            finding(Severity::Ok, None, None),
            finding(Severity::Warning, Some("eth0"), Some("lower it")),
        ];
        let expected = "ok       mtu: it is so\nwarning  eth0: mtu: it is so\n         \
                        -> lower it\n\n0 errors, 1 warnings, 0 notes\n";
        assert_eq!(render(&findings, false), expected);
        assert!(render(&findings, true).contains("\x1b[33mwarning\x1b[0m  eth0"));
    }

    #[test]
    fn the_worst_finding_is_the_exit_code() {
        use Severity::{Error, Note, Ok, Warning};
        let cases: [(&[Severity], u8); 5] = [
            (&[], 0),
            (&[Ok, Note], 0),
            (&[Warning, Note], 1),
            (&[Ok, Error, Warning], 2),
            (&[Error], 2),
        ];
        for (severities, code) in cases {
            let findings: Vec<_> = severities
                .iter()
                .map(|it| finding(*it, None, None))
                .collect();
            assert_eq!(exit_code(doctor::worst(&findings)), code, "{severities:?}");
        }
    }
}
