//! `xlb top` in a pseudo-terminal, and `xlb status --watch`.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::termios::{LocalFlags, tcgetattr},
};
use xlb_tests::{wait, xlb::binary};

use super::scenario::{Mode, Scenario, Setup};

const SOON: Duration = Duration::from_secs(10);
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// A command that has a terminal of its own.
struct Screen {
    process: Child,
    keyboard: File,
    terminal: OpenptyResult,
    shown: Arc<Mutex<String>>,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Screen {
    fn top(scenario: &Scenario, colours: bool) -> Result<Self> {
        let terminal = openpty(&size(80, 24), None)?;
        // The terminal is to be its controlling one, so that it learns of a new
        // size.
        let mut command: Command = scenario.topology.balancer.command("setsid");
        command.args(["--ctty", "--wait"]).arg(binary()?);
        command.arg("top").envs(scenario.xlb.environment());
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        if !colours {
            command.env("NO_COLOR", "1");
        }
        let slave = || -> Result<Stdio> { Ok(terminal.slave.try_clone()?.into()) };
        let process = command
            .stdin(slave()?)
            .stdout(slave()?)
            .stderr(slave()?)
            .spawn()?;
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut master, out) = (File::from(terminal.master.try_clone()?), shown.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(length @ 1..) = master.read(&mut bytes) {
                if let Ok(mut out) = out.lock() {
                    out.push_str(&String::from_utf8_lossy(&bytes[..length]));
                }
            }
        });
        Ok(Self {
            process,
            keyboard: File::from(terminal.master.try_clone()?),
            terminal,
            shown,
        })
    }

    fn shown(&self) -> String {
        self.shown.lock().map(|it| it.clone()).unwrap_or_default()
    }

    /// Waits until it has shown this behind the first `from` bytes.
    fn wait_for(&self, what: &str, from: usize) -> Result<()> {
        let seen = wait::until(what, SOON, || {
            let shown = self.shown();
            Ok(shown
                .get(from..)
                .unwrap_or_default()
                .contains(what)
                .then_some(()))
        });
        seen.with_context(|| format!("shown: {:?}", self.shown()))
    }

    /// Whether keys are echoed and lines are edited, as in a shell.
    fn is_ordinary(&self) -> Result<bool> {
        let flags = tcgetattr(&self.terminal.slave)?.local_flags;
        Ok(flags.contains(LocalFlags::ECHO | LocalFlags::ICANON))
    }

    fn end_by(&mut self, keys: &[u8]) -> Result<()> {
        self.keyboard.write_all(keys)?;
        let status = wait::until("its end", SOON, || Ok(self.process.try_wait()?))?;
        ensure!(
            status.success(),
            "it ended with {status}: {:?}",
            self.shown()
        );
        self.wait_for(LEAVE, 0)?;
        ensure!(self.is_ordinary()?, "the terminal isn't as it was");
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It has ended, unless a test has failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn top_shows_targets_follows_the_terminal_and_leaves_it_as_it_was() -> Result<()> {
    let scenario = Setup::new(Mode::Local, 2).start()?;
    let target = scenario.servers[0].place.address.to_string();
    let mut top = Screen::top(&scenario, true)?;
    top.wait_for(ENTER, 0)?;
    top.wait_for(&target, 0)?;
    top.wait_for("healthy", 0)?;
    ensure!(!top.is_ordinary()?, "keys are echoed");
    scenario.spread(20)?;
    top.wait_for("▇", 0).or_else(|_| top.wait_for("█", 0))?;
    ensure!(top.shown().contains("38;5;"), "no colours");

    let before = top.shown().len();
    let larger = size(120, 40);
    // SAFETY: the request reads a winsize, which is alive.
    let resized = unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&top.terminal.master),
            libc::TIOCSWINSZ,
            &raw const larger,
        )
    };
    ensure!(resized == 0, "no other size");
    // All of it is drawn anew.
    top.wait_for(&target, before)?;
    top.keyboard.write_all(b"\tj\x1b[Bs")?;
    top.end_by(b"q")
}

#[test]
fn top_without_colours_ends_by_ctrl_c() -> Result<()> {
    let scenario = Setup::new(Mode::Local, 1).start()?;
    let mut top = Screen::top(&scenario, false)?;
    top.wait_for("healthy", 0)?;
    top.end_by(b"\x03")?;
    ensure!(!top.shown().contains("38;5;"), "colours: {:?}", top.shown());
    Ok(())
}

#[test]
fn top_needs_a_terminal_and_an_agent() -> Result<()> {
    let scenario = Setup::new(Mode::Local, 1).start()?;
    let output = scenario.xlb.ask(&["top"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2) && said.contains("needs a terminal"),
        "{said}"
    );
    Ok(())
}

#[test]
fn status_is_shown_again_and_again() -> Result<()> {
    let scenario = Setup::new(Mode::Local, 1).start()?;
    let watched = |words: &[&str], lines: usize| -> Result<Vec<String>> {
        let mut command = scenario.xlb.command("status")?;
        let mut watch = command.args(words).stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(watch.stdout.take().context("no output")?);
        let lines = out.lines().take(lines).collect::<Result<Vec<_>, _>>()?;
        // Its reader is gone, so the next look is its last.
        let status = wait::until("its end", SOON, || Ok(watch.try_wait()?))?;
        ensure!(status.success(), "it ended with {status}");
        Ok(lines)
    };
    for line in watched(&["--watch", "0.2", "--json"], 3)? {
        let status: serde_json::Value = serde_json::from_str(&line)?;
        ensure!(status["listeners"][0]["name"] == "web", "{line}");
    }
    let text = watched(&["--watch", "0.2"], 25)?.join("\n");
    ensure!(text.contains("BYTES IN") && text.contains("IN/S"), "{text}");
    ensure!(
        !text.contains('\x1b'),
        "drawn over where nothing can be: {text}"
    );
    Ok(())
}
