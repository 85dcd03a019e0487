//! `cargo xtask`: xlb's developer commands.
//!
//! It must build on a machine that has nothing but rustup's stable cargo, so
//! it depends on nothing that needs the BPF object.

mod bench;
mod build;
mod command;
mod demo;
mod fuzz;
mod kernels;
mod lint;
mod package;
mod setup;
mod test;

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use setup::Purpose;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "xlb's developer commands"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing xlb needs
    Setup {
        /// Only report; exit with 1 if something is missing
        #[arg(long)]
        check: bool,
        /// Also the balancers that `bench network` compares with
        #[arg(long)]
        bench: bool,
    },
    /// Build the agent, with the kernel programs in it, for release
    Build {
        /// Show what the programs cost the kernel's verifier; needs root
        #[arg(long)]
        stats: bool,
    },
    /// Build xlb and run it: cargo xtask run -- ARGS
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Show the main job in network namespaces on this machine
    Demo,
    /// Run the tests, after set-up
    Test {
        /// Only this tier
        #[arg(long)]
        tier: Option<test::Tier>,
        /// The packet tests on this kernel and, emulated, on others that xlb supports
        #[arg(long, conflicts_with = "tier")]
        kernels: bool,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Run the kernel programs against a model of them, on made-up packets
    Fuzz {
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Of an earlier run; without it another one each time
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Measure: cargo xtask bench dataplane or network, or --compare with another commit
    Bench {
        /// Measure the data path of this commit and of the present tree in turns
        #[arg(long, value_name = "BASE")]
        compare: Option<String>,
        /// The benchmark and its options; --help lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Check formatting and lints, warnings being errors
    Lint,
    /// Make a Debian package and a static tarball in target/package
    Package {
        /// Install the package in a Debian of its own, and run it there; needs root
        #[arg(long)]
        test: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        // Not by returning it: that would add a backtrace to a plain sentence.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = workspace();
    match task {
        Task::Setup { check, bench } => {
            let purpose = match bench {
                true => Purpose::Balancers,
                false => Purpose::Tests,
            };
            match check {
                true => setup::check(&workspace, purpose),
                false => setup::run(&workspace, purpose),
            }
        }
        Task::Build { stats } => {
            println!("{}", build::release(&workspace)?.display());
            if stats {
                build::stats(&workspace)?;
            }
            Ok(())
        }
        Task::Run { arguments } => build::run(&workspace, &arguments),
        Task::Demo => {
            setup::run(&workspace, Purpose::Tests)?;
            build::release(&workspace)?;
            demo::run()
        }
        Task::Test {
            kernels: true,
            filter,
            ..
        } => test::kernels(&workspace, filter.as_deref()),
        Task::Test { tier, filter, .. } => test::run(&workspace, tier, filter.as_deref()),
        Task::Fuzz { minutes, seed } => fuzz::run(&workspace, minutes, seed),
        Task::Bench {
            compare: Some(base),
            arguments,
        } => bench::compare(&workspace, &base, &arguments),
        Task::Bench { arguments, .. } => bench::run(&workspace, &arguments),
        Task::Lint => lint::run(&workspace),
        Task::Package { test } => package::run(&workspace, test),
    }
}

/// The one that cargo runs this in. A tree that was copied with its build
/// directory may have a binary that was built in another.
fn workspace() -> PathBuf {
    let own = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    own.parent().unwrap_or(&own).to_owned()
}
