//! xlb's agent: everything of user space except the command line itself.

pub mod config;
pub mod health;
pub mod maglev;
