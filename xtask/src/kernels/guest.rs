//! One emulated machine, from its start to its end.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::test::{Count, parse_result};

/// The verifier takes several seconds a load in emulation, and every test
/// loads the programs; a minute is what each test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// A kernel that doesn't boot says nothing, and nothing takes this long
/// without a word: libtest says every minute what it waits for.
const SILENCE: Duration = Duration::from_secs(10 * 60);
/// A panic ends the machine (`panic=-1` restarts it, `-no-reboot` forbids that).
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet";
/// What init says last.
const LAST_WORD: &str = "guest: exit ";

/// Runs the tests in `archive` under `kernel`, their output going through.
///
/// # Errors
/// If the machine ends before the tests do, or takes too long.
pub fn run(emulator: &Path, kernel: &Path, archive: &Path) -> Result<Count> {
    let mut command = machine(emulator, kernel, archive);
    let mut child = command.spawn().context("can't start qemu")?;
    let result = follow(&mut child);
    // It's over, or has to be.
    let _ = child.kill();
    child.wait().context("can't wait for qemu")?;
    result
}

fn machine(emulator: &Path, kernel: &Path, archive: &Path) -> Command {
    let usr = emulator.join("usr");
    let mut command = Command::new(usr.join("bin/qemu-system-x86_64"));
    let libraries = [
        usr.join("lib/x86_64-linux-gnu"),
        emulator.join("lib/x86_64-linux-gnu"),
    ];
    let libraries: Vec<OsString> = libraries.map(Into::into).into();
    command.env("LD_LIBRARY_PATH", libraries.join(&OsString::from(":")));
    for firmware in ["share/qemu", "share/seabios"] {
        command.arg("-L").arg(usr.join(firmware));
    }
    command.args(["-machine", "pc", "-accel", "tcg,thread=multi"]);
    command.args(["-cpu", "max", "-m", "2048", "-smp", "2"]);
    command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    command.args(["-serial", "stdio", "-append", COMMAND_LINE]);
    command.arg("-kernel").arg(kernel);
    command.arg("-initrd").arg(archive);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Lets the machine's output through until it ends.
fn follow(child: &mut Child) -> Result<Count> {
    let output = child.stdout.take().context("qemu has no output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line);
            if sender.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    let mut count = Count::default();
    loop {
        let left = LIMIT.saturating_sub(start.elapsed());
        match lines.recv_timeout(left.min(SILENCE)) {
            Ok(line) => {
                println!("{line}");
                count += parse_result(&line).unwrap_or_default();
                if let Some(code) = line.strip_prefix(LAST_WORD) {
                    return ended(count, code);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the machine has ended before its tests")
            }
            Err(RecvTimeoutError::Timeout) => bail!(
                "no end after {} s, the last of them perhaps silent",
                start.elapsed().as_secs()
            ),
        }
    }
}

/// A test file that failed as a whole, or that never ran, is a failure too.
fn ended(count: Count, code: &str) -> Result<Count> {
    match code {
        "0" if count.passed == 0 => bail!("no test has run"),
        "0" => Ok(count),
        _ if count.failed > 0 => Ok(count),
        _ => bail!("a test file has ended with {code}"),
    }
}
