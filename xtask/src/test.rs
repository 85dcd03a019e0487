//! `cargo xtask test`: the tiers one after the other, and one sum of all.

use std::{
    io::{BufRead as _, BufReader},
    ops::AddAssign,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{build, command, kernels, setup};

/// What a test needs to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tier {
    /// Nothing but a compiler
    Unit,
    /// Root: the kernel runs the programs on single packets
    Packet,
    /// Root: servers and clients in network namespaces
    Network,
}

impl Tier {
    const ALL: [Self; 3] = [Self::Unit, Self::Packet, Self::Network];

    const fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Packet => "packet",
            Self::Network => "network",
        }
    }

    const fn needs_root(self) -> bool {
        !matches!(self, Self::Unit)
    }
}

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u32,
    pub failed: u32,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Sets the machine up and runs `tier`, or all of them.
///
/// # Errors
/// If set-up fails, a tier can't run or a test fails.
pub fn run(workspace: &Path, tier: Option<Tier>, filter: Option<&str>) -> Result<()> {
    setup::run(workspace, setup::Purpose::Tests)?;
    let mut sum = Count::default();
    for tier in Tier::ALL
        .into_iter()
        .filter(|each| tier.is_none_or(|wanted| wanted == *each))
    {
        sum += part(tier.name(), || run_tier(workspace, tier, filter));
    }
    conclude(sum)
}

/// Sets the machine up and runs the packet tests on the running kernel, then
/// on others in emulation.
///
/// # Errors
/// If set-up fails, a kernel can't run or a test fails.
pub fn kernels(workspace: &Path, filter: Option<&str>) -> Result<()> {
    setup::run(workspace, setup::Purpose::Tests)?;
    let rig = kernels::Rig::prepare(workspace)?;
    let mut sum = part(Tier::Packet.name(), || {
        run_tier(workspace, Tier::Packet, filter)
    });
    for kernel in &kernels::KERNELS {
        let name = format!("Linux {}", kernel.name);
        sum += part(&name, || rig.run(kernel, filter));
    }
    conclude(sum)
}

/// Runs some of the tests, and says so before and how they went after.
fn part(name: &str, tests: impl FnOnce() -> Result<Count>) -> Count {
    println!("\n=== {name} tests");
    let start = Instant::now();
    let count = tests().unwrap_or_else(|error| {
        eprintln!("{name} tests: {error:#}");
        // Tests that couldn't run are a failure, without a number of their own.
        Count {
            passed: 0,
            failed: 1,
        }
    });
    let Count { passed, failed } = count;
    let seconds = start.elapsed().as_secs();
    println!("=== {name}: {passed} passed, {failed} failed in {seconds} s");
    count
}

fn conclude(sum: Count) -> Result<()> {
    println!("\n{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed > 0 {
        bail!("not all tests passed");
    }
    Ok(())
}

fn run_tier(workspace: &Path, tier: Tier, filter: Option<&str>) -> Result<Count> {
    if tier.needs_root() && !command::is_root() {
        bail!("they need root: run them as root, or only the others with `--tier unit`");
    }
    let mut cargo = command::cargo(workspace);
    cargo.args(["test", "--no-fail-fast"]);
    if tier != Tier::Unit {
        cargo.args(["--package", "xlb-tests", "--test", tier.name()]);
    }
    match tier {
        Tier::Unit => {}
        // What the agent sees of a host, what the verifier says and the fuzz
        // test need root and a kernel, and no peers.
        Tier::Packet => {
            cargo.args(["--test", "host", "--test", "verifier", "--test", "fuzz"]);
            for (test, reason) in kernels::GUESTS_ONLY {
                println!("left out but with --kernels: {test}: {reason}");
            }
        }
        Tier::Network => {
            cargo.env("XLB_BIN", build::release(workspace)?);
        }
    }
    cargo.args(filter).arg("--");
    match tier {
        Tier::Unit => {}
        Tier::Packet => {
            for (test, _) in kernels::GUESTS_ONLY {
                cargo.args(["--skip", test]);
            }
        }
        // They measure times, so they must not compete for processors.
        Tier::Network => _ = cargo.arg("--test-threads=1"),
    }
    let mut count = stream(&mut cargo)?;
    if tier == Tier::Unit {
        count += stream(others(workspace).args(filter))?;
    }
    Ok(count)
}

/// The unit tests of the packages that a plain `cargo test` leaves out, whose
/// other tests need root.
fn others(workspace: &Path) -> Command {
    let mut cargo = command::cargo(workspace);
    cargo.args(["test", "--no-fail-fast", "--lib", "--bins"]);
    cargo.args(["--package", "xlb-bench", "--package", "xlb-tests"]);
    cargo
}

/// Runs `cargo test`, lets its output through and adds its results up.
fn stream(cargo: &mut Command) -> Result<Count> {
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("can't start cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut count = Count::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("can't read cargo's output")?;
        println!("{line}");
        count += parse_result(&line).unwrap_or_default();
    }
    let status = child.wait().context("can't wait for cargo")?;
    if !status.success() && count.failed == 0 {
        // A test that doesn't build, or that took its whole process down.
        eprintln!("{} failed: {status}", command::shown(cargo));
        count.failed = 1;
    }
    Ok(count)
}

/// The numbers in libtest's `test result: ok. 5 passed; 0 failed; …`.
pub fn parse_result(line: &str) -> Option<Count> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |name| {
        let field = numbers
            .split("; ")
            .find_map(|field| field.strip_suffix(name))?;
        field.trim().parse().ok()
    };
    Some(Count {
        passed: number(" passed")?,
        failed: number(" failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Count, parse_result};

    #[test]
    fn result_lines() {
        let rest = "0 ignored; 0 measured; 1 filtered out; finished in 0.01s";
        let ok = format!("test result: ok. 5 passed; 0 failed; {rest}");
        assert_eq!(
            parse_result(&ok),
            Some(Count {
                passed: 5,
                failed: 0
            })
        );
        let failed = format!("test result: FAILED. 12 passed; 3 failed; {rest}");
        assert_eq!(
            parse_result(&failed),
            Some(Count {
                passed: 12,
                failed: 3
            })
        );
        assert_eq!(parse_result("test select::weights ... ok"), None);
        assert_eq!(parse_result("test result: strange"), None);
    }
}
