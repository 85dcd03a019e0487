//! The agent's section of docs/benchmarks.md, and its diagrams.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::{
    prelude::{
        ChartBuilder, Circle, IntoDrawingArea as _, IntoLogRange as _, LineSeries, PathElement,
        RGBColor, SVGBackend, WHITE,
    },
    style::{BLACK, Color as _},
};

use super::Options;
use crate::{
    docs,
    report::{self, Row},
};

/// What memory is drawn over: the diagram's name, and what follows the number
/// in the case's name.
const AXES: [(&str, &str); 3] = [
    ("flows", " flows"),
    ("targets", " targets"),
    ("listeners", " listeners, a group of 15 targets each"),
];

/// Renews the section in a folder, with the rows and the diagrams beside it.
pub fn record(folder: &Path, options: &Options, rows: &[Row]) -> Result<()> {
    for (name, suffix) in AXES {
        let path = folder.join(format!("agent-{name}.svg"));
        let curves = ["maps", "agent"].map(|of| curve(rows, of, suffix));
        draw(&path, name, &curves)?;
    }
    docs::write(folder, "agent.json", &serde_json::to_string_pretty(rows)?)?;
    docs::replace_section(folder, "Agent", &section(options, rows)?)
}

fn section(options: &Options, rows: &[Row]) -> Result<String> {
    Ok(format!(
        "Maglev tables and changes of health by calls of the agent's library, the changes until \
         they are in the kernel's maps; the rest of the real process. Its targets are ports of \
         its own host with a server of the benchmark behind them, whose CPU time doesn't count; \
         but on a loopback whoever sends a packet also pays for its receipt. CPU time is that of \
         /proc/PID/stat in each second, resident memory that of smaps_rollup, the maps' memory \
         the `memlock` of their descriptors, with flows that were really entered. The failover \
         time is from the failing answer at the threshold, by the server's clock, to the last \
         connection request that the loaded program sends to the target; one is made every 0.1 \
         ms. Where there is a limit, the ratio is the median's to it.\n\n\
         {}; {} rounds, checks for {} seconds, starts and memory once to three times.\n\n\
         {}\n\
         ![Memory over flows](agent-flows.svg)\n\n\
         ![Memory over targets](agent-targets.svg)\n\n\
         ![Memory over listeners](agent-listeners.svg)\n\n\
         `cargo xtask bench agent` repeats it, `--only PART` a part of it, and `--json FILE` \
         gives the rows to programs.\n",
        docs::machine()?,
        options.rounds,
        options.seconds,
        report::table_with_units(rows),
    ))
}

/// Megabytes by number.
fn curve(rows: &[Row], of: &str, suffix: &str) -> Vec<(f64, f64)> {
    let point = |row: &Row| {
        let case = row.case.strip_prefix(of)?.strip_prefix(": ")?;
        let number = case.strip_suffix(suffix)?.parse().ok()?;
        Some((number, row.median))
    };
    rows.iter().filter_map(point).collect()
}

const COLORS: [(&str, RGBColor); 2] = [
    ("maps", RGBColor(60, 110, 180)),
    ("agent", RGBColor(190, 110, 60)),
];

/// Both axes logarithmic.
fn draw(path: &Path, what: &str, curves: &[Vec<(f64, f64)>; 2]) -> Result<()> {
    let all = || curves.iter().flatten();
    let bound = |of: fn(&(f64, f64)) -> f64, pick: fn(f64, f64) -> f64| {
        all().map(of).reduce(pick).context("nothing to draw")
    };
    let x = bound(|it| it.0, f64::min)?..bound(|it| it.0, f64::max)? * 1.2;
    let y = bound(|it| it.1, f64::min)? / 2.0..bound(|it| it.1, f64::max)? * 2.0;
    let area = SVGBackend::new(path, (700, 360)).into_drawing_area();
    let failed = |error: String| anyhow!("can't draw {}: {error}", path.display());
    let paint = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(x.clone().log_scale(), y.clone().log_scale())?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(what).y_desc("MB").draw()?;
        for ((name, color), points) in COLORS.iter().zip(curves) {
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
    paint().map_err(|error| failed(error.to_string()))
}
