//! From configuration, health and host to the contents of the maps: what they
//! should be ([`desired`]), what to change ([`diff`]), and whose ids are whose
//! ([`Ids`]). All pure.

mod desired;
mod diff;
mod group;
mod ids;
mod ports;
mod problem;
mod state;
mod tables;

pub use desired::{Availability, Desired, Inputs, desired, desired_group, interface, interfaces};
pub use diff::{diff, diff_group};
pub use group::Balance;
pub use ids::{Ids, SavedIds, TargetKey};
pub use ports::Block;
pub use problem::Problem;
pub use state::{
    Change, Element, MapState, Place, PlacePorts, Slots, UNKNOWN_SLOT, elements, runs,
};
pub use tables::Tables;

#[cfg(test)]
mod tests;
