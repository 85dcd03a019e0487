//! Configuration: raw TOML or flags → validated [`Config`].

mod model;

pub use model::*;
