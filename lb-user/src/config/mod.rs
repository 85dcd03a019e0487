//! Configuration: raw TOML or flags → validated [`Config`].
//!
//! Every error is collected, with its place in the file, before anything is
//! given up; only what has none becomes a [`Config`].

mod diagnostic;
mod flags;
mod model;
mod reader;
mod validate;
mod values;

use std::{fmt, fs, io, path::Path};

pub use diagnostic::{Diagnostic, Diagnostics};
pub use flags::{Flags, FlagsError, from_flags};
pub use model::*;

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
    #[error("{file}: too large for a configuration: {bytes} bytes, at most {MAX_BYTES}\n")]
    TooLarge { file: String, bytes: u64 },
    #[error("{file}: byte {at} is not UTF-8 text, as TOML must be\n")]
    NotText { file: String, at: usize },
    #[error("{0}")]
    Invalid(Diagnostics),
}

/// Reads and validates a file.
///
/// # Errors
/// If it can't be read, or with everything that is wrong in it.
pub fn load(path: &Path) -> Result<Parsed, Error> {
    let file = path.display().to_string();
    let read = |source| Error::Read {
        file: path.display().to_string(),
        source,
    };
    let bytes = fs::metadata(path).map_err(read)?.len();
    if bytes > MAX_BYTES {
        return Err(Error::TooLarge { file, bytes });
    }
    let bytes = fs::read(path).map_err(read)?;
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, &file).map_err(Error::Invalid),
        Err(error) => Err(Error::NotText {
            file,
            at: error.utf8_error().valid_up_to(),
        }),
    }
}

/// Validates the text of a configuration; `file` is its name in messages.
///
/// # Errors
/// With everything that is wrong in it.
pub fn parse(text: &str, file: &str) -> Result<Parsed, Diagnostics> {
    let (config, diagnostics) = validate::validate(text);
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
