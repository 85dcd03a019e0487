//! xlb's agent and command line.

pub mod address;
pub mod agent;
pub mod api;
pub mod capabilities;
pub mod capture;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod doctor;
pub mod explain;
pub mod health;
pub mod host;
pub mod instance;
pub mod maglev;
pub mod metrics;
pub mod reconcile;
pub mod registry;
pub mod slow_start;
