//! `xlb reload`: has a running agent read its configuration again.

use std::process::ExitCode;

use super::{Socket, USAGE, print, runtime};
use crate::api;

/// Apply the configuration file of a running agent again
///
/// Only what changed is applied: targets that stay keep their health and their
/// connections, those that were removed get no new ones and drain. A file that
/// is invalid, or that changes interfaces, XDP or tc modes, capacities or the
/// forwarding of a group, which needs a restart, changes nothing; its errors are
/// printed, and the exit code is 2. SIGHUP does the same.
#[derive(Debug, clap::Args)]
pub(super) struct Reload {
    #[command(flatten)]
    socket: Socket,
    /// Print what came of the file as JSON; other errors are on standard error
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Reload) -> anyhow::Result<ExitCode> {
    let reloaded = runtime()?.block_on(api::reload(&command.socket.path()))?;
    if command.json {
        print(&(serde_json::to_string_pretty(&reloaded)? + "\n"))?;
    } else {
        eprint!("{}", reloaded.text);
    }
    Ok(match reloaded.applied {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(USAGE),
    })
}
