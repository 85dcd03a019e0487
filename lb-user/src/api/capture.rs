//! `POST /api/capture`: packets as they come and as they go on, as pcapng.

use std::{io, time::Duration};

use hyper::{
    HeaderMap, StatusCode,
    body::{Bytes, Frame},
    header::{HeaderName, HeaderValue},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::INVALID;
use crate::{
    capture::FilterError,
    dataplane::{AttachError, LoadError, MapError},
};

/// What a capture has at most. The time is less than the server's patience with
/// a connection.
pub const MOST_SECONDS: u64 = 300;
pub const MOST_BYTES: u64 = 1 << 40;

/// The trailer of the answer: a [`CaptureSummary`] as JSON.
pub(super) const SUMMARY: HeaderName = HeaderName::from_static("xlb-summary");

/// The body of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// See [`Filter`](crate::capture::Filter).
    pub filter: String,
    /// It ends with this many packets, after this time, or before there are more
    /// bytes than that.
    pub packets: u64,
    pub seconds: u64,
    pub bytes: u64,
    /// Bytes of each frame.
    pub snap: u32,
}

/// What became of a capture, the answer's trailer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptureSummary {
    pub packets: u64,
    /// Those that nobody had room for.
    pub lost: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub ended: CaptureEnd,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureEnd {
    Packets,
    Seconds,
    Bytes,
    /// Somebody asked for it, or the agent ends.
    Stopped,
    /// Whoever it was for has gone.
    Gone,
    /// The kernel's buffers can't be read any more.
    Failed,
}

/// Where the answer's parts go.
pub type CaptureSender = mpsc::Sender<io::Result<Frame<Bytes>>>;
pub type CaptureReceiver = mpsc::Receiver<io::Result<Frame<Bytes>>>;

/// Why nothing is captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("another capture is under way: wait for its end, or end it")]
    Busy,
    #[error("no capture is under way")]
    NotBusy,
    #[error("a capture has at least one packet, one second, one byte of each, and room for it")]
    Nothing,
    #[error("a capture takes at most {MOST_SECONDS} seconds and {MOST_BYTES} bytes")]
    TooMuch,
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("the programs that capture can't be loaded")]
    Load(#[from] LoadError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("the kernel's buffers can't be read")]
    Buffers(#[source] io::Error),
    #[error("the programs that capture can't be loaded: {0}")]
    Panic(String),
}

impl CaptureError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Busy | Self::NotBusy => StatusCode::CONFLICT,
            Self::Filter(_) | Self::Nothing | Self::TooMuch => INVALID,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl CaptureRequest {
    /// # Errors
    /// If it asks for nothing, or for more than there may be.
    pub fn check(&self) -> Result<(), CaptureError> {
        if self.packets == 0 || self.seconds == 0 || self.bytes == 0 || self.snap == 0 {
            return Err(CaptureError::Nothing);
        }
        if self.seconds > MOST_SECONDS || self.bytes > MOST_BYTES {
            return Err(CaptureError::TooMuch);
        }
        Ok(())
    }

    #[must_use]
    pub fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl CaptureSummary {
    /// The last part of an answer; `None` if it can't be written, which can't be.
    #[must_use]
    pub fn trailer(&self) -> Option<Frame<Bytes>> {
        let json = serde_json::to_vec(self).ok()?;
        let value = HeaderValue::from_bytes(&json).ok()?;
        Some(Frame::trailers(HeaderMap::from_iter([(SUMMARY, value)])))
    }

    pub(super) fn of(trailers: &HeaderMap) -> Option<Self> {
        serde_json::from_slice(trailers.get(SUMMARY)?.as_bytes()).ok()
    }
}
