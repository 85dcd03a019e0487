//! Processes that run beside the test, and never longer than it.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, killpg},
    },
    unistd::Pid,
};

use crate::{command::describe, wait};

/// A running process in a process group of its own (a terminal's Ctrl-C
/// doesn't reach it). Dropping it kills the group. It also dies with the
/// *thread* that spawned it, so spawn it from the one that keeps it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    command: String,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a command; both its outputs go to the file `log`.
    ///
    /// # Errors
    /// If it can't be started, or the file not be made.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("{}", log.display()))?;
        let parent = std::process::id();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        // SAFETY: between fork and exec this only makes system calls.
        unsafe {
            command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before it was asked for.
                let orphan = std::os::unix::process::parent_id() != parent;
                if orphan {
                    Err(nix::errno::Errno::ESRCH.into())
                } else {
                    Ok(())
                }
            });
        }
        let command_line = describe(command);
        let child = command.spawn().with_context(|| {
            format!(
                "`{command_line}` can't be started; `cargo xtask setup` installs what is missing"
            )
        })?;
        Ok(Self {
            child,
            command: command_line,
            log: log.to_owned(),
            ended: None,
        })
    }

    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(&self.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Its exit status, if it has ended; then its children are killed too.
    ///
    /// # Errors
    /// If the kernel doesn't say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
            if self.ended.is_some() {
                self.signal_group(Signal::SIGKILL);
            }
        }
        Ok(self.ended)
    }

    /// Waits until a line that contains `text` is written, and gives it.
    ///
    /// # Errors
    /// If that takes longer than `timeout`, or the process ends before.
    pub fn wait_for_line(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let what = format!("`{}` to print “{text}”", self.command);
        // The inner result is the process's own failure, with its output.
        let found = wait::until(&what, timeout, || {
            let ended = self.ended()?;
            let output = self.output();
            if let Some(line) = output.lines().find(|line| line.contains(text)) {
                return Ok(Some(Ok(line.to_owned())));
            }
            Ok(ended.map(|status| {
                Err(anyhow!(
                    "`{}` ended ({status}): {}",
                    self.command,
                    output.trim()
                ))
            }))
        });
        found.with_context(|| format!("its output: {}", self.output().trim()))?
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If that takes longer than `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("`{}` to end", self.command);
        wait::until(&what, timeout, || self.ended())
    }

    /// Asks it to end (SIGTERM), and waits.
    ///
    /// # Errors
    /// As [`Process::end_by`].
    pub fn terminate(&mut self, timeout: Duration) -> Result<()> {
        self.end_by(Signal::SIGTERM, timeout)
    }

    /// Ends it by a signal that it handles, and waits.
    ///
    /// # Errors
    /// If it doesn't within `timeout`, or ends otherwise than with exit code 0.
    pub fn end_by(&mut self, signal: Signal, timeout: Duration) -> Result<()> {
        self.signal(signal);
        let status = self.wait(timeout)?;
        if status.success() {
            return Ok(());
        }
        let signal = status.signal().map(|signal| format!(" by signal {signal}"));
        bail!(
            "`{}` ended{} with {status}: {}",
            self.command,
            signal.unwrap_or_default(),
            self.output().trim()
        )
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            self.signal_group(signal);
        }
    }

    /// Kills it at once, with its children.
    pub fn kill(&mut self) {
        // Once it was waited for, its id may belong to others.
        if self.ended.is_none() {
            self.signal_group(Signal::SIGKILL);
            self.ended = self.child.wait().ok();
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // It fails if the group is gone, which is as well.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
