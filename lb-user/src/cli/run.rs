//! `xlb run`: the agent.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::ValueEnum;
use tracing::{error, warn};

use super::{
    Bpffs, Socket, USAGE,
    log::{self, Reader},
};
use crate::{
    agent, capabilities,
    config::{self, Admin, File, Flags, Overrides, TcMode, XdpMode},
    dataplane,
};

/// Balance traffic until stopped
///
/// With --config the file says what to do; without it --interface, --listen and
/// --target do. Needs root, or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW,
/// and gives up every other capability. SIGHUP makes it read the file again, as
/// `xlb reload` does.
///
/// Ended by SIGTERM, or killed, it leaves traffic as it is, and the next agent
/// takes over without a packet lost. Ctrl-C and `xlb unload` end that.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes:
  0  ended by a signal or by `xlb unload`
  1  it could not start, or not take everything back; the reason is on standard error
  2  the command line or the configuration is wrong

Signals:
  SIGTERM  end, and leave traffic as it is for the next agent
  SIGINT   end, and take everything out of the kernel, as `xlb unload` does
  SIGHUP   read the configuration file again; without one, as SIGINT

Environment:
  RUST_LOG  what to log: error, warn, info (default), debug or trace
  XLB_LOG   the same as --log
  XLB_INSTANCE, XLB_RUN_DIR, XLB_SOCKET, XLB_BPFFS  the same as the options

Examples:
  xlb run --interface eth0 --listen :80 --target :8081 --target :8082
  xlb run --interface eth0 --listen :53/udp --target 10.0.2.21:53 --health-protocol tcp
  RUST_LOG=debug xlb run --config /etc/xlb/xlb.toml")]
#[command(group = clap::ArgGroup::new("what").args(["config", "interface"]).required(true))]
pub(super) struct Run {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "target"])]
    config: Option<PathBuf>,

    /// Network interface to attach to (repeatable)
    #[arg(long, value_name = "NAME", requires = "listen", requires = "target")]
    interface: Vec<String>,

    /// Address and port to listen on, as :80, 10.0.0.1:80, [2001:db8::1]:80 or :53/udp (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,

    /// Address and port that serves requests; :8081 is a port of this host (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    target: Vec<String>,

    /// How to attach XDP; overrides the configuration
    #[arg(long, value_name = "MODE")]
    xdp_mode: Option<XdpModeFlag>,

    /// How to attach the tc programs; overrides the configuration
    #[arg(long, value_name = "MODE")]
    tc_mode: Option<TcModeFlag>,

    /// Take out of the kernel first what is at work there: all flows end
    #[arg(long)]
    replace: bool,

    /// Serve metrics and a web page at this address, as 127.0.0.1:9800; overrides the configuration
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,

    /// Let --admin be an address that other machines can reach
    #[arg(long, requires = "admin")]
    admin_allow_remote: bool,

    /// How to log
    #[arg(long, value_name = "FORMAT", default_value = "auto", env = "XLB_LOG")]
    log: log::Format,

    #[command(flatten)]
    socket: Socket,
    #[command(flatten)]
    bpffs: Bpffs,

    // Last: its heading would go on for what follows.
    #[command(flatten)]
    health: Health,
}

/// The health check of targets that are given by --target. A target of UDP is
/// checked over HTTP or TCP as well, at a port where it answers that.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Health check of --target")]
struct Health {
    /// How to check: http, https or tcp [default: http]
    ///
    /// http: a GET is answered with a status from 200 to 399. https: the same over TLS, with a
    /// certificate for the target's address from an authority that this host trusts. tcp: the
    /// connection is accepted.
    /// UDP can't be checked: a UDP service must speak one of these, at --health-port.
    #[arg(long, value_name = "PROTOCOL", conflicts_with = "config")]
    #[arg(value_parser = ["http", "https", "tcp"], hide_possible_values = true)]
    health_protocol: Option<String>,
    /// Port to check [default: the target's own]
    #[arg(long, value_name = "PORT", conflicts_with = "config")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    health_port: Option<u16>,
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
    let reader = log::init(command.log)?;
    match balance(command, reader) {
        // A last line that isn't like the others would be lost on it.
        Err(error) if reader == Reader::Program => {
            error!(error = format!("{error:#}"), "xlb has failed");
            Ok(ExitCode::FAILURE)
        }
        result => result,
    }
}

fn balance(command: &Run, reader: Reader) -> anyhow::Result<ExitCode> {
    let (parsed, overrides) = match read(command).and_then(|it| Ok((it, overrides(command)?))) {
        Ok(read) => read,
        Err(message) => {
            match reader {
                Reader::Person => eprint!("{message}"),
                Reader::Program => error!("{}", message.trim_end()),
            }
            return Ok(ExitCode::from(USAGE));
        }
    };
    match reader {
        Reader::Person => eprint!("{}", parsed.warnings),
        Reader::Program => parsed.warnings.lines().iter().for_each(|it| warn!("{it}")),
    }
    let mut config = parsed.config;
    overrides.apply(&mut config);
    let file = command.config.clone().map(|path| File { path, overrides });
    let instance = command.socket.instance(&command.bpffs);
    // It may have to be mounted, which takes a capability that is given up.
    dataplane::mount_bpffs(&instance.bpffs)?;
    // Before there are other threads, which would keep what they have.
    capabilities::give_up_others()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("could not start the async runtime")?;
    let replace = command.replace;
    runtime.block_on(async move {
        // Not on this thread itself, which each result of a check would wake.
        tokio::spawn(async move { agent::run(config, file, &instance, replace).await }).await
    })??;
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
        health_protocol: health.health_protocol.clone(),
        health_port: health.health_port,
        health_path: health.health_path.clone(),
        health_interval: health.health_interval.clone(),
        health_timeout: health.health_timeout.clone(),
        healthy_threshold: health.healthy_threshold,
        unhealthy_threshold: health.unhealthy_threshold,
        health_body: health.health_body.clone(),
    };
    config::from_flags(&flags).map_err(|error| error.to_string())
}

fn overrides(command: &Run) -> Result<Overrides, String> {
    let admin = command.admin.as_deref();
    let admin = admin.map(|text| Admin::new(text, command.admin_allow_remote));
    let admin = admin.transpose();
    Ok(Overrides {
        admin: admin.map_err(|error| format!("error: --admin: {error}\n"))?,
        xdp_mode: command.xdp_mode.map(|mode| match mode {
            XdpModeFlag::Auto => XdpMode::Auto,
            XdpModeFlag::Native => XdpMode::Native,
            XdpModeFlag::Generic => XdpMode::Generic,
        }),
        tc_mode: command.tc_mode.map(|mode| match mode {
            TcModeFlag::Auto => TcMode::Auto,
            TcModeFlag::Tcx => TcMode::Tcx,
            TcModeFlag::Clsact => TcMode::Clsact,
        }),
    })
}
