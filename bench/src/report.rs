//! What a benchmark found, as rows for people and for programs.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// A case that was measured, compared with another. A case may have several.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub case: String,
    pub unit: String,
    pub better: Better,
    /// Of all rounds.
    pub min: f64,
    pub median: f64,
    pub max: f64,
    /// What it is compared with, by name.
    pub floor: String,
    /// To that: of the minima, or where `ratios` is there the median of each
    /// round's.
    pub ratio: f64,
    /// The least and the largest of a round.
    pub ratios: Option<[f64; 2]>,
    /// The ratio that is aimed at, or a better one.
    pub goal: Option<f64>,
    pub met: Option<bool>,
}

impl Row {
    /// What was measured against an absolute limit, which stands for the floor:
    /// the median's ratio to it may be up to 1. At least one value.
    pub fn limited(case: impl Into<String>, unit: &str, values: &[f64], limit: f64) -> Self {
        let ratio = median(values) / limit;
        Self {
            floor: format!("{limit} {unit}"),
            ratio,
            goal: Some(1.0),
            met: Some(Better::Lower.meets(ratio, 1.0)),
            ..Self::found(case, unit, values)
        }
    }

    /// What nobody has set a goal for. At least one value.
    pub fn found(case: impl Into<String>, unit: &str, values: &[f64]) -> Self {
        let case = case.into();
        Self {
            unit: unit.to_owned(),
            better: Better::Lower,
            min: minimum(values),
            median: median(values),
            max: maximum(values),
            floor: case.clone(),
            ratio: 1.0,
            ratios: None,
            goal: None,
            met: None,
            case,
        }
    }
}

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

impl Better {
    pub fn meets(self, ratio: f64, goal: f64) -> bool {
        match self {
            Self::Lower => ratio <= goal,
            Self::Higher => ratio >= goal,
        }
    }

    const fn sign(self) -> char {
        match self {
            Self::Lower => '≤',
            Self::Higher => '≥',
        }
    }
}

/// The rows, all of one unit, as a table in Markdown.
pub fn table(rows: &[Row]) -> String {
    let unit = rows.first().map_or("", |row| row.unit.as_str());
    let mut text = format!(
        "| case | min {unit} | median {unit} | max {unit} | compared with | ratio | goal | met |\n\
         |---|---:|---:|---:|---|---:|---:|---|\n"
    );
    for row in rows {
        let ratio = match row.ratios {
            Some([least, largest]) => format!("{:.2} ({least:.2}–{largest:.2})", row.ratio),
            None => format!("{:.2}", row.ratio),
        };
        let goal = row.goal.map(|goal| format!("{} {goal}", row.better.sign()));
        let goal = goal.unwrap_or_default();
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let [min, median, max] = [row.min, row.median, row.max].map(number);
        let Row { case, floor, .. } = row;
        text += &format!(
            "| {case} | {min} | {median} | {max} | {floor} | {ratio} | {goal} | {met} |\n"
        );
    }
    text
}

/// Writes rows, or what has some, to a file as JSON.
pub fn write(path: &Path, rows: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(rows)? + "\n";
    fs::write(path, json).with_context(|| format!("can't write {}", path.display()))
}

/// With as many digits as tell something.
pub fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => format!("{value:.0}"),
        small if small < 10.0 => format!("{value:.2}"),
        _ => format!("{value:.1}"),
    }
}

/// Of at least one value.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// Of at least one value.
pub fn minimum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Of at least one value.
pub fn maximum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::{Better, Row, maximum, median, minimum, number, table};

    #[test]
    fn of_even_and_odd_numbers_of_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(minimum(&[3.0, 1.0, 2.0]), 1.0);
        assert_eq!(maximum(&[3.0, 1.0, 2.0]), 3.0);
    }

    #[test]
    fn a_limit_is_met_up_to_itself() {
        let row = |value: f64| Row::limited("x", "ms", &[9.0, value, 0.5], 2.0);
        assert_eq!((row(2.0).met, row(2.0).ratio), (Some(true), 1.0));
        assert_eq!(row(2.1).met, Some(false));
        assert_eq!((row(2.0).min, row(2.0).max), (0.5, 9.0));
    }

    #[test]
    fn digits_that_tell_something() {
        assert_eq!([2.345, 23.45, 2345.6].map(number), ["2.35", "23.4", "2346"]);
    }

    #[test]
    fn goals_in_both_directions() {
        assert!(Better::Higher.meets(0.9, 0.8) && !Better::Higher.meets(0.7, 0.8));
        assert!(Better::Lower.meets(0.8, 0.8) && !Better::Lower.meets(0.9, 0.8));
    }

    #[test]
    fn a_table() {
        let row = Row {
            case: "xlb".into(),
            unit: "k/s".into(),
            better: Better::Higher,
            min: 1.0,
            median: 20.0,
            max: 3000.0,
            floor: "direct".into(),
            ratio: 0.95,
            ratios: Some([0.9, 1.0]),
            goal: Some(0.9),
            met: Some(true),
        };
        let expected = "| case | min k/s | median k/s | max k/s | compared with | ratio | goal | met |\n\
                        |---|---:|---:|---:|---|---:|---:|---|\n\
                        | xlb | 1.00 | 20.0 | 3000 | direct | 0.95 (0.90–1.00) | ≥ 0.9 | yes |\n";
        assert_eq!(table(&[row]), expected);
    }
}
