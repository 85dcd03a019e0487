//! What the demo prints: lines with the time since its start, aligned.

use std::time::{Duration, Instant};

use xlb_tests::client::Attempt;

/// A letter and when it happened.
pub type Mark = (char, Instant);

/// A column of the timeline.
const CELL: Duration = Duration::from_millis(200);
/// Where text begins: behind time and label.
const INDENT: usize = 23;
const BAR: u32 = 40;

#[derive(Debug)]
pub struct Screen {
    began: Instant,
}

impl Screen {
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    /// A line with the time.
    pub fn line(&self, label: &str, text: &str) {
        let time = self.began.elapsed().as_secs_f64();
        println!("{time:>6.1} s  {label:<12}  {text}");
    }

    /// Goes on under the last line's text.
    pub fn more(&self, text: &str) {
        println!("{:INDENT$} {text}", "");
    }

    /// Text as it is.
    pub fn text(&self, text: &str) {
        println!("{text}");
    }

    /// A part of a whole.
    pub fn bar(&self, name: &str, part: u32, whole: u32) {
        let bar = "█".repeat((part * BAR / whole.max(1)) as usize);
        self.more(&format!("{name}  {bar} {part}"));
    }

    /// Who answered when, and what failed.
    pub fn timeline(&self, began: Instant, attempts: &[Attempt], marks: &[Mark]) {
        let cell = |at: Instant| {
            (at.saturating_duration_since(began).as_millis() / CELL.as_millis()) as usize
        };
        let cells = attempts
            .iter()
            .map(|attempt| cell(attempt.began))
            .max()
            .unwrap_or_default();
        self.line(
            "timeline",
            &format!("of {} new connections; a column is 0.2 s", attempts.len()),
        );
        for (name, server) in [
            (":8081", Some("web1")),
            (":8082", Some("web2")),
            ("failed", None),
        ] {
            let mut row = vec!["·"; cells + 1];
            for attempt in attempts
                .iter()
                .filter(|a| a.answer.as_deref().ok() == server)
            {
                row[cell(attempt.began)] = if server.is_some() { "█" } else { "x" };
            }
            println!("{name:>INDENT$} {}", row.concat());
        }
        let mut row = vec![' '; cells + 1];
        for (letter, at) in marks {
            if let Some(place) = row.get_mut(cell(*at)) {
                *place = *letter;
            }
        }
        self.more(row.iter().collect::<String>().trim_end());
    }
}
