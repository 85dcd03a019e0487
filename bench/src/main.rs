//! xlb's benchmarks. `cargo xtask bench` builds and runs them.

mod agent;
mod dataplane;
mod docs;
mod network;
mod report;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Nanoseconds a packet of the data path, beside floors
    Dataplane(dataplane::Options),
    /// The agent: how fast it acts on a change, what checks cost, memory
    Agent(agent::Options),
    /// Balancers end to end, over veth: packets, connections, CPU time, throughput
    Network(network::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    xlb_tests::require_root()?;
    match arguments.benchmark {
        Benchmark::Dataplane(options) => dataplane::run(&options),
        Benchmark::Agent(options) => agent::run(&options),
        Benchmark::Network(options) => network::run(&options),
    }
}
