//! `xlb status`: what a running agent does.

mod watch;

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};

use super::{
    Socket, colours, interval_from, print,
    rates::{self, Since},
    runtime,
};
use crate::api::{self, GroupStatus, ListenerStatus, TargetStatus, TrafficStatus};

/// Show listeners, target groups and the health of every target
///
/// Beside a target group's name is its forwarding mode, with the encapsulation
/// of dsr. Health is initial, healthy, unhealthy, draining or unused. A target
/// that is not healthy has a reason beside it. SHARE is its part of the group's
/// new flows at present. FLOWS are the established ones, counted
/// every few seconds; the other counters are since xlb was loaded, with --watch
/// a second (/S) since the status before.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Print everything as one JSON document
    #[arg(long)]
    json: bool,
    /// Show it again every so many seconds, until Ctrl-C; with --json a document a line
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = interval_from)]
    watch: Option<Duration>,
    #[command(flatten)]
    socket: Socket,
}

pub(super) fn run(command: &Status) -> anyhow::Result<ExitCode> {
    if let Some(interval) = command.watch {
        return runtime()?.block_on(watch::run(command, interval));
    }
    let status = runtime()?.block_on(api::fetch_status(&command.socket.path()))?;
    print(&match command.json {
        true => serde_json::to_string_pretty(&status)? + "\n",
        false => render(&status, None, SystemTime::now(), colours()),
    })
}

/// The status as text, with rates if there is a status before; `colours` only
/// for a terminal.
fn render(
    status: &api::Status,
    since: Option<Since<'_>>,
    now: SystemTime,
    colours: bool,
) -> String {
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
    text += &listeners(&status.listeners, since);
    for group in &status.target_groups {
        text.push('\n');
        text += &targets(group, since, now, colours);
    }
    text += &drops(status, since);
    for problem in &status.problems {
        text += &format!("\nproblem: {problem}\n");
    }
    text
}

fn listeners(listeners: &[ListenerStatus], since: Option<Since<'_>>) -> String {
    let titles = ["LISTENER", "ADDRESS", "PROTOCOL", "TARGET GROUP"];
    let mut table = table(titles.into_iter().chain(traffic_titles(since)), 4);
    for listener in listeners {
        let rates = since.map(|since| since.listener(listener));
        let cells = [
            Cell::new(&listener.name),
            Cell::new(&listener.address),
            Cell::new(&listener.protocol),
            Cell::new(&listener.target_group),
        ];
        table.add_row(cells.into_iter().chain(traffic(&listener.traffic, rates)));
    }
    finish(table)
}

fn targets(
    group: &GroupStatus,
    since: Option<Since<'_>>,
    now: SystemTime,
    colours: bool,
) -> String {
    let titles = [
        "TARGET", "WEIGHT", "SHARE", "HEALTH", "SINCE", "REASON", "FLOWS",
    ];
    let mut table = table(titles.into_iter().chain(traffic_titles(since)), 6);
    for target in &group.targets {
        let in_state = now.duration_since(target.since).unwrap_or(Duration::ZERO);
        let rates = since.map(|since| since.target(group, target));
        let cells = [
            Cell::new(&target.address),
            Cell::new(weight(target)),
            Cell::new(format!("{:.1}%", target.share * 100.0)),
            health(target, colours),
            Cell::new(whole_seconds(in_state.as_secs())),
            Cell::new(reason(target)),
            number(target.flows),
        ];
        table.add_row(cells.into_iter().chain(traffic(&target.traffic, rates)));
    }
    let fail_open = match group.fail_open {
        true => ": too few are healthy, so new flows go to all (fail-open)",
        false => "",
    };
    let (name, mode) = (&group.name, mode(group));
    format!("target group {name} ({mode}){fail_open}\n{}", finish(table))
}

fn drops(status: &api::Status, since: Option<Since<'_>>) -> String {
    let counted = || status.drops.iter().filter(|&(_, &count)| count > 0);
    if counted().next().is_none() {
        return String::new();
    }
    let rate_title = since.map(|_| "PACKETS/S");
    let mut table = table(["REASON", "PACKETS"].into_iter().chain(rate_title), 1);
    for (reason, &count) in counted() {
        let rate = since.map(|since| right(rates::number(since.drops(reason, count))));
        let cells = [Cell::new(reason), number(count)];
        table.add_row(cells.into_iter().chain(rate));
    }
    format!("\npackets not balanced, by reason\n{}", finish(table))
}

fn traffic_titles(since: Option<Since<'_>>) -> [&'static str; 3] {
    match since {
        Some(_) => ["NEW FLOWS/S", "IN/S", "OUT/S"],
        None => ["NEW FLOWS", "BYTES IN", "BYTES OUT"],
    }
}

fn traffic(all: &TrafficStatus, rates: Option<rates::Rates>) -> [Cell; 3] {
    match rates {
        Some(rates) => [
            right(rates::number(rates.new_flows)),
            right(rates::bytes(rates.bytes_in)),
            right(rates::bytes(rates.bytes_out)),
        ],
        None => [
            number(all.new_flows),
            right(rates::bytes(all.forward_bytes as f64)),
            right(rates::bytes(all.reply_bytes as f64)),
        ],
    }
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
fn table(header: impl Iterator<Item = &'static str>, numbers: usize) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.enumerate().map(|(column, title)| {
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
    right(value.to_string())
}

fn right(text: String) -> Cell {
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
            let text = targets(&group, None, SystemTime::now(), false);
            text.lines().next().unwrap_or("").to_owned()
        };
        assert_eq!(heading(None), "target group api (nat)");
        assert_eq!(heading(Some("gue")), "target group api (dsr, gue)");
    }
}
