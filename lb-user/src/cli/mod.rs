//! The command line.

mod capture;
mod check;
mod completions;
mod doctor;
mod explain;
mod flows;
mod log;
mod rates;
mod reload;
mod run;
mod status;
mod target;
mod top;
mod unload;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};

use crate::{
    api::ClientError,
    instance::{self, Instance, Name},
};

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
  2  the command line, the configuration or what was asked for is wrong
  3  no agent answers

Files:
  /run/xlb/default/xlb.sock    the agent's socket (mode 0600)
  /run/xlb/default/state.json  what the next agent is told
  /sys/fs/bpf/xlb/default/     the maps and links, which outlive the agent

Examples:
  xlb run --interface eth0 --listen :80 --target :8081 --target :8082
  xlb check /etc/xlb/xlb.toml && xlb run --config /etc/xlb/xlb.toml
  xlb doctor --interface eth0
  xlb reload
  xlb unload
  xlb drain 10.0.2.21:8080 && xlb enable 10.0.2.21:8080
  xlb status --json | jq '.target_groups[].targets[] | select(.health != \"healthy\")'")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Run>),
    Check(check::Check),
    Doctor(doctor::Doctor),
    Reload(reload::Reload),
    Status(status::Status),
    Top(top::Top),
    Flows(flows::Flows),
    Explain(explain::Explain),
    Capture(capture::Capture),
    Drain(target::Drain),
    Enable(target::Enable),
    Weight(target::Weight),
    Unload(unload::Unload),
    Completions(completions::Completions),
    #[command(hide = true)]
    Manual(completions::Manual),
}

/// Which agent, and where to reach it.
#[derive(Debug, clap::Args)]
struct Socket {
    /// Which xlb, if several run on this host: a name of your choice
    #[arg(long, value_name = "NAME", default_value = instance::DEFAULT_NAME, env = "XLB_INSTANCE")]
    instance: Name,
    /// The folder with a folder for each instance
    #[arg(long, value_name = "PATH", default_value = instance::DEFAULT_RUN_DIR)]
    #[arg(env = "XLB_RUN_DIR", hide_short_help = true)]
    run_dir: PathBuf,
    /// The agent's Unix socket [default: xlb.sock in the instance's folder]
    #[arg(long, value_name = "PATH", env = "XLB_SOCKET", hide_short_help = true)]
    socket: Option<PathBuf>,
}

impl Socket {
    /// The socket's path.
    fn path(&self) -> PathBuf {
        self.instance_at(PathBuf::new()).socket()
    }

    fn instance(&self, bpffs: &Bpffs) -> Instance {
        self.instance_at(bpffs.bpffs.clone())
    }

    fn instance_at(&self, bpffs: PathBuf) -> Instance {
        Instance {
            name: self.instance.clone(),
            run_dir: self.run_dir.clone(),
            bpffs,
            socket: self.socket.clone(),
        }
    }
}

/// Where maps and links are pinned.
#[derive(Debug, clap::Args)]
struct Bpffs {
    /// Where the BPF filesystem is mounted, or else is to be
    #[arg(long, value_name = "PATH", default_value = instance::DEFAULT_BPFFS)]
    #[arg(env = "XLB_BPFFS", hide_short_help = true)]
    bpffs: PathBuf,
}

/// A wrong command line, configuration or wish; clap's own errors have it too.
const USAGE: u8 = 2;
/// Nobody answers on the socket.
const NO_AGENT: u8 = 3;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(command) => run::run(&command),
        Command::Check(command) => check::run(&command),
        Command::Doctor(command) => doctor::run(&command),
        Command::Reload(command) => reload::run(&command),
        Command::Status(command) => status::run(&command),
        Command::Unload(command) => unload::run(&command),
        Command::Completions(command) => completions::completions(&command),
        Command::Manual(command) => completions::manual(&command),
        Command::Top(command) => top::run(&command),
        Command::Flows(command) => flows::run(&command),
        Command::Explain(command) => explain::run(&command),
        Command::Capture(command) => capture::run(&command),
        Command::Drain(command) => target::drain(&command),
        Command::Enable(command) => target::enable(&command),
        Command::Weight(command) => target::weight(&command),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{} {error:#}", paint("xlb:", Style::Error));
        code(&error)
    })
}

/// What scripts are told of an error.
fn code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<ClientError>() {
        Some(error) if error.is_no_agent() => ExitCode::from(NO_AGENT),
        Some(ClientError::Invalid(_)) => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}

/// Writes to standard output.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    written(std::io::stdout().write_all(text.as_bytes()))
}

fn written(result: io::Result<()>) -> anyhow::Result<ExitCode> {
    match result {
        // Whoever read had seen enough (`xlb status | head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => written.map(|()| ExitCode::SUCCESS).map_err(Into::into),
    }
}

/// What a piece of output means, for colours on a terminal.
#[derive(Clone, Copy)]
enum Style {
    Error,
}

/// The time between two looks of a command that goes on.
fn interval_from(text: &str) -> Result<Duration, String> {
    let wrong = || "a number of seconds from 0.1 to 86400, as 2 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    match (0.1..=86_400.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(wrong()),
    }
}

/// Whether standard output takes colours.
fn colours() -> bool {
    io::stdout().is_terminal() && wants_colours()
}

/// See <https://no-color.org>.
fn wants_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn paint(text: &str, style: Style) -> String {
    if !(io::stderr().is_terminal() && wants_colours()) {
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
