//! Nanoseconds a packet, by `BPF_PROG_TEST_RUN` on one CPU.
//!
//! Every case runs once in each round, one after the other, so that what the
//! machine does besides falls on all of them alike; what counts is the ratio of
//! the minima to that of a floor, a program that does the least that anything
//! with such an output must do.

mod case;
mod cases;
pub(crate) mod frame;
mod harness;
pub(crate) mod world;

use std::{
    io::{BufRead as _, Write as _},
    path::PathBuf,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use case::Bench;
use cases::Case;
use clap::Args;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use xlb_tests::interrupt;

use crate::{
    docs::{self, Section, Shows, Table},
    report::{self, Better, Row},
};

#[derive(Args)]
pub struct Options {
    /// How often each case is measured
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Packets a measurement
    #[arg(long, default_value_t = 1_000_000)]
    packets: u32,
    /// Only cases whose name contains this, and what they are compared with
    #[arg(long)]
    only: Option<String>,
    /// Write the figures to docs/benchmarks.md in this folder, with a diagram
    #[arg(long, value_name = "FOLDER")]
    record: Option<PathBuf>,
    /// Write the rows to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure a case for each line of standard input that names it
    #[arg(long, hide = true)]
    serve: bool,
    /// The CPU to run on
    #[arg(long, default_value_t = 0)]
    cpu: usize,
}

const ABOUT: &str = "Nanoseconds a packet, by `BPF_PROG_TEST_RUN` in a harness that restores the \
    packet before each repeat and tail-calls the unmodified program. A floor is a program in the \
    same harness that does the least that anything with such an output must do. A price is a floor \
    and one thing more that no balancer with a flow table can do without, so it is what is left to \
    be gained: nothing with that output and that use of the table can be below it. A bare balancer \
    does for a packet of an established flow what xlb does, but for TCP over IPv4 without options, \
    tags or fragments only, and in one mode: what xlb takes beyond it is for all the others. The \
    time is that of the whole call by its packets: about 15 ns of every row, floors too, are the \
    call's own. All cases run in turns, so that what else the machine does falls on all of them; \
    the ratio is that of the minima. Each measurement checks the last packet's action and length \
    and the program's own counters, which must say that every packet took the way that is meant.";
const AGAIN: &str = "`cargo xtask bench dataplane --record docs` repeats it, `--json FILE` gives \
    the rows to programs, and `cargo xtask bench --compare BASE` measures two commits in turns.";

pub fn run(options: &Options) -> Result<()> {
    interrupt::install()?;
    // In a thread of its own, for it moves into a namespace, and whose main
    // thread is in one goes with it.
    let run = || thread::scope(|scope| scope.spawn(|| pinned(options)).join());
    run().map_err(|_| anyhow::anyhow!("the benchmark panicked"))?
}

fn pinned(options: &Options) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(options.cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("no such CPU")?;
    let (_namespace, interface) = world::enter()?;
    let cases = chosen(options.only.as_deref());
    ensure!(!cases.is_empty(), "no case has such a name");
    if options.serve {
        return serve(&cases, interface, options.packets);
    }
    let times = measure(&cases, interface, options)?;
    let rows = rows(&cases, &times);
    print!("{}", report::table(&rows));
    if let Some(path) = &options.json {
        report::write(path, &rows)?;
    }
    if let Some(folder) = &options.record {
        let how = format!(
            "{} rounds of {} packets a case, all on one CPU",
            options.rounds, options.packets
        );
        let table = Table {
            title: String::new(),
            about: String::new(),
            shows: Shows::Ratios,
            rows,
        };
        let section = Section::new("Data path", ABOUT, &how, AGAIN, vec![table])?;
        docs::record(folder, "dataplane", &section)?;
    }
    Ok(())
}

/// The cases with that in their name, and what they are compared with.
fn chosen(only: Option<&str>) -> Vec<Case> {
    let all = cases::all();
    let Some(only) = only else {
        return all;
    };
    let mut names: Vec<&str> = all.iter().map(|case| case.name).collect();
    names.retain(|name| name.contains(only));
    // A floor may itself be compared with another: twice is as deep as it goes.
    for _ in 0..2 {
        let floors = all.iter().filter(|case| names.contains(&case.name));
        let floors: Vec<_> = floors.filter_map(|case| case.floor).collect();
        names.extend(floors);
    }
    all.into_iter()
        .filter(|case| names.contains(&case.name))
        .collect()
}

/// The time of each case in each round.
fn measure(cases: &[Case], interface: u32, options: &Options) -> Result<Vec<Vec<f64>>> {
    let mut benches = Vec::new();
    for case in cases {
        let bench = Bench::prepare(case, interface);
        benches.push(bench.with_context(|| format!("case {}", case.name))?);
    }
    let mut times = vec![Vec::new(); cases.len()];
    for round in 1..=options.rounds {
        for ((case, bench), times) in cases.iter().zip(&mut benches).zip(&mut times) {
            interrupt::check()?;
            let time = bench.round(options.packets);
            times.push(time.with_context(|| format!("case {}", case.name))?);
        }
        eprintln!("round {round} of {}", options.rounds);
    }
    Ok(times)
}

fn rows(cases: &[Case], times: &[Vec<f64>]) -> Vec<Row> {
    let minimum_of = |name: &str| {
        let mut all = cases.iter().zip(times);
        let found = all.find(|(case, _)| case.name == name);
        found.map(|(_, times)| report::minimum(times))
    };
    let row = |(case, times): (&Case, &Vec<f64>)| {
        let min = report::minimum(times);
        let floor = case.floor.unwrap_or(case.name);
        let ratio = min / minimum_of(floor).unwrap_or(min);
        Row {
            case: case.name.to_owned(),
            unit: "ns".to_owned(),
            better: Better::Lower,
            min,
            median: report::median(times),
            max: report::maximum(times),
            floor: floor.to_owned(),
            ratio,
            ratios: None,
            goal: case.goal,
            met: case.goal.map(|goal| Better::Lower.meets(ratio, goal)),
        }
    };
    cases.iter().zip(times).map(row).collect()
}

/// Tells the names of the cases, then for each name that it reads a time. So
/// two builds can be measured in turns.
fn serve(cases: &[Case], interface: u32, packets: u32) -> Result<()> {
    let mut output = std::io::stdout().lock();
    let mut benches = Vec::new();
    for case in cases {
        benches.push((case.name, Bench::prepare(case, interface)?));
    }
    let names: Vec<_> = cases.iter().map(|case| case.name).collect();
    writeln!(output, "{}", serde_json::to_string(&names)?)?;
    output.flush()?;
    for name in std::io::stdin().lock().lines() {
        let name = name?;
        let bench = benches.iter_mut().find(|(other, _)| *other == name);
        let (_, bench) = bench.with_context(|| format!("no case {name}"))?;
        writeln!(output, "{}", bench.round(packets)?)?;
        output.flush()?;
    }
    Ok(())
}
