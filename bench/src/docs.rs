//! Sections of docs/benchmarks.md, and the data path's diagram.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result, anyhow};
use plotters::{
    prelude::{IntoDrawingArea as _, PathElement, RGBColor, Rectangle, SVGBackend, Text, WHITE},
    style::{BLACK, Color as _, IntoFont as _},
};

use crate::report::{self, Row};

const PAGE: &str = "benchmarks.md";
const HEADING: &str = "# Benchmarks\n\n\
    Written by `cargo xtask bench … --record docs`, a section by each; not to be edited.\n";

/// Renews the data path's section. `how` says how it was measured.
pub fn record(folder: &Path, how: &str, rows: &[Row]) -> Result<()> {
    write(
        folder,
        "dataplane.json",
        &serde_json::to_string_pretty(rows)?,
    )?;
    draw(&folder.join("dataplane.svg"), rows)?;
    replace_section(folder, "Data path", &section(how, rows)?)
}

pub fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
}

/// Puts a section's text in the place of the one with its title in the page, or
/// at the end if there is none.
pub fn replace_section(folder: &Path, title: &str, text: &str) -> Result<()> {
    let path = folder.join(PAGE);
    let page = match fs::read_to_string(&path) {
        Ok(page) => page,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    write(folder, PAGE, &with_section(&page, title, text))
}

fn with_section(page: &str, title: &str, text: &str) -> String {
    let mut sections: Vec<(&str, &str)> = page
        .split("\n## ")
        .skip(1)
        .filter_map(|section| section.split_once("\n\n"))
        .map(|(title, text)| (title, text.trim_end()))
        .collect();
    let text = text.trim_end();
    match sections.iter_mut().find(|(other, _)| *other == title) {
        Some(section) => section.1 = text,
        None => sections.push((title, text)),
    }
    let sections = sections.iter();
    let sections = sections.map(|(title, text)| format!("\n## {title}\n\n{text}\n"));
    HEADING.to_owned() + &sections.collect::<String>()
}

fn section(how: &str, rows: &[Row]) -> Result<String> {
    let table = report::table(rows);
    let machine = machine()?;
    Ok(format!(
        "Nanoseconds a packet, by `BPF_PROG_TEST_RUN` in a harness that restores the packet \
         before each repeat and tail-calls the unmodified program. A floor is a program in the \
         same harness that does the least that anything with such an output must do. All cases \
         run in turns, so that what else the machine does falls on all of them; the ratio is \
         that of the minima. Each measurement checks the last packet's action and length and the \
         program's own counters, which must say that every packet took the way that is meant.\n\n\
         {machine}; {how}.\n\n\
         {table}\n\
         ![Ratios to the floors](dataplane.svg)\n\n\
         `cargo xtask bench dataplane` repeats it, `--json FILE` gives the rows to programs, and \
         `cargo xtask bench --compare BASE` measures two commits in turns.\n"
    ))
}

/// The processor and the kernel.
pub fn machine() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown processor", |(_, model)| model);
    let count = cpus.matches("processor\t").count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "{model}, {count} CPUs, Linux {}",
        kernel.trim_end()
    ))
}

const WIDTH: i32 = 900;
const LINE: i32 = 26;
/// Where bars begin, and pixels for each unit of the ratio.
const LEFT: i32 = 300;
const UNIT: f64 = 22.0;
/// No bar is longer.
const LONGEST: f64 = 25.0;
const WITHIN: RGBColor = RGBColor(70, 140, 90);
const BEYOND: RGBColor = RGBColor(190, 110, 60);

/// A bar for each case, and a line where its goal is.
fn draw(path: &Path, rows: &[Row]) -> Result<()> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.goal.is_some()).collect();
    let height = LINE * (rows.len() as i32 + 1);
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    let failed = |error| anyhow!("can't draw {}: {error}", path.display());
    area.fill(&WHITE).map_err(failed)?;
    let at = |ratio: f64| LEFT + (ratio.min(LONGEST) * UNIT) as i32;
    for (row, top) in rows.iter().zip((0..).map(|n| LINE / 2 + n * LINE)) {
        let color = if row.met == Some(true) {
            WITHIN
        } else {
            BEYOND
        };
        let corners = [(LEFT, top + 3), (at(row.ratio), top + LINE - 5)];
        area.draw(&Rectangle::new(corners, color.filled()))
            .map_err(failed)?;
        let font = ("sans-serif", 14).into_font();
        let name = Text::new(row.case.clone(), (8, top + 5), font.clone());
        area.draw(&name).map_err(failed)?;
        let value = Text::new(
            format!("{:.2}", row.ratio),
            (at(row.ratio) + 6, top + 5),
            font,
        );
        area.draw(&value).map_err(failed)?;
        if let Some(goal) = row.goal {
            let line = vec![(at(goal), top), (at(goal), top + LINE - 2)];
            area.draw(&PathElement::new(line, BLACK.stroke_width(2)))
                .map_err(failed)?;
        }
    }
    area.present().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::{HEADING, with_section};

    #[test]
    fn a_section_takes_its_own_place_only() {
        let page = with_section("", "One", "first\n\nmore\n");
        let page = with_section(&page, "Two", "second");
        assert_eq!(
            page,
            format!("{HEADING}\n## One\n\nfirst\n\nmore\n\n## Two\n\nsecond\n")
        );
        let page = with_section(&page, "One", "again");
        assert_eq!(
            page,
            format!("{HEADING}\n## One\n\nagain\n\n## Two\n\nsecond\n")
        );
    }
}
