//! The agent under test, by its command line only.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fmt,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::{
    command::{output, run},
    directory,
    netns::Namespace,
    process::Process,
    wait,
};

/// The configuration file's name.
const CONFIG: &str = "xlb.toml";
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(10);

/// The binary: `$XLB_BIN`, else the workspace's release build.
///
/// # Errors
/// If there is none.
pub fn binary() -> Result<PathBuf> {
    let path = env::var_os("XLB_BIN").map_or_else(
        || {
            let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
                || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
                PathBuf::from,
            );
            target.join("release/xlb")
        },
        PathBuf::from,
    );
    fs::canonicalize(&path).with_context(|| {
        format!(
            "{} doesn't exist: `cargo xtask build` builds it",
            path.display()
        )
    })
}

/// A command of xlb in a namespace. The agent that it is or asks has its socket,
/// its state and its pins in `directory`.
///
/// # Errors
/// If there is no binary.
pub fn command(namespace: &Namespace, directory: &Path, subcommand: &str) -> Result<Command> {
    command_by(&[], namespace, directory, subcommand)
}

/// The same, started by another program that is given it as its arguments.
fn command_by(
    starter: &[&str],
    namespace: &Namespace,
    directory: &Path,
    subcommand: &str,
) -> Result<Command> {
    let binary = binary()?;
    let mut words = starter.iter().map(OsStr::new).chain([binary.as_os_str()]);
    let mut command = namespace.command(words.next().unwrap_or_default());
    command
        .args(words)
        .envs(environment(directory))
        .arg(subcommand);
    Ok(command)
}

fn environment(directory: &Path) -> [(&'static str, PathBuf); 2] {
    [
        ("XLB_RUN_DIR", run_dir(directory)),
        ("XLB_BPFFS", directory::bpffs(directory)),
    ]
}

fn run_dir(directory: &Path) -> PathBuf {
    directory.join("run")
}

/// A configuration file.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub interfaces: Vec<String>,
    /// `native` or `generic`; the default if `None`, so the others.
    pub xdp_mode: Option<&'static str>,
    /// `tcx` or `clsact`.
    pub tc_mode: Option<&'static str>,
    /// More lines in front of all tables, and tables behind them.
    pub settings: String,
    pub tables: String,
    pub listeners: Vec<Listener>,
    pub target_groups: Vec<TargetGroup>,
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub name: String,
    pub address: SocketAddr,
    /// Instead of the one port of `address`.
    pub ports: Option<&'static str>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    pub target_group: String,
    /// More lines.
    pub settings: String,
}

#[derive(Clone, Debug)]
pub struct TargetGroup {
    pub name: String,
    /// Addresses and weights. Port 0 stands for the client's.
    pub targets: Vec<(SocketAddr, u16)>,
    pub preserve_client_ip: bool,
    /// The port to check, if not the one that gets the traffic. The checks are
    /// fast: every second, thresholds of 2.
    pub health_port: Option<u16>,
    /// More of the group's settings, lines of TOML.
    pub settings: String,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interfaces[..] {
            [interface] => writeln!(f, "interface = {interface:?}")?,
            interfaces => writeln!(f, "interface = {interfaces:?}")?,
        }
        for (key, value) in [("xdp_mode", self.xdp_mode), ("tc_mode", self.tc_mode)] {
            if let Some(value) = value {
                writeln!(f, "{key} = {value:?}")?;
            }
        }
        writeln!(f, "{}\n{}", self.settings, self.tables)?;
        self.listeners
            .iter()
            .try_for_each(|listener| writeln!(f, "\n{listener}"))?;
        self.target_groups
            .iter()
            .try_for_each(|group| writeln!(f, "\n{group}"))
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            address,
            ports,
            protocol,
            target_group,
            settings,
        } = self;
        let address = match ports {
            Some(ports) => with_ports(*address, ports),
            None => address.to_string(),
        };
        writeln!(
            f,
            "[[listener]]\nname = {name:?}\naddress = {address:?}\nprotocol = {protocol:?}\n\
             target_group = {target_group:?}\n{settings}"
        )
    }
}

impl fmt::Display for TargetGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut targets = String::new();
        for (address, weight) in &self.targets {
            let address = match address.port() {
                0 => with_ports(*address, "*"),
                _ => address.to_string(),
            };
            write!(
                targets,
                "\n  {{ address = {address:?}, weight = {weight} }},"
            )?;
        }
        let Self {
            name,
            preserve_client_ip,
            settings,
            ..
        } = self;
        write!(
            f,
            "[[target_group]]\nname = {name:?}\ntargets = [{targets}\n]\n{settings}\n"
        )?;
        if *preserve_client_ip {
            writeln!(f, "preserve_client_ip = true")?;
        }
        write!(
            f,
            "\n[target_group.health_check]\nbody = \"system is running\"\ninterval = \"1s\"\n\
             timeout = \"500ms\"\nhealthy_threshold = 2\nunhealthy_threshold = 2"
        )?;
        self.health_port
            .map_or(Ok(()), |port| write!(f, "\nport = {port}"))
    }
}

