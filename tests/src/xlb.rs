//! The agent under test, by its command line only.

use std::{
    collections::BTreeMap,
    env, fmt,
    fmt::Write as _,
    fs,
    net::SocketAddrV4,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::{command::run, netns::Namespace, process::Process, wait};

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

/// A configuration file.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub interfaces: Vec<String>,
    /// `native` or `generic`; the default if `None`, so the others.
    pub xdp_mode: Option<&'static str>,
    /// `tcx` or `clsact`.
    pub tc_mode: Option<&'static str>,
    pub listeners: Vec<Listener>,
    pub target_groups: Vec<TargetGroup>,
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub name: String,
    pub address: SocketAddrV4,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    pub target_group: String,
}

#[derive(Clone, Debug)]
pub struct TargetGroup {
    pub name: String,
    /// Addresses and weights.
    pub targets: Vec<(SocketAddrV4, u16)>,
    pub preserve_client_ip: bool,
    /// The port to check, if not the one that gets the traffic. The checks are
    /// fast: every second, thresholds of 2.
    pub health_port: Option<u16>,
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
            protocol,
            target_group,
        } = self;
        write!(
            f,
            "[[listener]]\nname = {name:?}\naddress = \"{address}\"\nprotocol = {protocol:?}\n\
             target_group = {target_group:?}"
        )
    }
}

impl fmt::Display for TargetGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut targets = String::new();
        for (address, weight) in &self.targets {
            write!(
                targets,
                "\n  {{ address = \"{address}\", weight = {weight} }},"
            )?;
        }
        let Self {
            name,
            preserve_client_ip,
            ..
        } = self;
        write!(
            f,
            "[[target_group]]\nname = {name:?}\ntargets = [{targets}\n]\n"
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

/// A running agent.
#[derive(Debug)]
pub struct Xlb {
    process: Process,
    namespace: Namespace,
    pub socket: PathBuf,
}

impl Xlb {
    /// Runs `xlb run --config …` and waits until it is ready.
    ///
    /// # Errors
    /// If it doesn't get ready soon.
    pub fn start(namespace: &Namespace, config: &Config, directory: &Path) -> Result<Self> {
        let file = directory.join("xlb.toml");
        fs::write(&file, config.to_string())?;
        Self::run(namespace, &["--config", &file.to_string_lossy()], directory)
    }

    /// Runs `xlb run` with these arguments and waits until it is ready. Its
    /// socket and its log are in `directory`.
    ///
    /// # Errors
    /// If it doesn't get ready soon.
    pub fn run(namespace: &Namespace, arguments: &[&str], directory: &Path) -> Result<Self> {
        let socket = directory.join("xlb.sock");
        let mut command = namespace.command(binary()?);
        command
            .arg("run")
            .args(arguments)
            .arg("--socket")
            .arg(&socket);
        let mut process = Process::spawn(&mut command, &directory.join("xlb.log"))?;
        process.wait_for_line("ready", START)?;
        Ok(Self {
            process,
            namespace: namespace.clone(),
            socket,
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
        let json = run(self.status_command()?.arg("--json"))?;
        serde_json::from_str(&json).with_context(|| format!("`xlb status --json` says: {json}"))
    }

    /// The status, as `xlb status` prints it.
    ///
    /// # Errors
    /// If it fails.
    pub fn status_text(&self) -> Result<String> {
        run(&mut self.status_command()?)
    }

    /// Waits until a target's health is this.
    ///
    /// # Errors
    /// If it doesn't within `timeout`.
    pub fn wait_for_health(
        &self,
        target: SocketAddrV4,
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

    /// Ends it as an operator does: SIGTERM, exit code 0.
    ///
    /// # Errors
    /// If it doesn't end so.
    pub fn stop(mut self) -> Result<()> {
        self.process.terminate(STOP)
    }

    /// Ends it by another signal than SIGTERM, with exit code 0 too.
    ///
    /// # Errors
    /// If it doesn't end so.
    pub fn stop_by(mut self, signal: Signal) -> Result<()> {
        self.process.end_by(signal, STOP)
    }

    fn status_command(&self) -> Result<Command> {
        let mut command = self.namespace.command(binary()?);
        command.arg("status").arg("--socket").arg(&self.socket);
        Ok(command)
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
    pub targets: Vec<TargetStatus>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TargetStatus {
    pub address: String,
    pub health: String,
    #[serde(flatten)]
    pub traffic: Traffic,
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
    fn is(&self, target: SocketAddrV4) -> bool {
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
    pub fn target(&self, target: SocketAddrV4) -> Result<&TargetStatus> {
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
