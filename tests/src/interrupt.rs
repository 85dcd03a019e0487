//! Ctrl-C and SIGTERM as errors, so that what a run made is taken back by the
//! same drops as at its normal end.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP make [`check`] fail instead of
/// ending the process.
///
/// # Errors
/// If it was called before.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .context("the handler for Ctrl-C can't be installed")
}

/// # Errors
/// If the process was asked to end.
pub fn check() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
