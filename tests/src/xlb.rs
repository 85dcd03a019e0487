//! The agent under test, by its command line only.

mod config;
mod status;

use std::{
    env,
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    command::{output, run},
    directory,
    netns::Namespace,
    process::Process,
    wait,
};

pub use config::{Config, Listener, TargetGroup};
pub use status::{
    Checks, GroupStatus, InterfaceStatus, ListenerStatus, Status, TargetStatus, Traffic,
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
