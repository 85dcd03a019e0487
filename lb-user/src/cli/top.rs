//! `xlb top`: a live view in the terminal.

mod model;
mod view;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use self::model::{Model, Step};
use super::{Socket, USAGE, colours, interval_from, rates::Sample, runtime};
use crate::api::{self, ClientError};

/// Watch listeners and targets in the terminal
///
/// Rates of each listener and target, their course as small charts, health, and
/// why packets weren't balanced. Arrows, Page Up and Page Down move, Tab changes
/// between listeners, targets and drop reasons, s sorts by another column, q
/// ends. Colours are left out if NO_COLOR is set.
#[derive(Debug, clap::Args)]
pub(super) struct Top {
    /// Time between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval_from)]
    interval: Duration,
    #[command(flatten)]
    socket: Socket,
}

pub(super) fn run(command: &Top) -> anyhow::Result<ExitCode> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        eprintln!("xlb: `xlb top` needs a terminal; `xlb status --watch` doesn't");
        return Ok(ExitCode::from(USAGE));
    }
    runtime()?.block_on(watch(command))?;
    Ok(ExitCode::SUCCESS)
}

async fn watch(command: &Top) -> anyhow::Result<()> {
    // Before the screen is taken, so that what is wrong can be read.
    let first = look(command).await?;
    let mut model = Model::new(colours());
    model.update(first);
    let events = events();
    // It restores the terminal if anything panics, too.
    let mut terminal = ratatui::try_init().context("could not take the terminal")?;
    let result = show(command, &mut terminal, &mut model, events).await;
    ratatui::try_restore().context("could not restore the terminal")?;
    result
}

async fn look(command: &Top) -> Result<Sample, ClientError> {
    let status = api::fetch_status(&command.socket.path()).await?;
    let at = Instant::now();
    Ok(Sample { status, at })
}

/// What the terminal says, read on a thread of its own, which ends with the
/// process.
fn events() -> mpsc::UnboundedReceiver<io::Result<Event>> {
    let (sender, events) = mpsc::unbounded_channel();
    thread::spawn(move || {
        loop {
            let event = event::read();
            let failed = event.is_err();
            if sender.send(event).is_err() || failed {
                return;
            }
        }
    });
    events
}

async fn show(
    command: &Top,
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    mut events: mpsc::UnboundedReceiver<io::Result<Event>>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = interval(command.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    // Keys work while an agent takes its time.
    let mut looking = Box::pin(next_look(command, &mut ticks));
    loop {
        terminal.draw(|frame| view::draw(frame, model))?;
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => if !handle(&event?, model) { return Ok(()) },
                None => return Ok(()),
            },
            sample = &mut looking => {
                match sample {
                    Ok(sample) => model.update(sample),
                    Err(error) => model.fail(error.to_string()),
                }
                drop(looking);
                looking = Box::pin(next_look(command, &mut ticks));
            }
            _ = terminate.recv() => return Ok(()),
        }
    }
}

async fn next_look(
    command: &Top,
    ticks: &mut tokio::time::Interval,
) -> Result<Sample, ClientError> {
    ticks.tick().await;
    look(command).await
}

/// False if it is to end.
fn handle(event: &Event, model: &mut Model) -> bool {
    let Event::Key(key) = event else {
        // A resize is followed by drawing anew.
        return true;
    };
    if key.kind == KeyEventKind::Release {
        return true;
    }
    match key_of(*key) {
        Key::Quit => return false,
        Key::Move(step) => model.step(step),
        Key::NextPane => model.next_pane(),
        Key::PreviousPane => model.previous_pane(),
        Key::Sort => model.sort_otherwise(),
        Key::Other => {}
    }
    true
}

enum Key {
    Quit,
    Move(Step),
    NextPane,
    PreviousPane,
    Sort,
    Other,
}

fn key_of(key: KeyEvent) -> Key {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Up | KeyCode::Char('k') => Key::Move(Step::By(-1)),
        KeyCode::Down | KeyCode::Char('j') => Key::Move(Step::By(1)),
        KeyCode::PageUp => Key::Move(Step::By(-10)),
        KeyCode::PageDown => Key::Move(Step::By(10)),
        KeyCode::Home => Key::Move(Step::First),
        KeyCode::End => Key::Move(Step::Last),
        KeyCode::Tab | KeyCode::Right => Key::NextPane,
        KeyCode::BackTab | KeyCode::Left => Key::PreviousPane,
        KeyCode::Char('s') => Key::Sort,
        _ => Key::Other,
    }
}
