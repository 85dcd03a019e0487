//! Health checks of targets: what a result means ([`state`], pure), how one
//! check is done ([`probe`]) and when ([`scheduler`]).
//!
//! The [`Checker`] sends every result to the agent, which owns a
//! [`TargetHealth`] per target and applies the results to it. That costs
//! less than a microsecond a result, against some tens for the check itself;
//! in return `xlb status`, the maps and the state machine share one owner, and
//! nothing is locked or copied.

pub mod probe;
pub mod reason;
pub mod scheduler;
pub mod state;

pub use probe::{PrepareError, Prober};
pub use reason::{LocalFault, Outcome, Reason};
pub use scheduler::{CheckResult, Checker, Meter, Started};
pub use state::{Health, TargetHealth, Thresholds, Transition};
