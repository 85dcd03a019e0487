//! Curves, as SVG: cases named `curve: number what` have their medians over the
//! numbers.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, anyhow};
use plotters::{
    prelude::{
        ChartBuilder, Circle, IntoDrawingArea as _, IntoLogRange as _, LineSeries, PathElement,
        RGBColor, SVGBackend, WHITE,
    },
    style::{BLACK, Color as _},
};

use crate::report::Row;

const COLORS: [RGBColor; 3] = [
    RGBColor(60, 110, 180),
    RGBColor(190, 110, 60),
    RGBColor(70, 140, 90),
];

type Points = Vec<(f64, f64)>;

pub fn draw(path: &Path, rows: &[Row]) -> Result<()> {
    let (what, curves) = curves(rows);
    let unit = rows.first().map_or("", |row| row.unit.as_str());
    let bound = |of: fn(&(f64, f64)) -> f64, pick: fn(f64, f64) -> f64| {
        let all = curves.values().flatten();
        all.map(of).reduce(pick).context("nothing to draw")
    };
    let x = bound(|it| it.0, f64::min)?..bound(|it| it.0, f64::max)? * 1.2;
    let y = bound(|it| it.1, f64::min)? / 2.0..bound(|it| it.1, f64::max)? * 2.0;
    let area = SVGBackend::new(path, (700, 360)).into_drawing_area();
    let paint = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(x.clone().log_scale(), y.clone().log_scale())?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(what).y_desc(unit).draw()?;
        for ((name, points), color) in curves.iter().zip(COLORS.iter().cycle()) {
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
            let legend = |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2));
            chart.draw_series(line)?.label(*name).legend(legend);
            let dots = points.iter().map(|&at| Circle::new(at, 3, color.filled()));
            chart.draw_series(dots)?;
        }
        let mut labels = chart.configure_series_labels();
        labels.border_style(BLACK).background_style(WHITE).draw()?;
        area.present()?;
        Ok(())
    };
    paint().map_err(|error| anyhow!("can't draw {}: {error}", path.display()))
}

/// What the numbers are of, and the curves by name.
fn curves(rows: &[Row]) -> (&str, BTreeMap<&str, Points>) {
    let mut what = "";
    let mut curves: BTreeMap<&str, Points> = BTreeMap::new();
    for row in rows {
        let parts = row.case.split_once(": ").and_then(|(name, rest)| {
            let (number, what) = rest.split_once(' ')?;
            Some((name, number.parse().ok()?, what))
        });
        if let Some((name, number, of)) = parts {
            what = of;
            curves.entry(name).or_default().push((number, row.median));
        }
    }
    (what, curves)
}

#[cfg(test)]
mod tests {
    use super::curves;
    use crate::report::Row;

    #[test]
    fn of_what_the_names_say() {
        let rows = [
            "maps: 10 flows",
            "agent: 10 flows",
            "maps: 20 flows",
            "other",
        ]
        .map(|case| Row::found(case, "MB", &[1.0]));
        let (what, curves) = curves(&rows);
        assert_eq!(what, "flows");
        assert_eq!(curves["maps"], [(10.0, 1.0), (20.0, 1.0)]);
        assert_eq!(curves["agent"], [(10.0, 1.0)]);
    }
}
