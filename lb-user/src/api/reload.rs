//! The answer to `POST /reload`.

use hyper::StatusCode;

use super::INVALID;
use crate::config;

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
