//! `xlb unload`: takes everything out of the kernel.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use serde::Serialize;

use super::{Bpffs, Socket, print, runtime};
use crate::{
    agent,
    api::{self, ClientError},
};

/// An agent that was asked to end may have thousands of tables to let go of.
const END: Duration = Duration::from_secs(20);

/// Stop balancing: take everything out of the kernel
///
/// An agent that runs is told to end. Then, or if none runs, the programs are
/// detached and the maps removed, and with them every flow; so are the qdiscs
/// and addresses that xlb has added. Connections through xlb end.
#[derive(Debug, clap::Args)]
pub(super) struct Unload {
    #[command(flatten)]
    socket: Socket,
    #[command(flatten)]
    bpffs: Bpffs,
    /// Print what was there as JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    instance: &'a str,
    /// An agent ran, and was told to end.
    ended: bool,
    /// Something was left of an agent.
    removed: bool,
}

pub(super) fn run(command: &Unload) -> anyhow::Result<ExitCode> {
    let instance = command.socket.instance(&command.bpffs);
    let runtime = runtime()?;
    let ended = match runtime.block_on(api::unload(&instance.socket())) {
        Ok(()) => true,
        Err(ClientError::NotRunning { .. }) => false,
        // It ended before its answer was read.
        Err(ClientError::Http(_)) => true,
        Err(error) => {
            return Err(error).context(
                "the agent that runs couldn't be told to unload: end it (`kill -9` if nothing \
                 else helps), and ask again",
            );
        }
    };
    let claim = instance.claim_within(END)?;
    let removed = runtime.block_on(agent::unload(&instance))?;
    claim.remove();
    if command.json {
        let report = Report {
            instance: instance.name(),
            ended,
            removed,
        };
        print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else if !ended && !removed {
        eprintln!("instance {} had nothing to unload", instance.name());
    }
    Ok(ExitCode::SUCCESS)
}
