//! `cargo xtask`: xlb's developer commands.
//!
//! It must build on a machine that has nothing but rustup's stable cargo, so
//! it depends on nothing that needs the BPF object.

mod build;
mod command;
mod demo;
mod lint;
mod setup;
mod test;
mod toolchain;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

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
    },
    /// Build the agent, with the kernel programs in it, for release
    Build,
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
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Check formatting and lints, warnings being errors
    Lint,
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
        Task::Setup { check: true } => setup::check(&workspace),
        Task::Setup { check: false } => setup::run(&workspace),
        Task::Build => build::release(&workspace).map(|path| println!("{}", path.display())),
        Task::Run { arguments } => build::run(&workspace, &arguments),
        Task::Demo => {
            setup::run(&workspace)?;
            build::release(&workspace)?;
            demo::run()
        }
        Task::Test { tier, filter } => test::run(&workspace, tier, filter.as_deref()),
        Task::Lint => lint::run(&workspace),
    }
}

fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}
