//! `xlb drain`, `xlb enable` and `xlb weight`: what an operator asks for about
//! one target.

use std::process::ExitCode;

use lb_common::limits::MAX_WEIGHT;

use super::{Socket, print, runtime, status};
use crate::{
    api::{self, TargetReport, TargetRequest},
    registry::Operation,
};

/// Send no new flow to a target, and let its flows go on for a while
///
/// The target is `draining` from that moment. Its flows go on for the group's
/// deregistration_delay, and are reset then; after that it is `unused`. It isn't
/// checked meanwhile. It stays out until `xlb enable`: a reload of the
/// configuration doesn't bring it back.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    #[command(flatten)]
    named: Named,
}

/// Use a target again that was drained
///
/// Within the deregistration_delay it is what it was, its flows go on, and its
/// next health check decides alone; later it is new, and gets no flow before its
/// first check.
#[derive(Debug, clap::Args)]
pub(super) struct Enable {
    #[command(flatten)]
    named: Named,
}

/// Give a target another weight
///
/// It holds until the configuration gives the target another weight than it has
/// now, or this command the configured one. Only new flows follow it.
#[derive(Debug, clap::Args)]
pub(super) struct Weight {
    #[command(flatten)]
    named: Named,
    /// From 1 to 256
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_WEIGHT)))]
    weight: u16,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The target as it is configured: 10.0.2.21:8080, [2001:db8::21]:80, :8081 or 10.0.2.21:*
    target: String,
    /// Its target group, if several have such a target
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Print what has become of the target as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

pub(super) fn drain(command: &Drain) -> anyhow::Result<ExitCode> {
    command.named.operate(Operation::Drain)
}

pub(super) fn enable(command: &Enable) -> anyhow::Result<ExitCode> {
    command.named.operate(Operation::Enable)
}

pub(super) fn weight(command: &Weight) -> anyhow::Result<ExitCode> {
    command.named.operate(Operation::Weight(command.weight))
}

impl Named {
    fn operate(&self, operation: Operation) -> anyhow::Result<ExitCode> {
        let request = TargetRequest {
            target: self.target.clone(),
            target_group: self.group.clone(),
            operation,
        };
        let report = runtime()?.block_on(api::operate(&self.socket.path(), &request))?;
        if let Some(warning) = &report.warning {
            eprintln!("warning: {warning}");
        }
        match self.json {
            true => print(&(serde_json::to_string_pretty(&report)? + "\n")),
            false => print(&sentence(&report, operation)),
        }
    }
}

fn sentence(report: &TargetReport, operation: Operation) -> String {
    let TargetReport {
        target_group,
        target,
        ..
    } = report;
    let what = match (operation, target.configured_weight) {
        (Operation::Weight(_), Some(configured)) => {
            format!("weight {} instead of {configured}", target.weight)
        }
        (Operation::Weight(_), None) => format!("weight {}, as configured", target.weight),
        (Operation::Drain | Operation::Enable, _) => match status::reason(target) {
            reason if reason.is_empty() => target.health.clone(),
            reason => format!("{}: {reason}", target.health),
        },
    };
    format!("{} of {target_group}: {what}\n", target.address)
}
