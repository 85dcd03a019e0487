//! docs/benchmarks.md: a section for each benchmark, from a file of figures
//! that the benchmark has written, and diagrams.

mod curves;
mod diagram;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use diagram::Shows;

use crate::report::{self, Row};

/// The benchmarks, in the order of their sections. Each has its figures in
/// `<name>.json`; a section whose file isn't there is left out.
const SECTIONS: [&str; 3] = ["dataplane", "network", "agent"];

/// What a benchmark found, and all that the document says about it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Section {
    title: String,
    /// What is measured and how, in Markdown.
    about: String,
    /// The machine and what was chosen for the run.
    how: String,
    tables: Vec<Table>,
    /// How to repeat it, in Markdown.
    again: String,
}

/// Rows of one unit, with a diagram.
#[derive(Debug, Serialize, Deserialize)]
pub struct Table {
    /// Empty if it is the only one.
    pub title: String,
    pub about: String,
    pub shows: Shows,
    pub rows: Vec<Row>,
}

impl Section {
    /// Of a run on this machine; `how` says what was chosen for it.
    pub fn new(
        title: &str,
        about: &str,
        how: &str,
        again: &str,
        tables: Vec<Table>,
    ) -> Result<Self> {
        Ok(Self {
            title: title.into(),
            about: about.into(),
            how: format!("{}; {how}.", machine()?),
            tables,
            again: again.into(),
        })
    }
}

/// Renews a benchmark's section of the document in a folder, with its figures
/// and diagrams; the others' stay.
pub fn record(folder: &Path, name: &str, section: &Section) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    report::write(&folder.join(format!("{name}.json")), section)?;
    for table in &section.tables {
        diagram::draw(&folder.join(file(name, table)), table.shows, &table.rows)?;
    }
    let path = folder.join("benchmarks.md");
    fs::write(&path, document(folder)?).with_context(|| format!("can't write {}", path.display()))
}

/// All sections, from the figures in the folder.
fn document(folder: &Path) -> Result<String> {
    let mut text = String::from(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench NAME --record docs`, each section by its own; not to be \
         edited.\n",
    );
    for name in SECTIONS {
        let path = folder.join(format!("{name}.json"));
        if !path.exists() {
            continue;
        }
        let unreadable = || {
            format!(
                "{} can't be used: `cargo xtask bench {name} --record` writes it anew",
                path.display()
            )
        };
        let json = fs::read_to_string(&path).with_context(unreadable)?;
        let section = serde_json::from_str(&json).with_context(unreadable)?;
        text += &markdown(name, &section);
    }
    Ok(text)
}

fn markdown(name: &str, section: &Section) -> String {
    let Section {
        title,
        about,
        how,
        tables,
        again,
    } = section;
    let mut text = format!("\n## {title}\n\n{about}\n\n{how}\n");
    for table in tables {
        if !table.title.is_empty() {
            text += &format!("\n### {}\n", table.title);
        }
        if !table.about.is_empty() {
            text += &format!("\n{}\n", table.about);
        }
        let (rows, file) = (report::table(&table.rows), file(name, table));
        text += &format!("\n{rows}\n![{}]({file})\n", table.shows.caption());
    }
    text + &format!("\n{again}\n")
}

/// A diagram's name, as a URL may have it.
fn file(name: &str, table: &Table) -> String {
    let words = table.title.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    let words = words.map(|word| format!("-{}", word.to_ascii_lowercase()));
    format!("{name}{}.svg", words.collect::<String>())
}

/// The processor and the kernel.
fn machine() -> Result<String> {
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

#[cfg(test)]
mod tests {
    use super::{Section, Shows, Table, document, record};

    fn section(title: &str, table: &str) -> Section {
        let table = Table {
            title: table.into(),
            about: String::new(),
            shows: Shows::Ratios,
            rows: Vec::new(),
        };
        Section::new(title, "About.", "3 rounds", "Again.", vec![table]).unwrap()
    }

    #[test]
    fn sections_stay_when_another_is_renewed() {
        let folder = tempfile::tempdir().unwrap();
        record(
            folder.path(),
            "network",
            &section("Network", "Two µs, more"),
        )
        .unwrap();
        record(folder.path(), "dataplane", &section("Data path", "")).unwrap();
        record(folder.path(), "network", &section("Net", "Two µs, more")).unwrap();
        let text = document(folder.path()).unwrap();
        let headings: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
        let expected = ["# Benchmarks", "## Data path", "## Net", "### Two µs, more"];
        assert_eq!(headings, expected);
        for file in ["dataplane.svg", "network-two-s-more.svg", "benchmarks.md"] {
            assert!(folder.path().join(file).exists(), "{file}");
        }
    }

    #[test]
    fn a_file_of_another_shape_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("network.json"), "[]").unwrap();
        let error = format!("{:#}", document(folder.path()).unwrap_err());
        assert!(
            error.contains("network.json") && error.contains("bench network"),
            "{error}"
        );
    }
}
