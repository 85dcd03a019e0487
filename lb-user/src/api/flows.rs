//! `POST /flows`: the flows, one a line, or how many there are.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    ops::ControlFlow,
};

use hyper::{StatusCode, body::Bytes};
use lb_common::flow;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::INVALID;
use crate::{
    address::Prefix,
    dataplane::{Flow, FlowState, Listing, MapError},
    reconcile::TargetKey,
    registry::FindError,
};

/// Bytes that are sent at once.
const CHUNK: usize = 64 * 1024;

/// The body of the request: what flows to tell of. What isn't there makes no
/// difference.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowsRequest {
    /// A listener's name.
    pub listener: Option<String>,
    /// As configured: `10.0.2.21:8080`, `:8081`.
    pub target: Option<String>,
    pub target_group: Option<String>,
    /// `203.0.113.0/24`, or an address.
    pub client: Option<String>,
    pub state: Option<FlowState>,
    /// At most so many.
    pub limit: Option<u64>,
    /// Only count them: the answer is one line, a [`FlowCount`].
    pub count: bool,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// `tcp` or `udp`.
    pub protocol: String,
    pub client: SocketAddr,
    /// Where the client sends to, an address of the listener.
    pub destination: SocketAddr,
    /// `null` if the listener is gone, and so the others.
    pub listener: Option<String>,
    pub target_group: Option<String>,
    /// As configured.
    pub target: Option<String>,
    /// Who the target gets the packets from: the client, or source NAT.
    pub source: SocketAddr,
    /// Where the target gets them.
    pub target_address: SocketAddr,
    pub state: FlowState,
    /// Seconds since the client's last packet.
    pub idle: u32,
}

/// How many flows there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCount {
    pub flows: u64,
    pub by_state: BTreeMap<FlowState, u64>,
}

/// Why flows can't be told of.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    #[error("there is no listener `{0}`: `xlb status` shows all of them")]
    NoListener(String),
    #[error(transparent)]
    NoTarget(#[from] FindError),
    #[error("{0}")]
    Client(String),
    #[error("the flow table can't be read: {0}")]
    Maps(#[from] MapError),
}

impl FlowsError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoListener(_) | Self::NoTarget(_) | Self::Client(_) => INVALID,
            Self::Maps(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// What a request asks for, in the data path's terms, and whose ids are whose:
/// all that it takes to answer it aside from the agent's task.
#[derive(Debug)]
pub struct FlowsReader {
    pub listing: Listing,
    pub filter: Filter,
    pub limit: Option<u64>,
    pub count: bool,
    pub names: Names,
}

/// Which flows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub listener: Option<u32>,
    /// Ids and generations.
    pub targets: Option<Vec<(u32, u32)>>,
    pub client: Option<Prefix>,
    pub state: Option<FlowState>,
}

/// Whose ids are whose.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub listeners: HashMap<u32, String>,
    /// By id and generation.
    pub targets: HashMap<(u32, u32), TargetKey>,
}

impl Filter {
    #[must_use]
    pub fn admits(&self, flow: &Flow) -> bool {
        let is_target = |targets: &Vec<_>| targets.contains(&(flow.target, flow.generation));
        self.listener.is_none_or(|it| it == flow.listener)
            && self.targets.as_ref().is_none_or(is_target)
            && self.client.is_none_or(|it| it.contains(flow.client.ip()))
            && self.state.is_none_or(|it| it == flow.state)
    }
}

impl FlowsReader {
    /// Reads the flows and sends lines of JSON, until nobody receives any more.
    /// Blocks.
    pub(super) fn run(&self, lines: &mpsc::Sender<io::Result<Bytes>>) {
        let read = match self.count {
            true => self.count(lines),
            false => self.list(lines),
        };
        if let Err(error) = read {
            // The answer breaks off, so whoever reads it learns of it.
            let _ = lines.blocking_send(Err(error));
        }
    }

    fn list(&self, lines: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let mut chunk = Vec::with_capacity(CHUNK + 1_024);
        let send = |chunk: &mut Vec<u8>| {
            let bytes = Bytes::copy_from_slice(chunk);
            chunk.clear();
            lines.blocking_send(Ok(bytes)).is_ok()
        };
        let mut failed = None;
        self.each(|flow| {
            if let Err(error) = serde_json::to_writer(&mut chunk, &self.names.record(flow)) {
                failed = Some(error);
                return false;
            }
            chunk.push(b'\n');
            chunk.len() < CHUNK || send(&mut chunk)
        })?;
        if !chunk.is_empty() {
            send(&mut chunk);
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn count(&self, lines: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let mut counted = FlowCount::default();
        self.each(|flow| {
            counted.flows += 1;
            *counted.by_state.entry(flow.state).or_default() += 1;
            // Whoever asked may have gone.
            counted.flows % 10_000 != 0 || !lines.is_closed()
        })?;
        let mut line = serde_json::to_vec(&counted)?;
        line.push(b'\n');
        let _ = lines.blocking_send(Ok(line.into()));
        Ok(())
    }

    /// Hands over what the filter admits, while `each` wants more.
    fn each(&self, mut each: impl FnMut(&Flow) -> bool) -> io::Result<()> {
        let mut left = self.limit.unwrap_or(u64::MAX);
        self.listing.read(|flow| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            if !self.filter.admits(&flow) {
                return ControlFlow::Continue(());
            }
            left -= 1;
            match each(&flow) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })
    }
}

impl Names {
    pub(super) fn record(&self, flow: &Flow) -> FlowRecord {
        let target = self.targets.get(&(flow.target, flow.generation));
        FlowRecord {
            protocol: match flow.protocol {
                flow::UDP => "udp",
                _ => "tcp",
            }
            .to_owned(),
            client: flow.client,
            destination: flow.destination,
            listener: self.listeners.get(&flow.listener).cloned(),
            target_group: target.map(|target| target.group.clone()),
            target: target.map(ToString::to_string),
            source: flow.source,
            target_address: flow.target_address,
            state: flow.state,
            idle: flow.idle,
        }
    }
}
