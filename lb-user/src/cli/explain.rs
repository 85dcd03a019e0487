//! `xlb explain`: what would become of a packet.

use std::{net::SocketAddr, process::ExitCode};

use clap::ValueEnum;

use super::{Socket, print, runtime};
use crate::{
    api::{self, ExplainRequest, ExplainedTarget, Explanation, Leaving},
    explain::frame::TcpFlags,
};

/// Say what would become of a packet, and why
///
/// The packet is made up and run through a replica of the loaded programs, which
/// sees what they see: their configuration, the flow that the packet belongs to,
/// the host's routes. So it says what they would do. Nothing is sent, and nothing
/// changes: no flow begins, no counter moves.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  xlb explain tcp 203.0.113.7:51234 10.0.2.15:80
  xlb explain udp 203.0.113.7:51234 10.0.2.15:53 --payload 1400
  xlb explain tcp 10.0.2.21:8080 10.0.2.15:20017 --interface eth1 --flags syn-ack")]
pub(super) struct Explain {
    protocol: Protocol,
    /// Where it comes from: address and port
    source: SocketAddr,
    /// Where it is sent to: address and port
    destination: SocketAddr,
    /// The interface that it comes in by [default: the first one]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// TCP flags [default: ack if it belongs to a flow, else syn]
    #[arg(long)]
    flags: Option<Flags>,
    /// Bytes behind its TCP or UDP header
    #[arg(long, value_name = "BYTES", default_value = "0")]
    payload: u16,
    /// Its time to live, or hop limit
    #[arg(long, value_name = "HOPS", default_value = "64")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..))]
    ttl: u8,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Flags {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

impl From<Flags> for TcpFlags {
    fn from(flags: Flags) -> Self {
        match flags {
            Flags::Syn => Self::Syn,
            Flags::SynAck => Self::SynAck,
            Flags::Ack => Self::Ack,
            Flags::Fin => Self::Fin,
            Flags::Rst => Self::Rst,
        }
    }
}

pub(super) fn run(command: &Explain) -> anyhow::Result<ExitCode> {
    let request = ExplainRequest {
        protocol: match command.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
        .to_owned(),
        source: command.source,
        destination: command.destination,
        interface: command.interface.clone(),
        flags: command.flags.map(Into::into),
        payload: command.payload,
        time_to_live: command.ttl,
    };
    let explained =
        runtime()?.block_on(api::fetch_explanation(&command.socket.path(), &request))?;
    print(&match command.json {
        true => serde_json::to_string_pretty(&explained)? + "\n",
        false => text(&request, &explained),
    })
}

/// A line for each thing that there is to say, in the packet's order.
fn text(request: &ExplainRequest, explained: &Explanation) -> String {
    let ExplainRequest {
        protocol,
        source,
        destination,
        ..
    } = request;
    let flags = explained.flags.as_ref();
    let flags = flags.map_or(String::new(), |it| format!(", {}", it.replace('_', "-")));
    let mut text = format!(
        "{protocol} {source} to {destination}{flags}, {} bytes, in by {}\n",
        explained.bytes, explained.interface
    );
    let mut line = |title: &str, words: String| text += &format!("{title:<15} {words}\n");
    match &explained.listener {
        Some(it) => line(
            "listener",
            format!("{}, target group {}", it.name, it.target_group),
        ),
        None => line("listener", "none has its destination".to_owned()),
    }
    if let Some(rule) = &explained.security_group {
        let does = if rule.allows { "allows" } else { "denies" };
        line(
            "security group",
            format!("{} {does} {}", rule.name, rule.prefix),
        );
    }
    match (&explained.flow, explained.new_flow) {
        (Some(_), true) => line("flow", "a new one".to_owned()),
        (Some(flow), false) => {
            let (state, idle) = (flow.state.as_str(), flow.idle);
            line("flow", format!("known, {state}, idle for {idle} s"));
        }
        (None, _) => line("flow", "none".to_owned()),
    }
    if let Some(it) = &explained.selection {
        let target = it.target.as_deref().unwrap_or("nobody");
        let (hash, slot, slots) = (&it.hash, it.slot, it.slots);
        line(
            "hash",
            format!("of {hash}: slot {slot} of {slots} is {target}'s"),
        );
    }
    if let Some(it) = &explained.target {
        line("target", target(it));
    }
    if let Some(it) = &explained.leaves {
        let outside = if it.encapsulated { "outside " } else { "" };
        let (source, destination, hops) = (it.source, it.destination, it.time_to_live);
        line(
            "leaves as",
            format!("{outside}{source} to {destination}, time to live {hops}"),
        );
    }
    line("verdict", verdict(explained));
    text
}

fn target(target: &ExplainedTarget) -> String {
    let ExplainedTarget {
        target_group,
        target,
        health,
        description,
        ..
    } = target;
    let why = description.as_ref();
    let why = why.map_or(String::new(), |it| format!(": {it}"));
    format!("{target} of {target_group}, {health}{why}")
}

fn verdict(explained: &Explanation) -> String {
    let reason = explained.drop_reason.as_deref();
    if explained.answered {
        let reason = reason.unwrap_or_default();
        return format!("dropped, and its sender is answered: {reason}");
    }
    match (explained.action.as_str(), reason) {
        ("drop", reason) => format!("dropped: {}", reason.unwrap_or_default()),
        ("pass", Some(reason)) => format!("passed to this host as it came: {reason}"),
        ("pass", None) => "to this host's own stack".to_owned(),
        (action, _) => {
            let interface = explained.leaves.as_ref().map(by).unwrap_or_default();
            match action {
                "handoff" => format!("sent by the kernel{interface}"),
                _ => format!("sent{interface}"),
            }
        }
    }
}

fn by(leaves: &Leaving) -> String {
    let interface = leaves.interface.as_ref();
    let interface = interface.map_or(String::new(), |it| format!(" by {it}"));
    let mac = leaves.destination_mac.as_ref();
    interface + &mac.map_or(String::new(), |it| format!(" to {it}"))
}
