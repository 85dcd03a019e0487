//! The command line.

mod check;
mod log;
mod reload;
mod run;
mod status;

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::api::DEFAULT_SOCKET;

/// A packet-level load balancer.
///
/// xlb attaches to network interfaces, spreads new TCP and UDP flows over the
/// healthy targets of a group, and rewrites packets in the kernel (XDP) before
/// the host's own network stack sees them. Targets are health-checked, over
/// HTTP by default: GET /system/check.
#[derive(Debug, Parser)]
#[command(name = "xlb", version, max_term_width = 100)]
#[command(after_long_help = "\
Exit codes:
  0  success
  1  the command failed; the reason is on standard error
  2  the command line or the configuration is wrong

Files:
  /run/xlb/xlb.sock  the agent's socket (mode 0600)

Examples:
  xlb run --interface eth0 --listen :80 --target :8081 --target :8082
  xlb check /etc/xlb/xlb.toml && xlb run --config /etc/xlb/xlb.toml
  xlb reload
  xlb status --json | jq '.target_groups[].targets[] | select(.health != \"healthy\")'")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Run>),
    Check(check::Check),
    Reload(reload::Reload),
    Status(status::Status),
}

/// Where to reach a running agent.
#[derive(Debug, clap::Args)]
struct Socket {
    /// The agent's Unix socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "XLB_SOCKET")]
    socket: PathBuf,
}

/// A wrong command line or configuration; clap's own errors have it too.
const USAGE: u8 = 2;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(command) => run::run(&command),
        Command::Check(command) => check::run(&command),
        Command::Reload(command) => reload::run(&command),
        Command::Status(command) => status::run(&command),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{} {error:#}", paint("xlb:", Style::Error));
        ExitCode::FAILURE
    })
}

/// What a piece of output means, for colours on a terminal.
#[derive(Clone, Copy)]
enum Style {
    Error,
}

fn paint(text: &str, style: Style) -> String {
    if !std::io::stderr().is_terminal() {
        return text.to_owned();
    }
    match style {
        Style::Error => format!("\x1b[1;31m{text}\x1b[0m"),
    }
}

/// A runtime for commands that only ask.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the async runtime")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Of `xlb --help` and `xlb run --help`, as far as they are one command.
    #[test]
    fn the_examples_of_the_help_are_right() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        let mut help = command.render_long_help().to_string();
        let run = command.find_subcommand_mut("run").unwrap();
        help += &run.render_long_help().to_string();
        for part in ["Exit codes:", "Signals:", "RUST_LOG", "--health-protocol"] {
            assert!(help.contains(part), "{part} is missing in\n{help}");
        }
        let examples = help.lines().filter_map(|line| {
            let start = line.find("xlb run --interface")?;
            line[..start].trim().is_empty().then(|| line.trim())
        });
        let parsed: Vec<_> = examples
            .map(|example| Cli::try_parse_from(example.split_whitespace()).unwrap())
            .collect();
        assert_eq!(parsed.len(), 3);
    }
}
