//! Two builds of the data-path benchmark, measured in turns: what else the
//! machine does falls on both, so their ratio means something.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// How often each case is measured.
const ROUNDS: usize = 15;

/// A tree of the commit, below the build directory. It is kept, and so is what
/// was built there.
///
/// # Errors
/// If there is no such commit.
pub fn check_out(workspace: &Path, commit: &str) -> Result<PathBuf> {
    let tree = workspace.join("target/compare");
    let git = |folder: &Path, words: &[&str]| {
        command::run(Command::new("git").current_dir(folder).args(words))
    };
    if tree.join("Cargo.toml").exists() {
        git(&tree, &["checkout", "--quiet", "--detach", commit])?;
    } else {
        git(workspace, &["worktree", "prune"])?;
        let path = tree.to_str().context("the workspace's path isn't UTF-8")?;
        git(
            workspace,
            &["worktree", "add", "--quiet", "--detach", path, commit],
        )?;
    }
    // What set-up has installed here serves there too.
    let (here, there) = (workspace.join(".xlb"), tree.join(".xlb"));
    if fs::symlink_metadata(&there).is_err() {
        symlink(&here, &there).with_context(|| format!("can't create {}", there.display()))?;
    }
    Ok(tree)
}

/// Measures every case that both know, and shows how the second compares with
/// the first.
///
/// # Errors
/// If a benchmark can't be started or fails.
pub fn run(binaries: [&Path; 2], arguments: &[OsString]) -> Result<()> {
    let [mut base, mut head] = [
        Served::start(binaries[0], arguments)?,
        Served::start(binaries[1], arguments)?,
    ];
    let cases: Vec<String> = head.cases.clone();
    let known = |name: &&String| base.cases.contains(name);
    let cases: Vec<&String> = cases.iter().filter(known).collect();
    let mut times = vec![(Vec::new(), Vec::new()); cases.len()];
    for round in 0..ROUNDS {
        for (name, times) in cases.iter().zip(&mut times) {
            // Neither is always the first.
            if round % 2 == 0 {
                times.0.push(base.measure(name)?);
                times.1.push(head.measure(name)?);
            } else {
                times.1.push(head.measure(name)?);
                times.0.push(base.measure(name)?);
            }
        }
        eprintln!("round {} of {ROUNDS}", round + 1);
    }
    println!("| case | before, min ns | after, min ns | ratio of minima | median of ratios |");
    println!("|---|---:|---:|---:|---:|");
    for (name, (base, head)) in cases.iter().zip(&times) {
        let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
        let mut ratios: Vec<f64> = head
            .iter()
            .zip(base)
            .map(|(head, base)| head / base)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let (before, after) = (least(base), least(head));
        println!(
            "| {name} | {before:.1} | {after:.1} | {:.3} | {:.3} |",
            after / before,
            ratios[ROUNDS / 2]
        );
    }
    Ok(())
}

/// A benchmark that measures when it is told to. It ends with its input.
struct Served {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    cases: Vec<String>,
}

impl Served {
    fn start(binary: &Path, arguments: &[OsString]) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["dataplane", "--serve"]).args(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't start {}", binary.display()))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("a pipe was asked for")?;
        let mut served = Self {
            child,
            input,
            output: BufReader::new(output),
            cases: Vec::new(),
        };
        served.cases = serde_json::from_str(&served.line()?)?;
        Ok(served)
    }

    /// Nanoseconds a packet.
    fn measure(&mut self, case: &str) -> Result<f64> {
        let input = self.input.as_mut().context("it is still served")?;
        writeln!(input, "{case}")?;
        input.flush()?;
        let line = self.line()?;
        line.parse().with_context(|| format!("no time: {line}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("a benchmark has ended, see above");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.input.take());
        // It takes its namespace back, and says itself if it can't.
        let _ = self.child.wait();
    }
}
