//! Metrics, as OpenMetrics text. docs/metrics.md has every name.
//!
//! There are two sources: what the agent counts of its own work
//! ([`Internals`]), and its [`Status`], which has everything else. So `/metrics`
//! and `xlb status` can't disagree.

mod internals;
mod snapshot;

use std::fmt;

use prometheus_client::{encoding::text, registry::Registry};

pub use internals::{Event, Internals, Reloaded};

use self::snapshot::Snapshot;
use crate::api::Status;

/// What `/metrics` answers with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the names begin with.
const PREFIX: &str = "xlb";

/// All metrics at the moment of `status`.
///
/// # Errors
/// None that a text in memory has.
pub fn encode(status: Status, internals: &Internals) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    internals.register(&mut registry);
    registry.register_collector(Box::new(Snapshot(status)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
