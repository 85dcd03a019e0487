//! Draws the model: what is on the screen follows from it and the screen's size.

use std::time::{Duration, SystemTime};

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Span, Text},
    widgets::{Block, Borders, Cell, Paragraph, Row as Cells, Sparkline, Table, TableState},
};

use super::model::{Model, Name, Pane, Row};
use crate::{
    api::{ListenerStatus, TargetStatus},
    cli::{
        rates::{Rates, bytes, number},
        status::reason,
    },
};

/// Columns of a row's own small chart.
const TREND: usize = 6;
/// Below it nothing can be read.
const LEAST: (u16, u16) = (40, 10);
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let (width, height) = LEAST;
        let text = format!("make the terminal larger: {width} x {height} at least, q ends");
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let detail = if area.height >= 20 { 7 } else { 0 };
    let listeners = listener_rows(model, area.height);
    let [head, upper, middle, lower, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(listeners),
        Constraint::Min(4),
        Constraint::Length(detail),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, model, head);
    draw_listeners(frame, model, upper);
    draw_targets(frame, model, middle);
    if detail > 0 {
        let [left, right] =
            Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)])
                .areas(lower);
        draw_drops(frame, model, left);
        draw_course(frame, model, right);
    }
    let keys = "q quit   ↑↓ move   tab next pane   s sort";
    frame.render_widget(Paragraph::new(keys).dim(), foot);
}

/// Lines for the listeners with their frame, so that targets have more.
fn listener_rows(model: &Model, height: u16) -> u16 {
    let rows = u16::try_from(model.listeners().len()).unwrap_or(u16::MAX);
    rows.saturating_add(3).clamp(4, (height / 4).max(4))
}

fn draw_head(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let Some(status) = model.status() else {
        return;
    };
    let up = SystemTime::now()
        .duration_since(status.started)
        .unwrap_or_default();
    let interfaces = status.interfaces.iter();
    let interfaces: Vec<String> = interfaces
        .map(|it| format!("{} {}", it.name, it.xdp))
        .collect();
    let flows = &status.flows;
    let first = format!(
        "xlb {}  up {}  {}  flows {} of {}, {} half-open",
        status.version,
        humantime::format_duration(rough(up)),
        interfaces.join(", "),
        flows.established,
        flows.capacity,
        flows.half_open
    );
    let second = match (&model.error, status.problems.first()) {
        (Some(error), _) => alarm(model, format!("no new figures: {error}")),
        (None, Some(problem)) => alarm(model, format!("problem: {problem}")),
        (None, None) => Line::from(total(model.total())),
    };
    frame.render_widget(Paragraph::new(Text::from(vec![first.into(), second])), area);
}

/// Without the parts that are of no interest beside the others.
fn rough(time: Duration) -> Duration {
    let seconds = time.as_secs();
    let unit = match seconds {
        86_400.. => 3_600,
        3_600.. => 60,
        _ => 1,
    };
    Duration::from_secs(seconds / unit * unit)
}

fn total(rates: Rates) -> String {
    format!(
        "new flows {}/s  in {}/s ({} packets)  out {}/s ({} packets)",
        number(rates.new_flows),
        bytes(rates.bytes_in),
        number(rates.packets_in),
        bytes(rates.bytes_out),
        number(rates.packets_out)
    )
}

fn alarm(model: &Model, text: String) -> Line<'static> {
    Line::from(Span::styled(text, colour(model, Color::Red).bold()))
}

fn draw_listeners(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let rows = model.listeners().into_iter().map(|row| {
        let Row { of, rates, name } = row;
        let ListenerStatus {
            name: listener,
            address,
            protocol,
            target_group,
            ..
        } = of;
        let own = [listener, address, protocol, target_group];
        let own = own.map(|text| Cell::from(text.clone()));
        Cells::new(own.into_iter().chain(rate_cells(model, name, *rates)))
    });
    let titles = ["LISTENER", "ADDRESS", "PROTO", "GROUP"];
    let widths = [
        Constraint::Fill(3),
        Constraint::Fill(4),
        Constraint::Length(5),
        Constraint::Fill(2),
    ];
    let table = table(rows, &titles, &widths);
    show(frame, model, Pane::Listeners, "listeners", table, area);
}

