//! Configuration: raw TOML or flags → validated [`Config`].
//!
//! Every error is collected, with its place in the file, before anything is
//! given up; only what has none becomes a [`Config`].

mod admin;
mod diagnostic;
mod file;
mod flags;
mod model;
mod reader;
mod tls;
mod validate;
mod values;

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::Path,
};

pub use admin::{Admin, AdminError};
pub use diagnostic::{Diagnostic, Diagnostics, Finding, Severity};
pub use file::{File, Overrides};
pub use flags::{Flags, FlagsError, from_flags};
pub use model::*;
pub use tls::{Authorities, TlsProbe};
pub(crate) use values::{prefix, socket_address};

/// A larger file is none that a person or a generator meant.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A configuration that can be applied, and what is odd about it.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub config: Config,
    /// Empty if there is nothing to warn of.
    pub warnings: Diagnostics,
}

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{file}: could not be read: {source}\n")]
    Read {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("{file}: too large for a configuration, which has at most {MAX_BYTES} bytes\n")]
    TooLarge { file: String },
    #[error("{file}: byte {at} is not UTF-8 text, as TOML must be\n")]
    NotText { file: String, at: usize },
    #[error("{0}")]
    Invalid(Diagnostics),
}

impl Error {
    /// What is wrong, each fault in a line of its own with its place: for a
    /// log.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Invalid(diagnostics) => diagnostics.lines(),
            other => vec![other.to_string().trim_end().to_owned()],
        }
    }
}

/// Reads and validates a file.
///
/// # Errors
/// If it can't be read, or with everything that is wrong in it.
pub fn load(path: &Path) -> Result<Parsed, Error> {
    let text = read_text(path)?;
    parse(&text, &path.display().to_string()).map_err(Error::Invalid)
}

fn read_text(path: &Path) -> Result<String, Error> {
    let file = path.display().to_string();
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(Error::Read { file, source }),
    };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge { file });
    }
    String::from_utf8(bytes).map_err(|error| Error::NotText {
        file,
        at: error.utf8_error().valid_up_to(),
    })
}

/// Reads no more than it takes to see that it is too much: a device or a pipe
/// doesn't tell its size, and may have no end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Validates the text of a configuration; `file` is its name in messages, and
/// paths in it begin at the file's folder.
///
/// # Errors
/// With everything that is wrong in it.
pub fn parse(text: &str, file: &str) -> Result<Parsed, Diagnostics> {
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    let (config, diagnostics) = validate::validate(text, folder);
    let diagnostics = Diagnostics::new(file, text, diagnostics);
    match config {
        Some(config) if !diagnostics.has_errors() => Ok(Parsed {
            config,
            warnings: diagnostics,
        }),
        _ => Err(diagnostics),
    }
}

/// A list of alternatives in a sentence: `a`, `b` or `c`.
struct Alternatives<'a>(&'a [&'a str]);

impl fmt::Display for Alternatives<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            match index {
                0 => {}
                _ if index + 1 == self.0.len() => f.write_str(" or ")?,
                _ => f.write_str(", ")?,
            }
            write!(f, "`{word}`")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
