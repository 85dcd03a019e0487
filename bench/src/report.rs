//! What a benchmark found, as rows for people and for programs.

use serde::Serialize;

/// A case that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub case: String,
    /// Of all rounds, in `unit`.
    pub min: f64,
    pub median: f64,
    pub max: f64,
    pub unit: &'static str,
    /// What it is compared with, by name.
    pub floor: String,
    /// Its minimum by the floor's.
    pub ratio: f64,
    /// The largest ratio that is aimed at.
    pub goal: Option<f64>,
    pub met: Option<bool>,
}

impl Row {
    /// What was measured against an absolute limit, which stands for the floor:
    /// the median's ratio to it may be up to 1. At least one value.
    pub fn limited(
        case: impl Into<String>,
        unit: &'static str,
        values: &[f64],
        limit: f64,
    ) -> Self {
        let ratio = median(values) / limit;
        Self {
            floor: format!("{limit} {unit}"),
            ratio,
            goal: Some(1.0),
            met: Some(ratio <= 1.0),
            ..Self::found(case, unit, values)
        }
    }

    /// What nobody has set a goal for. At least one value.
    pub fn found(case: impl Into<String>, unit: &'static str, values: &[f64]) -> Self {
        let case = case.into();
        Self {
            min: minimum(values),
            median: median(values),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            unit,
            floor: case.clone(),
            ratio: 1.0,
            goal: None,
            met: None,
            case,
        }
    }
}

/// The rows as a table in Markdown, with a unit for each.
pub fn table_with_units(rows: &[Row]) -> String {
    let mut text = String::from(
        "| case | unit | min | median | max | limit | ratio | met |\n\
         |---|---|---:|---:|---:|---:|---:|---|\n",
    );
    for row in rows {
        let (limit, ratio) = match row.goal {
            Some(_) => (row.floor.as_str(), format!("{:.2}", row.ratio)),
            None => ("", String::new()),
        };
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        text += &format!(
            "| {} | {} | {:.2} | {:.2} | {:.2} | {limit} | {ratio} | {met} |\n",
            row.case, row.unit, row.min, row.median, row.max
        );
    }
    text
}

/// The rows as a table in Markdown, all in nanoseconds.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| case | min ns | median ns | compared with | ratio | goal | met |\n\
         |---|---:|---:|---|---:|---:|---|\n",
    );
    for row in rows {
        let goal = row.goal.map_or(String::new(), |goal| format!("≤ {goal}"));
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        text += &format!(
            "| {} | {:.1} | {:.1} | {} | {:.2} | {goal} | {met} |\n",
            row.case, row.min, row.median, row.floor, row.ratio
        );
    }
    text
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

#[cfg(test)]
mod tests {
    use super::{Row, median, minimum};

    #[test]
    fn a_limit_is_met_up_to_itself() {
        let row = |value: f64| Row::limited("x", "ms", &[9.0, value, 0.5], 2.0);
        assert_eq!((row(2.0).met, row(2.0).ratio), (Some(true), 1.0));
        assert_eq!(row(2.1).met, Some(false));
        assert_eq!((row(2.0).min, row(2.0).max), (0.5, 9.0));
    }

    #[test]
    fn of_even_and_odd_numbers_of_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(minimum(&[3.0, 1.0, 2.0]), 1.0);
    }
}
