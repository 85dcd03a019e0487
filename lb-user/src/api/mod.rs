//! What the agent can be asked, by HTTP/1.1: by its Unix socket, which is for
//! root only, and by the admin listener, where nothing can be changed.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the web page |
//! | `GET /live` | 200, or 503 if the agent is stuck |
//! | `GET /ready` | 200, or 503 while it starts or stops |
//! | `GET /metrics` | [metrics](crate::metrics) |
//! | `GET /api/status` | [`Status`] |
//! | `POST /api/reload` | what is odd about the configuration, or why it isn't applied |

mod admin;
mod client;
mod pulse;
mod reload;
mod response;
mod server;
mod socket;
mod status;

pub use admin::{AdminListenError, AdminListener};
pub use client::{ClientError, reload, status as fetch_status};
pub use pulse::Pulse;
pub use reload::ReloadError;
pub use server::{Handle, Request};
pub use socket::{Socket, SocketError};
pub use status::{
    ChecksStatus, FamilyFlowsStatus, FlowsStatus, GroupStatus, InterfaceStatus, ListenerStatus,
    Status, TargetStatus, TrafficStatus,
};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/xlb/xlb.sock";
