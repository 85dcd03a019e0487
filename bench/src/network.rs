//! Balancers end to end, over veth: packets a second, new connections, CPU
//! time, throughput.
//!
//! In each round every case is measured once, in turn, in namespaces that are
//! made for that. What counts is the ratio of two cases in the same round, and
//! of the rounds the median.

mod bulk;
mod connections;
mod conntrack;
mod cpu;
mod live;
mod measurement;
mod packets;
mod rig;
mod rows;

use std::{path::PathBuf, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use xlb_tests::interrupt;

use crate::{
    docs::{self, Section, Table},
    report,
};
use conntrack::Conntrack;
use measurement::Measurement;
use rows::Samples;

#[derive(Args)]
pub struct Options {
    /// How often each case is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only what has this in its name: packets, connections, latency, cost, bulk
    #[arg(long)]
    only: Option<String>,
    /// Write the figures to docs/benchmarks.md in this folder, with diagrams
    #[arg(long, value_name = "FOLDER", conflicts_with = "only")]
    record: Option<PathBuf>,
    /// Write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const ABOUT: &str = "A client, a target and between them a host with one balancer, in network \
    namespaces connected by veth. All of it shares this machine's CPUs, so the figures are good \
    for comparing with each other only. Balancers have one target and the configurations of \
    `tests/balancers`. Cases are measured in turns, each in namespaces that are made anew; a \
    ratio is the median of each round's, with the least and the largest in brackets. On every \
    veth checksums are computed by the sender (`tx off`), which rules out segmentation offload, \
    and `gro` is on. “best other” is the best of nftables, HAProxy and nginx in that round.";
const AGAIN: &str = "`cargo xtask bench network --record docs` repeats it, as root; `--only NAME` \
    a part of it, and `--json FILE` gives the rows to programs.";

pub fn run(options: &Options) -> Result<()> {
    interrupt::install()?;
    let all = measurement::ALL.iter();
    let chosen = |it: &&Measurement| {
        let only = options.only.as_deref();
        only.is_none_or(|part| it.name.contains(part))
    };
    let chosen: Vec<_> = all.filter(chosen).collect();
    ensure!(
        !chosen.is_empty(),
        "nothing that is measured has such a name"
    );
    let _conntrack = Conntrack::raise()?;
    let samples = measure(&chosen, options.rounds)?;
    let tables = tables(&chosen, &samples);
    for table in &tables {
        println!("\n{}\n\n{}", table.title, report::table(&table.rows));
    }
    if let Some(path) = &options.json {
        let rows: Vec<_> = tables.iter().flat_map(|table| &table.rows).collect();
        report::write(path, &rows)?;
    }
    if let Some(folder) = &options.record {
        let how = format!("{} rounds", options.rounds);
        let section = Section::new("Network", ABOUT, &how, AGAIN, tables)?;
        docs::record(folder, "network", &section)?;
    }
    Ok(())
}

/// Of each measurement, of each of its cases, each round's values.
fn measure(chosen: &[&Measurement], rounds: u32) -> Result<Vec<Samples>> {
    let none = |it: &&Measurement| vec![Vec::new(); it.cases.len()];
    let mut samples: Vec<Samples> = chosen.iter().map(none).collect();
    for round in 1..=rounds {
        for (measurement, samples) in chosen.iter().zip(&mut samples) {
            for (case, samples) in measurement.cases.iter().zip(samples) {
                interrupt::check()?;
                // A thread of its own, for what it does to itself ends with it.
                let run = thread::scope(|scope| scope.spawn(|| (measurement.run)(*case)).join());
                let values = run.map_err(|_| anyhow!("the benchmark panicked"))?;
                let what = || format!("{} of {}", measurement.name, case.name());
                samples.push(values.with_context(what)?);
            }
        }
        eprintln!("round {round} of {rounds}");
    }
    Ok(samples)
}

fn tables(chosen: &[&Measurement], samples: &[Samples]) -> Vec<Table> {
    let mut tables = Vec::new();
    for (measurement, samples) in chosen.iter().zip(samples) {
        for (index, quantity) in measurement.quantities.iter().enumerate() {
            tables.push(Table {
                title: quantity.title.into(),
                about: quantity.about.into(),
                shows: docs::Shows::Medians,
                rows: rows::of(measurement.cases, quantity, index, samples),
            });
        }
    }
    tables
}
