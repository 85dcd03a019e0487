//! xlb's agent and command line.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod health;
pub mod host;
pub mod maglev;
pub mod reconcile;
