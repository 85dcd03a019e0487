//! Bars, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    prelude::{IntoDrawingArea as _, PathElement, RGBColor, Rectangle, SVGBackend, Text, WHITE},
    style::{BLACK, Color as _, IntoFont as _},
};
use serde::{Deserialize, Serialize};

use super::curves;
use crate::report::{Row, number};

/// What the bars are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shows {
    /// Each row's ratio, with a line where its goal is.
    Ratios,
    /// Each case's median, with a line from the least to the largest value.
    Medians,
    /// Medians over the number in each case's name, see `curves`.
    Curves,
}

impl Shows {
    pub const fn caption(self) -> &'static str {
        match self {
            Self::Ratios => "Ratios, with the goals",
            Self::Medians => "Medians, with the spread of the rounds",
            Self::Curves => "Medians, both axes logarithmic",
        }
    }
}

const WIDTH: i32 = 900;
const LINE: i32 = 26;
/// Where bars begin, and where the longest may end.
const LEFT: i32 = 300;
const RIGHT: i32 = 820;
/// No ratio's bar is longer.
const LARGEST_RATIO: f64 = 25.0;
const GOOD: RGBColor = RGBColor(70, 140, 90);
const BAD: RGBColor = RGBColor(190, 110, 60);
const NEUTRAL: RGBColor = RGBColor(140, 150, 165);

struct Bar<'a> {
    name: &'a str,
    value: f64,
    color: RGBColor,
    /// A line across the bar, or along it.
    mark: [f64; 2],
}

pub fn draw(path: &Path, shows: Shows, rows: &[Row]) -> Result<()> {
    let bars = match shows {
        Shows::Ratios => ratios(rows),
        Shows::Medians => medians(rows),
        Shows::Curves => return curves::draw(path, rows),
    };
    let extents = bars.iter().flat_map(|bar| [bar.value, bar.mark[1]]);
    let mut largest = extents.fold(f64::MIN_POSITIVE, f64::max);
    if shows == Shows::Ratios {
        largest = largest.min(LARGEST_RATIO);
    }
    let at = |value: f64| LEFT + (value.min(largest) / largest * f64::from(RIGHT - LEFT)) as i32;

    let height = LINE * (bars.len() as i32 + 1);
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    let failed = |error| anyhow!("can't draw {}: {error}", path.display());
    area.fill(&WHITE).map_err(failed)?;
    for (bar, top) in bars.iter().zip((0..).map(|n| LINE / 2 + n * LINE)) {
        let corners = [(LEFT, top + 3), (at(bar.value), top + LINE - 5)];
        let shape = Rectangle::new(corners, bar.color.filled());
        area.draw(&shape).map_err(failed)?;
        let font = ("sans-serif", 14).into_font();
        let name = Text::new(bar.name, (8, top + 5), font.clone());
        area.draw(&name).map_err(failed)?;
        let right = at(bar.value.max(bar.mark[1])) + 6;
        let value = Text::new(number(bar.value), (right, top + 5), font);
        area.draw(&value).map_err(failed)?;
        let [from, to] = bar.mark.map(at);
        let line = match shows {
            Shows::Ratios => vec![(from, top), (to, top + LINE - 2)],
            _ => vec![(from, top + LINE / 2 - 1), (to, top + LINE / 2 - 1)],
        };
        let line = PathElement::new(line, BLACK.stroke_width(2));
        area.draw(&line).map_err(failed)?;
    }
    area.present().map_err(failed)
}

/// Of the rows that have a goal.
fn ratios(rows: &[Row]) -> Vec<Bar<'_>> {
    let with_goal = rows.iter().filter_map(|row| Some((row, row.goal?)));
    let bars = with_goal.map(|(row, goal)| Bar {
        name: &row.case,
        value: row.ratio,
        color: if row.met == Some(true) { GOOD } else { BAD },
        mark: [goal, goal],
    });
    bars.collect()
}

/// Of each case, of whose rows the first tells; xlb's, which have goals, stand
/// out.
fn medians(rows: &[Row]) -> Vec<Bar<'_>> {
    let mut bars: Vec<Bar<'_>> = Vec::new();
    for row in rows {
        if bars.iter().all(|bar| bar.name != row.case) {
            bars.push(Bar {
                name: &row.case,
                value: row.median,
                color: if row.goal.is_some() { GOOD } else { NEUTRAL },
                mark: [row.min, row.max],
            });
        }
    }
    bars
}
