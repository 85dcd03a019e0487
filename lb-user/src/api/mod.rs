//! The agent's Unix socket: HTTP/1.1, for root only.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | [`Status`] |
//! | `POST /reload` | what is odd about the configuration, or why it isn't applied |
//! | `POST /unload` | nothing; the agent takes everything back, and ends |
//! | `POST /explain` with an [`ExplainRequest`] | [`Explanation`] |
//! | `POST /flows` with a [`FlowsRequest`] | a [`FlowRecord`] a line, or one [`FlowCount`] |
//! | `POST /target` with a [`TargetRequest`] | [`TargetReport`] |
//!
//! What is wrong with a request, or with the configuration, is answered with
//! 422 and a sentence.

mod client;
mod explain;
mod flows;
mod reload;
mod server;
mod status;
mod target;

use hyper::StatusCode;

pub use client::{
    ClientError, Lines, explain as fetch_explanation, flows as fetch_flows, operate, reload,
    status as fetch_status, unload,
};
pub use explain::{
    Device, ExplainError, ExplainRequest, ExplainedListener, ExplainedRule, ExplainedTarget,
    Explainer, Explanation, Facts, Leaving, Selection,
};
pub use flows::{Filter, FlowCount, FlowRecord, FlowsError, FlowsReader, FlowsRequest, Names};
pub use reload::ReloadError;
pub use server::{Request, Server, SocketError};
pub use status::{
    ChecksStatus, FlowsStatus, GroupStatus, InterfaceStatus, ListenerStatus, Status, TargetStatus,
    TrafficStatus,
};
pub use target::{OperateError, TargetReport, TargetRequest};

/// What was asked for can't be done as it stands; the body says why.
const INVALID: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
