//! xlb's agent: everything of user space except the command line itself.

pub mod config;
pub mod maglev;
