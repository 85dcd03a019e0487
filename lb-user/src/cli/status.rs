//! `xlb status`: what a running agent does.

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};

use super::{Socket, print, runtime};
use crate::api::{self, GroupStatus, ListenerStatus, TargetStatus};

/// Show listeners, target groups and the health of every target
///
/// Beside a target group's name is its forwarding mode, with the encapsulation
/// of dsr. Health is initial, healthy, unhealthy, draining or unused. A target
/// that is not healthy has a reason beside it. SHARE is its part of the group's
/// new flows at present. FLOWS are the established ones, counted
/// every few seconds; the other counters are since the agent's start.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Print everything as one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

pub(super) fn run(command: &Status) -> anyhow::Result<ExitCode> {
    let status = runtime()?.block_on(api::fetch_status(&command.socket.socket))?;
    let text = if command.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        render(&status, SystemTime::now(), std::io::stdout().is_terminal())
    };
    print(&text)
}

/// The status as text; `colours` only for a terminal.
fn render(status: &api::Status, now: SystemTime, colours: bool) -> String {
    let mut text = String::new();
    for interface in &status.interfaces {
        text += &format!(
            "{}: XDP {}, tc {}\n",
            interface.name, interface.xdp, interface.tc
        );
    }
    text += &format!(
        "flows: {} established of {}, {} half-open\n\n",
        status.flows.established, status.flows.capacity, status.flows.half_open
    );
    text += &listeners(&status.listeners);
    for group in &status.target_groups {
        text.push('\n');
        text += &targets(group, now, colours);
    }
    let drops: Vec<_> = status
        .drops
        .iter()
        .filter(|&(_, &count)| count > 0)
        .collect();
    if !drops.is_empty() {
        text += "\npackets not balanced, by reason\n";
        let mut table = table(&["REASON", "PACKETS"], 1);
        for (reason, count) in drops {
            table.add_row([Cell::new(reason), number(*count)]);
        }
        text += &finish(table);
    }
    for problem in &status.problems {
        text += &format!("\nproblem: {problem}\n");
    }
    text
}

fn listeners(listeners: &[ListenerStatus]) -> String {
    let mut table = table(
        &[
            "LISTENER",
            "ADDRESS",
            "PROTOCOL",
            "TARGET GROUP",
            "NEW FLOWS",
            "BYTES IN",
            "BYTES OUT",
        ],
        4,
    );
    for listener in listeners {
        table.add_row([
            Cell::new(&listener.name),
            Cell::new(&listener.address),
            Cell::new(&listener.protocol),
            Cell::new(&listener.target_group),
            number(listener.traffic.new_flows),
            bytes(listener.traffic.forward_bytes),
            bytes(listener.traffic.reply_bytes),
        ]);
    }
    finish(table)
}

fn targets(group: &GroupStatus, now: SystemTime, colours: bool) -> String {
    let mut table = table(
        &[
            "TARGET",
            "WEIGHT",
            "SHARE",
            "HEALTH",
            "SINCE",
            "REASON",
            "FLOWS",
            "NEW FLOWS",
            "BYTES IN",
            "BYTES OUT",
        ],
        6,
    );
    for target in &group.targets {
        let since = now.duration_since(target.since).unwrap_or(Duration::ZERO);
        table.add_row([
            Cell::new(&target.address),
            Cell::new(weight(target)),
            Cell::new(format!("{:.1}%", target.share * 100.0)),
            health(target, colours),
            Cell::new(whole_seconds(since.as_secs())),
            Cell::new(reason(target)),
            number(target.flows),
            number(target.traffic.new_flows),
            bytes(target.traffic.forward_bytes),
            bytes(target.traffic.reply_bytes),
        ]);
    }
    let fail_open = match group.fail_open {
        true => ": too few are healthy, so new flows go to all (fail-open)",
        false => "",
    };
    let (name, mode) = (&group.name, mode(group));
    format!("target group {name} ({mode}){fail_open}\n{}", finish(table))
}

/// The one that holds, and the one that it holds instead of.
fn weight(target: &TargetStatus) -> String {
    match target.configured_weight {
        Some(configured) => format!("{} (not {configured})", target.weight),
        None => target.weight.to_string(),
    }
}

pub(super) fn reason(target: &TargetStatus) -> String {
    let description = target.description.clone().unwrap_or_default();
    match target.remaining {
        // Up to the full second, so that it ends with 1s.
        Some(seconds) => format!(
            "{description} ({} left)",
            whole_seconds(seconds.ceil() as u64)
        ),
        None => description,
    }
}

/// `nat`, or `dsr` with its encapsulation.
fn mode(group: &GroupStatus) -> String {
    match &group.encapsulation {
        Some(encapsulation) => format!("{}, {encapsulation}", group.forwarding),
        None => group.forwarding.clone(),
    }
}

fn whole_seconds(seconds: u64) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(seconds))
}

fn health(target: &TargetStatus, colours: bool) -> Cell {
    let cell = Cell::new(&target.health);
    if !colours {
        return cell;
    }
    match target.health.as_str() {
        "healthy" => cell.fg(Color::Green),
        "unhealthy" => cell.fg(Color::Red).add_attribute(Attribute::Bold),
        _ => cell.fg(Color::Yellow),
    }
}

/// A table whose columns from `numbers` on are right-aligned.
fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().enumerate().map(|(column, title)| {
            let cell = Cell::new(title);
            if column >= numbers {
                cell.set_alignment(CellAlignment::Right)
            } else {
                cell
            }
        }));
    table
}

/// The table's lines, flush left and without trailing blanks.
fn finish(table: Table) -> String {
    table
        .to_string()
        .lines()
        .map(|line| line.trim().to_owned() + "\n")
        .collect()
}

fn number(value: u64) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

fn bytes(value: u64) -> Cell {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    let text = match unit {
        0 => format!("{value} B"),
        _ => format!("{scaled:.1} {}", UNITS[unit]),
    };
    Cell::new(text).set_alignment(CellAlignment::Right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_heading_has_its_forwarding_mode() {
        let heading = |encapsulation: Option<&str>| {
            let group = GroupStatus {
                name: "api".to_owned(),
                forwarding: encapsulation.map_or("nat", |_| "dsr").to_owned(),
                encapsulation: encapsulation.map(str::to_owned),
                fail_open: false,
                targets: Vec::new(),
            };
            let text = targets(&group, SystemTime::now(), false);
            text.lines().next().unwrap_or("").to_owned()
        };
        assert_eq!(heading(None), "target group api (nat)");
        assert_eq!(heading(Some("gue")), "target group api (dsr, gue)");
    }
}