fn draw_targets(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let targets = model.targets();
    let rows = targets.iter().map(|row| {
        let Name::Target(group, _) = &row.name else {
            return Cells::default();
        };
        let target = &row.of;
        let own = [
            Cell::from(target.address.clone()),
            Cell::from(group.clone()),
            health(model, target),
            right(target.flows.to_string()),
        ];
        Cells::new(
            own.into_iter()
                .chain(rate_cells(model, &row.name, row.rates)),
        )
    });
    let titles = ["TARGET", "GROUP", "HEALTH", "FLOWS"];
    let widths = [
        Constraint::Fill(5),
        Constraint::Fill(2),
        Constraint::Length(9),
        Constraint::Length(6),
    ];
    let healthy = targets.iter().filter(|row| row.of.health == "healthy");
    let title = format!("targets, {} of {} healthy", healthy.count(), targets.len());
    let table = table(rows, &titles, &widths);
    show(frame, model, Pane::Targets, &title, table, area);
}

fn draw_drops(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let rows = model.drops().into_iter().map(|row| {
        let Name::Drop(reason) = &row.name else {
            return Cells::default();
        };
        Cells::new([
            Cell::from(reason.clone()),
            right(number(row.rates.packets())),
            right(row.of.to_string()),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(7),
        Constraint::Length(9),
    ];
    let table = Table::new(rows, widths).header(header(&["REASON", "/S", "PACKETS"]));
    show(frame, model, Pane::Drops, "not balanced", table, area);
}

/// The course of the chosen row's rates, and all that is known of its health.
fn draw_course(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let Some(name) = model.chosen() else {
        frame.render_widget(Block::bordered(), area);
        return;
    };
    let block = Block::bordered().title(label(name));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [words, first, first_chart, second, second_chart] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(inner);
    frame.render_widget(Paragraph::new(about(model, name)), words);
    let charts: [Chart<'_>; 2] = match name {
        Name::Drop(_) => [
            ("packets", |it| it.packets(), number),
            ("", |_| 0.0, number),
        ],
        _ => [
            ("new flows", |it| it.new_flows, number),
            ("bytes", |it| it.bytes(), bytes),
        ],
    };
    for ((title, value, unit), (line, chart)) in charts
        .into_iter()
        .zip([(first, first_chart), (second, second_chart)])
        .filter(|((title, ..), _)| !title.is_empty())
    {
        draw_chart(frame, model, name, (title, value, unit), (line, chart));
    }
}

type Chart<'a> = (&'a str, fn(Rates) -> f64, fn(f64) -> String);

fn draw_chart(
    frame: &mut Frame<'_>,
    model: &Model,
    name: &Name,
    (title, value, unit): Chart<'_>,
    (line, chart): (Rect, Rect),
) {
    let values: Vec<f64> = model.course(name).map(value).collect();
    let now = values.last().copied().unwrap_or(0.0);
    let most = values.iter().copied().fold(0.0, f64::max);
    let text = format!("{title} {}/s, at most {}/s", unit(now), unit(most));
    frame.render_widget(Paragraph::new(text), line);
    let from = values.len().saturating_sub(chart.width.into());
    // As parts of the highest, for rates may be less than one.
    let scaled = values[from..].iter().map(|it| part(*it, most, 1_000));
    let sparkline = Sparkline::default()
        .data(scaled.collect::<Vec<u64>>())
        .max(1_000)
        .style(colour(model, Color::Cyan));
    frame.render_widget(sparkline, chart);
}

fn part(value: f64, most: f64, parts: u64) -> u64 {
    match most > 0.0 {
        true => (value / most * parts as f64).round() as u64,
        false => 0,
    }
}

fn label(name: &Name) -> String {
    match name {
        Name::Listener(listener) => format!("listener {listener}"),
        Name::Target(group, target) => format!("target {target} of {group}"),
        Name::Drop(reason) => format!("drop reason {reason}"),
    }
}

/// A sentence beside the charts.
fn about(model: &Model, name: &Name) -> String {
    let targets = model.targets();
    let Some(target) = targets.iter().find(|row| row.name == *name) else {
        return String::new();
    };
    let target = &target.of;
    let weight = format!(
        "weight {}, share {:.1}%",
        target.weight,
        target.share * 100.0
    );
    match reason(target) {
        reason if reason.is_empty() => weight,
        reason => format!("{}: {reason}", target.health),
    }
}

/// What all rows with traffic end with.
const RATE_TITLES: [&str; 4] = ["FLOWS/S", "IN/S", "OUT/S", "PKTS/S"];
const RATE_WIDTHS: [Constraint; 4] = [
    Constraint::Length(7),
    Constraint::Length(9),
    Constraint::Length(9),
    Constraint::Length(TREND as u16),
];

fn rate_cells<'a>(model: &Model, name: &Name, rates: Rates) -> [Cell<'a>; 4] {
    [
        right(number(rates.new_flows)),
        right(bytes(rates.bytes_in)),
        right(bytes(rates.bytes_out)),
        Cell::from(trend(model.course(name).map(Rates::packets))).style(colour(model, Color::Cyan)),
    ]
}

/// The last values as a chart of one line, as parts of the highest.
fn trend(values: impl DoubleEndedIterator<Item = f64>) -> String {
    let mut last: Vec<f64> = values.rev().take(TREND).collect();
    last.reverse();
    let most = last.iter().copied().fold(0.0, f64::max);
    let highest = LEVELS.len() as u64 - 1;
    let level = |value: &f64| LEVELS[part(*value, most, highest) as usize];
    last.iter().map(level).collect()
}

fn table<'a>(
    rows: impl Iterator<Item = Cells<'a>>,
    titles: &[&'static str],
    widths: &[Constraint],
) -> Table<'a> {
    let titles: Vec<&str> = titles.iter().chain(&RATE_TITLES).copied().collect();
    let widths: Vec<Constraint> = widths.iter().chain(&RATE_WIDTHS).copied().collect();
    Table::new(rows, widths).header(header(&titles))
}

