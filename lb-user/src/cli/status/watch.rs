//! The status again and again.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{Status, render};
use crate::{
    api,
    cli::{
        colours,
        rates::{Sample, Since},
        written,
    },
};

/// Cursor to the upper left; what is left of a line; what is left of the screen.
const HOME: &str = "\x1b[H";
const END_OF_LINE: &str = "\x1b[K\n";
const END_OF_SCREEN: &str = "\x1b[J";
const CLEAR: &str = "\x1b[2J";

/// Shows it until nobody reads any more. An agent that doesn't answer ends it,
/// as without `--watch`.
pub(super) async fn run(command: &Status, every: Duration) -> anyhow::Result<ExitCode> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let redraw = !command.json && io::stdout().is_terminal();
    let mut before: Option<Sample> = None;
    let mut out = io::stdout();
    if redraw {
        out.write_all(CLEAR.as_bytes())?;
    }
    loop {
        ticks.tick().await;
        let status = api::fetch_status(&command.socket.path()).await?;
        let now = Sample {
            status,
            at: Instant::now(),
        };
        let since = before.as_ref().and_then(|before| Since::new(before, &now));
        let text = match command.json {
            true => serde_json::to_string(&now.status)? + "\n",
            false => frame(
                &render(&now.status, since, SystemTime::now(), colours()),
                redraw,
            ),
        };
        let result = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        if result.is_err() {
            return written(result);
        }
        before = Some(now);
    }
}

/// One status over the one before, without a flicker; where it can't be drawn
/// over, with a line between.
fn frame(text: &str, redraw: bool) -> String {
    match redraw {
        true => HOME.to_owned() + &text.replace('\n', END_OF_LINE) + END_OF_SCREEN,
        false => text.to_owned() + "\n",
    }
}
