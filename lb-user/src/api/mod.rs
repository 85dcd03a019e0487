//! The agent's Unix socket: HTTP/1.1, for root only.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | [`Status`] |
//! | `POST /reload` | what is odd about the configuration, or why it isn't applied |
//! | `POST /unload` | nothing; the agent takes everything back, and ends |

mod client;
mod reload;
mod server;
mod status;

pub use client::{ClientError, reload, status as fetch_status, unload};
pub use reload::ReloadError;
pub use server::{Request, Server, SocketError};
pub use status::{
    ChecksStatus, FlowsStatus, GroupStatus, InterfaceStatus, ListenerStatus, Status, TargetStatus,
    TrafficStatus,
};