fn header<'a>(titles: &[&'static str]) -> Cells<'a> {
    let cell = |title: &&'static str| match *title {
        "FLOWS" | "FLOWS/S" | "IN/S" | "OUT/S" | "/S" | "PACKETS" => right((*title).to_owned()),
        title => Cell::from(title),
    };
    Cells::new(titles.iter().map(cell).collect::<Vec<_>>()).bold()
}

/// A pane, with its reader's row where they are.
fn show(
    frame: &mut Frame<'_>,
    model: &Model,
    pane: Pane,
    title: &str,
    table: Table<'_>,
    area: Rect,
) {
    let is_here = model.pane == pane;
    let sorted = match pane {
        Pane::Drops => String::new(),
        Pane::Listeners | Pane::Targets => format!(" ({})", model.sort.title()),
    };
    let border = match is_here {
        true => Style::new().add_modifier(Modifier::BOLD),
        false => Style::new().add_modifier(Modifier::DIM),
    };
    let block = Block::new()
        .borders(Borders::ALL)
        .border_style(border)
        .title(format!("{title}{sorted}"));
    let chosen = match is_here {
        true => Style::new().add_modifier(Modifier::REVERSED),
        false => Style::new(),
    };
    let mut state = TableState::default().with_selected(model.place(pane));
    let table = table.block(block).row_highlight_style(chosen);
    frame.render_stateful_widget(table, area, &mut state);
}

fn right<'a>(text: String) -> Cell<'a> {
    Cell::from(Text::from(text).right_aligned())
}

fn health<'a>(model: &Model, target: &TargetStatus) -> Cell<'a> {
    let style = match target.health.as_str() {
        "healthy" => colour(model, Color::Green),
        "unhealthy" => colour(model, Color::Red).bold(),
        _ => colour(model, Color::Yellow),
    };
    Cell::from(target.health.clone()).style(style)
}

fn colour(model: &Model, colour: Color) -> Style {
    match model.colours {
        true => Style::new().fg(colour),
        false => Style::new(),
    }
}

#[cfg(test)]
mod tests;
