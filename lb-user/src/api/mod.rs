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
//! | `POST /api/unload` | nothing; the agent takes everything back, and ends |
//! | `POST /api/explain` with an [`ExplainRequest`] | [`Explanation`] |
//! | `POST /api/capture` with a [`CaptureRequest`] | pcapng, and a [`CaptureSummary`] as trailer |
//! | `POST /api/capture/stop` | nothing; the capture under way ends |
//! | `POST /api/flows` with a [`FlowsRequest`] | a [`FlowRecord`] a line, or one [`FlowCount`] |
//! | `POST /api/target` with a [`TargetRequest`] | [`TargetReport`] |
//!
//! What is wrong with a request, or with the configuration, is answered with
//! 422 and a sentence.

mod admin;
mod capture;
mod client;
mod explain;
mod flows;
mod pulse;
mod reload;
mod response;
mod server;
mod socket;
mod status;
mod target;

use hyper::StatusCode;

pub use admin::{AdminListenError, AdminListener};
pub use capture::{
    CaptureEnd, CaptureError, CaptureReceiver, CaptureRequest, CaptureSender, CaptureSummary,
    MOST_SECONDS,
};
pub use client::{
    CaptureStream, ClientError, Lines, capture as fetch_capture, explain as fetch_explanation,
    flows as fetch_flows, operate, reload, status as fetch_status, stop_capture, unload,
};
pub use explain::{
    Device, ExplainError, ExplainRequest, ExplainedListener, ExplainedRule, ExplainedTarget,
    Explainer, Explanation, Facts, Leaving, Selection,
};
pub use flows::{Filter, FlowCount, FlowRecord, FlowsError, FlowsReader, FlowsRequest, Names};
pub use pulse::Pulse;
pub use reload::{ReloadError, Reloaded};
pub use server::{Handle, Request};
pub use socket::{Socket, SocketError};
pub use status::{
    ChecksStatus, FamilyFlowsStatus, FlowsStatus, GroupStatus, InterfaceStatus, ListenerStatus,
    Status, TargetStatus, TrafficStatus,
};
pub use target::{OperateError, TargetReport, TargetRequest};

/// What was asked for can't be done as it stands; the body says why.
const INVALID: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
