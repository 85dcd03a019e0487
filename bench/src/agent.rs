//! The agent: how fast it acts on a change, what its checks cost, how much
//! memory it and its maps take.
//!
//! What is pure or a library's call is measured by calling it; the rest is
//! measured on the real process, in a namespace with servers of the
//! benchmark's own, whose time doesn't count.

mod apply;
mod checks;
mod config;
mod document;
mod failover;
mod load;
mod maglev;
mod memory;
mod process;
mod server;

use std::{path::PathBuf, thread};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tempfile::TempDir;
use xlb_tests::{
    interrupt,
    netns::{self, Namespace},
};

use crate::{
    dataplane::world,
    report::{self, Row},
};

#[derive(Args)]
pub struct Options {
    /// Only parts whose name contains this: maglev, apply, load, checks,
    /// failover, memory
    #[arg(long)]
    only: Option<String>,
    /// How often each is measured
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Seconds for which checks are measured
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Write the figures to docs/benchmarks.md in this folder, with diagrams
    #[arg(long, value_name = "FOLDER")]
    record: Option<PathBuf>,
    /// Write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Where agents run: the calling thread is in its namespace.
struct Rig {
    namespace: Namespace,
    /// Index of the interface that agents are attached to.
    interface: u32,
    /// For configurations, logs and sockets.
    directory: TempDir,
    rounds: u32,
    seconds: u32,
}

type Part = fn(&Rig) -> Result<Vec<Row>>;

const PARTS: [(&str, Part); 6] = [
    ("maglev", maglev::measure),
    ("apply", apply::measure),
    ("load", load::measure),
    ("checks", checks::measure),
    ("failover", failover::measure),
    ("memory", memory::measure),
];

pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    ensure!(options.seconds > 0, "--seconds must be at least 1");
    ensure!(
        options.record.is_none() || options.only.is_none(),
        "--record is for all parts: leave --only out"
    );
    interrupt::install()?;
    netns::sweep()?;
    process::raise_file_limit()?;
    // In a thread of its own, for it moves into a namespace, and whose main
    // thread is in one goes with it.
    let measure = || thread::scope(|scope| scope.spawn(|| measure(options)).join());
    let rows = measure().map_err(|_| anyhow::anyhow!("the benchmark panicked"))??;
    for table in document::tables(&rows) {
        println!("{}\n\n{}", table.title, report::table(&table.rows));
    }
    if let Some(path) = &options.json {
        report::write(path, &rows)?;
    }
    if let Some(folder) = &options.record {
        document::record(folder, options, &rows)?;
    }
    Ok(())
}

fn measure(options: &Options) -> Result<Vec<Row>> {
    let (namespace, interface) = world::enter()?;
    let directory = tempfile::Builder::new()
        .prefix(&netns::prefix())
        .tempdir()
        .context("no folder for temporary files can be made")?;
    let rig = Rig {
        namespace,
        interface,
        directory,
        rounds: options.rounds,
        seconds: options.seconds,
    };
    let is_meant = |name: &str| {
        let only = options.only.as_deref();
        only.is_none_or(|only| name.contains(only))
    };
    let parts: Vec<_> = PARTS.iter().filter(|(name, _)| is_meant(name)).collect();
    ensure!(!parts.is_empty(), "no part has such a name");
    let mut rows = Vec::new();
    for (name, part) in parts {
        eprintln!("{name}");
        rows.extend(part(&rig).with_context(|| format!("part {name}"))?);
    }
    Ok(rows)
}
