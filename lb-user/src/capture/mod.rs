//! Captures: which packets ([`Filter`]), and how they are told ([`Writer`]).

mod comment;
mod filter;
mod pcapng;

use std::collections::HashMap;

pub use filter::{Filter, FilterError};
pub use pcapng::Writer;

use crate::api::Names;

/// Whose ids and indices are whose.
#[derive(Clone, Debug, Default)]
pub struct CaptureNames {
    /// Listeners and targets.
    pub names: Names,
    /// Interfaces by their index.
    pub interfaces: HashMap<u32, String>,
}

impl CaptureNames {
    /// An interface's name; one that wasn't there when the capture began has none.
    fn interface(&self, index: u32) -> String {
        let name = self.interfaces.get(&index);
        name.cloned()
            .unwrap_or_else(|| format!("interface {index}"))
    }
}
