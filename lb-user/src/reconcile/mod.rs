//! From configuration, health and host to the contents of the maps: what they
//! should be ([`desired`]), what to change ([`diff`]), and whose ids are whose
//! ([`Ids`]). All pure.

mod desired;
mod diff;
mod ids;
mod problem;
mod state;

pub use desired::{Availability, Desired, Inputs, desired, interfaces};
pub use diff::diff;
pub use ids::{Ids, TargetKey};
pub use problem::Problem;
pub use state::{Change, Element, MapState, elements};

#[cfg(test)]
mod tests;
