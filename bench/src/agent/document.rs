//! The agent's section of docs/benchmarks.md.

use std::path::Path;

use anyhow::Result;

use super::Options;
use crate::{
    docs::{self, Section, Shows, Table},
    report::Row,
};

const ABOUT: &str = "Maglev tables and changes of health by calls of the agent's library, the \
    changes until they are in the kernel's maps; the rest of the real process. Its targets are \
    ports of its own host with a server of the benchmark behind them, whose CPU time doesn't \
    count; but on a loopback whoever sends a packet also pays for its receipt. CPU time is that of \
    /proc/PID/stat in each second, resident memory that of smaps_rollup, the maps' memory the \
    `memlock` of their descriptors, with flows that were really entered. The failover time is from \
    the failing answer at the threshold, by the server's clock, to the last connection request \
    that the loaded program sends to the target; one is made every 0.1 ms. Where there is a limit, \
    the ratio is the median's to it.";
const AGAIN: &str = "`cargo xtask bench agent` repeats it, `--only PART` a part of it, and \
    `--json FILE` gives the rows to programs.";

/// What memory is drawn over: the table's title, and what follows the number
/// in a case's name.
const AXES: [(&str, &str); 3] = [
    ("Memory over flows", " flows"),
    ("Memory over targets", " targets"),
    (
        "Memory over listeners",
        " listeners, a group of 15 targets each",
    ),
];

/// Renews the section in a folder, with the rows and the diagrams beside it.
pub fn record(folder: &Path, options: &Options, rows: &[Row]) -> Result<()> {
    let how = format!(
        "{} rounds, checks for {} seconds, starts and memory once to three times",
        options.rounds, options.seconds
    );
    let section = Section::new("Agent", ABOUT, &how, AGAIN, tables(rows))?;
    docs::record(folder, "agent", &section)
}

/// A table for each unit, and one for each thing that memory grows with.
pub fn tables(rows: &[Row]) -> Vec<Table> {
    let axis_of = |row: &Row| AXES.iter().find(|(_, suffix)| row.case.ends_with(suffix));
    let mut tables: Vec<Table> = Vec::new();
    for row in rows {
        let (title, shows) = match axis_of(row) {
            Some((title, _)) => ((*title).to_owned(), Shows::Curves),
            None => (format!("In {}", row.unit), Shows::Ratios),
        };
        match tables.iter_mut().find(|table| table.title == title) {
            Some(table) => table.rows.push(row.clone()),
            None => tables.push(Table {
                title,
                about: String::new(),
                shows,
                rows: vec![row.clone()],
            }),
        }
    }
    tables
}
