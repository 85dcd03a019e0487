//! The answer to `POST /api/reload`.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::INVALID;
use crate::config::{self, Diagnostics, Finding};

/// What became of a configuration that was read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether it is in force now; else nothing has changed.
    pub applied: bool,
    /// What is odd about it, or wrong with it.
    pub findings: Vec<Finding>,
    /// The same for people; or why the file could not be read.
    pub text: String,
}

impl Reloaded {
    pub(super) fn applied(warnings: &Diagnostics) -> Self {
        Self {
            applied: true,
            findings: warnings.findings(),
            text: warnings.to_string(),
        }
    }

    pub(super) fn refused(error: &config::Error) -> Self {
        Self {
            applied: false,
            findings: match error {
                config::Error::Invalid(errors) => errors.findings(),
                _ => Vec::new(),
            },
            text: error.to_string(),
        }
    }
}

/// Why a configuration wasn't read again, or not applied in full.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(
        "xlb was started with flags, so there is no file to read again: restart it with others"
    )]
    NoFile,
    #[error("{0}")]
    Config(#[from] config::Error),
    #[error("nothing has changed, for the host isn't ready: {0:#}")]
    Host(anyhow::Error),
    #[error(
        "the maps could not be written in full, which is tried again at the next change: {0:#}"
    )]
    Maps(anyhow::Error),
}

impl ReloadError {
    /// What the answer begins with; only [`INVALID`] is the file's
    /// fault.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Config(_) => INVALID,
            Self::NoFile => StatusCode::CONFLICT,
            Self::Host(_) | Self::Maps(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
