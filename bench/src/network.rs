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
mod losses;
mod measurement;
mod packets;
mod rig;
mod rounds;
mod rows;

use std::{path::PathBuf, thread};

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use xlb_tests::interrupt;

use crate::{
    docs::{self, Section, Table},
    report,
};
use conntrack::Conntrack;
use measurement::Measurement;
use rig::Case;
use rounds::{Chosen, Rounds};
use rows::Samples;

#[derive(Args)]
pub struct Options {
    /// How often each case is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only what has this in its name: packets, connections, latency, cost, bulk
    #[arg(long)]
    only: Option<String>,
    /// Only cases that have this in their name: xlb, nftables, direct
    #[arg(long, value_name = "PART")]
    case: Option<String>,
    /// Write the figures to docs/benchmarks.md in this folder, with diagrams
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["only", "case"])]
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
    let chosen = choose(options)?;
    let rounds = {
        let _conntrack = Conntrack::raise()?;
        Rounds::run(&chosen, options.rounds, measure)
    };
    if rounds.complete > 0 {
        report(options, &chosen, &rounds)?;
    }
    rounds.failure.map_or(Ok(()), |failure| {
        Err(failure.context(format!("only {} rounds are complete", rounds.complete)))
    })
}

fn choose(options: &Options) -> Result<Vec<Chosen>> {
    let has = |name: &str, part: &Option<String>| {
        let part = part.as_deref();
        part.is_none_or(|part| name.contains(part))
    };
    let mut chosen = Vec::new();
    for measurement in measurement::ALL {
        let cases = measurement.cases.iter().copied();
        let cases: Vec<_> = cases.filter(|it| has(it.name(), &options.case)).collect();
        if has(measurement.name, &options.only) && !cases.is_empty() {
            chosen.push(Chosen { measurement, cases });
        }
    }
    ensure!(
        !chosen.is_empty(),
        "nothing that is measured has such a name"
    );
    Ok(chosen)
}

/// On a thread of its own, for what it does to itself ends with it.
fn measure(measurement: &Measurement, case: Case) -> Result<Vec<f64>> {
    let run = thread::scope(|scope| scope.spawn(|| (measurement.run)(case)).join());
    run.map_err(|_| anyhow!("the benchmark panicked"))?
}

fn report(options: &Options, chosen: &[Chosen], rounds: &Rounds) -> Result<()> {
    let tables = tables(chosen, &rounds.samples);
    for table in &tables {
        println!("\n{}\n\n{}", table.title, report::table(&table.rows));
    }
    println!("{rounds}");
    if let Some(path) = &options.json {
        let rows: Vec<_> = tables.iter().flat_map(|table| &table.rows).collect();
        report::write(path, &rows)?;
    }
    if let Some(folder) = &options.record {
        let section = Section::new("Network", ABOUT, &rounds.to_string(), AGAIN, tables)?;
        docs::record(folder, "network", &section)?;
    }
    Ok(())
}

fn tables(chosen: &[Chosen], samples: &[Samples]) -> Vec<Table> {
    let mut tables = Vec::new();
    for (Chosen { measurement, cases }, samples) in chosen.iter().zip(samples) {
        for (index, quantity) in measurement.quantities.iter().enumerate() {
            tables.push(Table {
                title: quantity.title.into(),
                about: quantity.about.into(),
                shows: docs::Shows::Medians,
                rows: rows::of(cases, quantity, index, samples),
            });
        }
    }
    tables
}
