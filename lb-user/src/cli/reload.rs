//! `xlb reload`: has a running agent read its configuration again.

use std::process::ExitCode;

use super::{Socket, USAGE, runtime};
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
}

pub(super) fn run(command: &Reload) -> anyhow::Result<ExitCode> {
    let reloaded = runtime()?.block_on(api::reload(&command.socket.path()))?;
    Ok(match reloaded {
        Ok(warnings) => {
            eprint!("{warnings}");
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprint!("{errors}");
            ExitCode::from(USAGE)
        }
    })
}
