//! `xlb run`: the agent.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{Socket, USAGE};
use crate::{
    agent,
    config::{self, Flags, TcMode, XdpMode},
};

/// Balance traffic until stopped
///
/// With --config the file says what to do; without it --interface, --listen and
/// --target do. Needs root. Stops on SIGTERM, SIGINT and SIGHUP, and then
/// detaches everything that it attached.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").args(["config", "interface"]).required(true))]
pub(super) struct Run {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "target"])]
    config: Option<PathBuf>,

    /// Network interface to attach to (repeatable)
    #[arg(long, value_name = "NAME", requires = "listen", requires = "target")]
    interface: Vec<String>,

    /// Address and port to listen on, as :80, 10.0.0.1:80 or :53/udp (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,

    /// Address and port that serves requests; :8081 is a port of this host (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    target: Vec<String>,

    #[command(flatten)]
    health: Health,

    /// How to attach XDP; overrides the configuration
    #[arg(long, value_name = "MODE")]
    xdp_mode: Option<XdpModeFlag>,

    /// How to attach the tc programs; overrides the configuration
    #[arg(long, value_name = "MODE")]
    tc_mode: Option<TcModeFlag>,

    #[command(flatten)]
    socket: Socket,
}

/// The health check of targets that are given by --target.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Health check of --target")]
struct Health {
    /// Path to GET [default: /system/check]
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    health_path: Option<String>,
    /// Time between checks, as 10s or 500ms [default: 10s]
    #[arg(long, value_name = "TIME", conflicts_with = "config")]
    health_interval: Option<String>,
    /// Time that an answer may take, less than the interval [default: 6s]
    #[arg(long, value_name = "TIME", conflicts_with = "config")]
    health_timeout: Option<String>,
    /// Successes in a row that make a target healthy again [default: 3]
    #[arg(long, value_name = "COUNT", conflicts_with = "config")]
    healthy_threshold: Option<u32>,
    /// Failures in a row that make a target unhealthy [default: 3]
    #[arg(long, value_name = "COUNT", conflicts_with = "config")]
    unhealthy_threshold: Option<u32>,
    /// Text that the answer's body must contain
    #[arg(long, value_name = "TEXT", conflicts_with = "config")]
    health_body: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum XdpModeFlag {
    /// Native, else generic with a warning
    Auto,
    /// In the driver
    Native,
    /// In the kernel's stack: any driver, but several times slower
    Generic,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TcModeFlag {
    /// TCX, else clsact
    Auto,
    /// Needs Linux 6.6
    Tcx,
    /// A qdisc, as on older kernels
    Clsact,
}

pub(super) fn run(command: &Run) -> anyhow::Result<ExitCode> {
    let parsed = match read(command) {
        Ok(parsed) => parsed,
        Err(message) => {
            eprint!("{message}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    eprint!("{}", parsed.warnings);
    let mut config = parsed.config;
    override_modes(command, &mut config);
    log();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("could not start the async runtime")?;
    runtime.block_on(agent::run(config, &command.socket.socket))?;
    Ok(ExitCode::SUCCESS)
}

fn read(command: &Run) -> Result<config::Parsed, String> {
    if let Some(file) = &command.config {
        return config::load(file).map_err(|error| error.to_string());
    }
    let health = &command.health;
    let flags = Flags {
        interfaces: command.interface.clone(),
        listens: command.listen.clone(),
        targets: command.target.clone(),
        health_path: health.health_path.clone(),
        health_interval: health.health_interval.clone(),
        health_timeout: health.health_timeout.clone(),
        healthy_threshold: health.healthy_threshold,
        unhealthy_threshold: health.unhealthy_threshold,
        health_body: health.health_body.clone(),
    };
    config::from_flags(&flags).map_err(|error| error.to_string())
}

fn override_modes(command: &Run, config: &mut config::Config) {
    match command.xdp_mode {
        Some(XdpModeFlag::Auto) => config.xdp_mode = XdpMode::Auto,
        Some(XdpModeFlag::Native) => config.xdp_mode = XdpMode::Native,
        Some(XdpModeFlag::Generic) => config.xdp_mode = XdpMode::Generic,
        None => {}
    }
    match command.tc_mode {
        Some(TcModeFlag::Auto) => config.tc_mode = TcMode::Auto,
        Some(TcModeFlag::Tcx) => config.tc_mode = TcMode::Tcx,
        Some(TcModeFlag::Clsact) => config.tc_mode = TcMode::Clsact,
        None => {}
    }
}

/// Logs to standard error: state changes, never a line per packet or check.
/// `RUST_LOG` changes how much.
fn log() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
