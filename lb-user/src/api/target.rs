//! `POST /target`: what operators ask for about one target.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::{INVALID, TargetStatus};
use crate::registry::{FindError, Operation};

/// The body of the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetRequest {
    /// As configured: `10.0.2.21:8080`, `:8081`.
    pub target: String,
    /// `None`: whichever has that target.
    pub target_group: Option<String>,
    /// `"drain"`, `"enable"` or `{"weight": 2}`.
    pub operation: Operation,
}

/// The answer: what has become of the target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetReport {
    pub target_group: String,
    #[serde(flatten)]
    pub target: TargetStatus,
    /// What the operator may not have meant, in a sentence.
    pub warning: Option<String>,
}

/// Why nothing has changed, or not in full.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(
        "a weight is from 1 to {}: to send no new flow to a target, drain it",
        lb_common::limits::MAX_WEIGHT
    )]
    Weight,
    #[error(
        "the maps could not be written in full, which is tried again at the next change: {0:#}"
    )]
    Maps(anyhow::Error),
}

impl OperateError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Find(_) | Self::Weight => INVALID,
            Self::Maps(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