/// An address with these ports instead of its own.
fn with_ports(address: SocketAddr, ports: &str) -> String {
    match address {
        SocketAddr::V4(address) => format!("{}:{ports}", address.ip()),
        SocketAddr::V6(address) => format!("[{}]:{ports}", address.ip()),
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Xlb {
    process: Process,
    namespace: Namespace,
    directory: PathBuf,
}

impl Xlb {
    /// Runs `xlb run --config …` and waits until it is ready.
    ///
    /// # Errors
    /// If it doesn't get ready soon.
    pub fn start(namespace: &Namespace, config: &Config, directory: &Path) -> Result<Self> {
        Self::start_by(&[], namespace, config, directory)
    }

    /// The same by a command that the words of `starter` begin.
    ///
    /// # Errors
    /// If it doesn't get ready soon.
    pub fn start_by(
        starter: &[&str],
        namespace: &Namespace,
        config: &Config,
        directory: &Path,
    ) -> Result<Self> {
        let file = directory.join(CONFIG);
        fs::write(&file, config.to_string())?;
        let arguments = ["--config", &file.to_string_lossy()];
        Self::run_by(starter, namespace, &arguments, directory)
    }

    /// Writes another configuration to the file, and has the agent apply it.
    ///
    /// # Errors
    /// If it doesn't.
    pub fn reload(&self, config: &Config) -> Result<()> {
        let output = self.try_reload(&config.to_string())?;
        ensure!(
            output.status.success(),
            "`xlb reload` ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Writes a text to the configuration file, and says what `xlb reload` does
    /// about it.
    ///
    /// # Errors
    /// If that can't be run.
    pub fn try_reload(&self, config: &str) -> Result<Output> {
        fs::write(self.config(), config)?;
        output(&mut self.command("reload")?)
    }

    /// Writes a text to the configuration file, sends SIGHUP, and gives what the
    /// agent logs about it: up to a line with `until`.
    ///
    /// # Errors
    /// If it doesn't log that soon.
    pub fn hang_up(&self, config: &str, until: &str) -> Result<String> {
        fs::write(self.config(), config)?;
        let before = self.log().len();
        self.process.signal(Signal::SIGHUP);
        wait::until("a word about SIGHUP", STOP, || {
            let log = self.log();
            let new = log.get(before..).unwrap_or_default();
            Ok(new.contains(until).then(|| new.to_owned()))
        })
    }

    /// The configuration file of an agent that was [started](Self::start) with
    /// one.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join(CONFIG)
    }

    /// Runs `xlb run` with these arguments and waits until it is ready. All that
    /// it leaves for others is in `directory`.
    ///
    /// # Errors
    /// If it doesn't get ready soon.
    pub fn run(namespace: &Namespace, arguments: &[&str], directory: &Path) -> Result<Self> {
        Self::run_by(&[], namespace, arguments, directory)
    }

    fn run_by(
        starter: &[&str],
        namespace: &Namespace,
        arguments: &[&str],
        directory: &Path,
    ) -> Result<Self> {
        let mut command = command_by(starter, namespace, directory, "run")?;
        command.args(arguments);
        let mut process = Process::spawn(&mut command, &directory.join("xlb.log"))?;
        process.wait_for_line("ready", START)?;
        Ok(Self {
            process,
            namespace: namespace.clone(),
            directory: directory.to_owned(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// The status, as read by `xlb status --json`.
    ///
    /// # Errors
    /// If it fails, or the JSON isn't as expected.
    pub fn status(&self) -> Result<Status> {
        let json = run(self.command("status")?.arg("--json"))?;
        serde_json::from_str(&json).with_context(|| format!("`xlb status --json` says: {json}"))
    }

    /// The status, as `xlb status` prints it.
    ///
    /// # Errors
    /// If it fails.
    pub fn status_text(&self) -> Result<String> {
        run(&mut self.command("status")?)
    }

    /// Waits until a target's health is this.
    ///
    /// # Errors
    /// If it doesn't within `timeout`.
    pub fn wait_for_health(
        &self,
        target: SocketAddr,
        health: &str,
        timeout: Duration,
    ) -> Result<()> {
        wait::until(&format!("{target} to be {health}"), timeout, || {
            let status = self.status()?;
            Ok(status
                .targets()
                .any(|(_, t)| t.is(target) && t.health == health)
                .then_some(()))
        })
        .with_context(|| format!("its log: {}", self.log().trim()))
    }

    /// Waits until all targets are healthy.
    ///
    /// # Errors
    /// If they aren't within `timeout`.
    pub fn wait_until_healthy(&self, timeout: Duration) -> Result<()> {
        wait::until("all targets to be healthy", timeout, || {
            let status = self.status()?;
            Ok(status
                .targets()
                .all(|(_, t)| t.health == "healthy")
                .then_some(()))
        })
        .with_context(|| format!("its log: {}", self.log().trim()))
    }

    /// Ends it as a service manager does: SIGTERM, exit code 0. Traffic goes on.
    ///
    /// # Errors
    /// If it doesn't end so.
    pub fn stop(mut self) -> Result<()> {
        self.process.terminate(STOP)
    }

    /// Takes everything out of the kernel: `xlb unload`, after which the agent
    /// has ended with exit code 0.
    ///
    /// # Errors
    /// If it hasn't.
    pub fn unload(mut self) -> Result<()> {
        run(&mut self.command("unload")?)?;
        let status = self.process.wait(STOP)?;
        ensure!(status.success(), "{status}: {}", self.log().trim());
        Ok(())
    }

    /// The folder of its socket and its state.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        run_dir(&self.directory).join("default")
    }

    /// The folder of its pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        directory::bpffs(&self.directory).join("xlb/default")
    }

    /// Ends it by another signal than SIGTERM, with exit code 0 too.
    ///
    /// # Errors
    /// If it doesn't end so.
    pub fn stop_by(mut self, signal: Signal) -> Result<()> {
        self.process.end_by(signal, STOP)
    }

    /// Runs a command that asks the agent, as `["flows", "--count"]`, whatever
    /// its exit code says.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn ask(&self, words: &[&str]) -> Result<Output> {
        let (subcommand, arguments) = words.split_first().context("no command given")?;
        output(self.command(subcommand)?.args(arguments))
    }

    /// What such a command prints.
    ///
    /// # Errors
    /// If it fails.
    pub fn answer(&self, words: &[&str]) -> Result<String> {
        let output = self.ask(words)?;
        ensure!(
            output.status.success(),
            "`xlb {}` ended with {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What tells a command which agent is meant.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        environment(&self.directory)
    }

    /// A command that asks the agent, to be run by the caller.
    ///
    /// # Errors
    /// If there is no binary.
    pub fn command(&self, subcommand: &str) -> Result<Command> {
        self::command(&self.namespace, &self.directory, subcommand)
    }
}

/// What `xlb status --json` prints, as far as tests read it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub interfaces: Vec<InterfaceStatus>,
    pub listeners: Vec<ListenerStatus>,
    pub target_groups: Vec<GroupStatus>,
    pub drops: BTreeMap<String, u64>,
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    /// `native` or `generic`.
    pub xdp: String,
    /// `tcx` or `clsact`.
    pub tc: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ListenerStatus {
    pub name: String,
    #[serde(flatten)]
    pub traffic: Traffic,
}

#[derive(Clone, Debug, Deserialize)]
pub struct GroupStatus {
    pub name: String,
    pub fail_open: bool,
    pub targets: Vec<TargetStatus>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TargetStatus {
    pub address: String,
    pub health: String,
    pub reason: Option<String>,
    pub weight: u16,
    pub configured_weight: Option<u16>,
    pub drained: bool,
    /// Of the group's new flows, from 0 to 1.
    pub share: f64,
    /// Seconds until a draining target's flows end.
    pub remaining: Option<f64>,
    pub checks: Checks,
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// A target's health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Checks {
    pub successes: u64,
    pub failures: u64,
    /// Seconds.
    pub latency: Option<f64>,
}

/// Counters of a listener or a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Traffic {
    pub forward_packets: u64,
    pub forward_bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
    pub new_flows: u64,
}

impl TargetStatus {
    fn is(&self, target: SocketAddr) -> bool {
        self.address == target.to_string() || self.address == format!(":{}", target.port())
    }
}

impl Status {
    /// All targets, with their group's name.
    pub fn targets(&self) -> impl Iterator<Item = (&str, &TargetStatus)> {
        self.target_groups.iter().flat_map(|group| {
            group
                .targets
                .iter()
                .map(|target| (group.name.as_str(), target))
        })
    }

    /// A target's counters.
    ///
    /// # Errors
    /// If there is no such target.
    pub fn target(&self, target: SocketAddr) -> Result<&TargetStatus> {
        let mut found = self.targets().filter(|(_, status)| status.is(target));
        let (_, status) = found
            .next()
            .with_context(|| format!("status has no target {target}"))?;
        ensure!(
            found.next().is_none(),
            "status has several targets {target}"
        );
        Ok(status)
    }
}
