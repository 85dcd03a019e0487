//! What a benchmark found, as rows for people and for programs.

use serde::Serialize;

/// A case that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub case: String,
    /// Of all rounds, in nanoseconds.
    pub min: f64,
    pub median: f64,
    /// What it is compared with, by name.
    pub floor: String,
    /// Its minimum by the floor's.
    pub ratio: f64,
    /// The largest ratio that is aimed at.
    pub goal: Option<f64>,
    pub met: Option<bool>,
}

/// The rows as a table in Markdown.
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
    use super::{median, minimum};

    #[test]
    fn of_even_and_odd_numbers_of_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(minimum(&[3.0, 1.0, 2.0]), 1.0);
    }
}
