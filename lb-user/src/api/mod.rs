//! The agent's Unix socket: HTTP/1.1 with JSON bodies, for root only.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | [`Status`] |

mod client;
mod server;
mod status;

pub use client::{ClientError, status as fetch_status};
pub use server::{Request, Server, SocketError};
pub use status::{
    FlowsStatus, GroupStatus, InterfaceStatus, ListenerStatus, Status, TargetStatus, TrafficStatus,
};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/xlb/xlb.sock";
