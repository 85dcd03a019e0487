//! Errors and warnings with their place in the text.

use std::{fmt, ops::Range};

use serde::{Deserialize, Serialize};

/// More than this many are not worth reading.
const SHOWN: usize = 50;
/// Characters of a source line that are shown.
const LINE_SHOWN: usize = 160;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing to say about a place in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Bytes of the text.
    pub span: Range<usize>,
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    pub(in crate::config) fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span,
            message: message.into(),
            help: None,
        }
    }

    pub(in crate::config) fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(span, message)
        }
    }

    pub(in crate::config) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// All that there is to say about a text, in its order. Displayed as a compiler
/// does, each with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    /// Those that are shown.
    list: Vec<Located>,
    /// How many there are besides.
    more: usize,
    has_errors: bool,
    file: String,
}

/// A diagnostic for machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub severity: Severity,
    /// Both from 1; the column in characters.
    pub line: usize,
    pub column: usize,
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// A diagnostic that doesn't need the text any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub diagnostic: Diagnostic,
    /// Both from 1; the column in characters.
    pub line: usize,
    pub column: usize,
    source: String,
    marks: usize,
}

impl Diagnostics {
    pub(in crate::config) fn new(file: &str, text: &str, mut list: Vec<Diagnostic>) -> Self {
        let is_error = |it: &Diagnostic| it.severity == Severity::Error;
        let has_errors = list.iter().any(is_error);
        list.sort_by_key(|diagnostic| diagnostic.span.start);
        let more = list.len().saturating_sub(SHOWN);
        // Noise has hundreds of thousands, and to find a place takes a look at
        // all of the text before it.
        list.truncate(SHOWN);
        let list = list
            .into_iter()
            .map(|diagnostic| locate(text, diagnostic))
            .collect();
        Self {
            list,
            more,
            has_errors,
            file: file.to_owned(),
        }
    }

    /// Every one of them.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let finding = |located: &Located| Finding {
            severity: located.diagnostic.severity,
            line: located.line,
            column: located.column,
            message: located.diagnostic.message.clone(),
            help: located.diagnostic.help.clone(),
        };
        self.list.iter().map(finding).collect()
    }

    /// Each without its source, in one line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |located: &Located| {
            let help = located.diagnostic.help.as_deref();
            let help = help.map_or(String::new(), |help| format!(" ({help})"));
            located.head(&self.file) + &help
        };
        self.list.iter().map(line).collect()
    }

    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.has_errors
    }

    pub(in crate::config) fn iter(&self) -> impl Iterator<Item = &Located> {
        self.list.iter()
    }
}

impl Located {
    /// Its place and its message.
    fn head(&self, file: &str) -> String {
        let severity = match self.diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (line, column, message) = (self.line, self.column, &self.diagnostic.message);
        format!("{file}:{line}:{column}: {severity}: {message}")
    }
}

fn locate(text: &str, diagnostic: Diagnostic) -> Located {
    let mut start = diagnostic.span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let source = text[line_start..].lines().next().unwrap_or("");
    let before = text[line_start..start].chars().count();
    let room = source.chars().count().saturating_sub(before);
    let span = text
        .get(start..diagnostic.span.end.min(text.len()))
        .unwrap_or("");
    Located {
        line: text[..start].matches('\n').count() + 1,
        column: before + 1,
        source: source.chars().take(LINE_SHOWN).collect(),
        marks: span.chars().count().clamp(1, room.max(1)),
        diagnostic,
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for located in &self.list {
            writeln!(f, "{}", located.head(&self.file))?;
            if located.column <= LINE_SHOWN {
                let (indent, marks) = (located.column - 1, located.marks.min(LINE_SHOWN));
                writeln!(f, "    {}", located.source)?;
                writeln!(f, "    {:indent$}{:^<marks$}", "", "")?;
            }
            if let Some(help) = &located.diagnostic.help {
                writeln!(f, "    help: {help}")?;
            }
        }
        if self.more > 0 {
            writeln!(f, "{}: and {} more", self.file, self.more)?;
        }
        Ok(())
    }
}
