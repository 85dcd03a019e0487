//! Waiting by polling with a deadline.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::interrupt;

const STEP: Duration = Duration::from_millis(10);

/// Polls until `poll` gives something.
///
/// # Errors
/// If it doesn't within `timeout`, or `poll` fails, or on an interrupt.
pub fn until<T>(
    what: &str,
    timeout: Duration,
    mut poll: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        interrupt::check()?;
        if let Some(found) = poll()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {timeout:?} in vain: {what}");
        }
        sleep(STEP);
    }
}

/// Sleeps, but not through an interrupt.
///
/// # Errors
/// On an interrupt.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        interrupt::check()?;
        sleep(STEP.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}
