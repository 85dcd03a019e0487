//! `POST /explain`: what the data path would do with a packet, and why.

use std::{collections::HashMap, net::SocketAddr};

use hyper::StatusCode;
use lb_common::{counters::DropReason, flow, listener::SourceRateKey};
use serde::{Deserialize, Serialize};

use super::{FlowRecord, INVALID, Names};
use crate::{
    dataplane::{Action, Arrival, MapError, Model, Outcome, Replica, ReplicaError},
    explain::{
        Ends, Slot,
        frame::{self, Shape, TcpFlags},
    },
    health::{Health, Reason},
    reconcile::TargetKey,
};

/// The body of the request: a packet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// `tcp` or `udp`.
    pub protocol: String,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// Where it comes in; `None`: the first one.
    pub interface: Option<String>,
    /// `None`: an ACK if it belongs to a flow, else a SYN.
    pub flags: Option<TcpFlags>,
    /// Bytes.
    pub payload: u16,
    pub time_to_live: u8,
}

/// What would become of it. What doesn't apply is `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub interface: String,
    /// `syn`, `syn_ack`, `ack`, `fin` or `rst`.
    pub flags: Option<String>,
    /// Of the IP packet.
    pub bytes: usize,
    pub listener: Option<ExplainedListener>,
    pub security_group: Option<ExplainedRule>,
    /// The flow that it belongs to, and whether it would begin that.
    pub flow: Option<FlowRecord>,
    pub new_flow: bool,
    /// Where the hash of a new flow leads at first.
    pub selection: Option<Selection>,
    pub target: Option<ExplainedTarget>,
    /// `pass` (to this host), `drop`, `transmit`, `redirect` (by another
    /// device) or `handoff` (sent by the kernel).
    pub action: String,
    /// What it would be counted as, if it isn't balanced.
    pub drop_reason: Option<String>,
    /// It goes nowhere, but its sender is answered.
    pub answered: bool,
    pub leaves: Option<Leaving>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedListener {
    pub name: String,
    pub target_group: String,
}

/// The rule that decides about the packet's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedRule {
    pub name: String,
    pub prefix: String,
    pub allows: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// `flow`, `source_ip` or `destination_port`.
    pub hash: String,
    pub slot: u32,
    pub slots: u32,
    /// Whose slot it is.
    pub target: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedTarget {
    pub target_group: String,
    pub target: String,
    pub health: String,
    pub reason: Option<String>,
    pub description: Option<String>,
}

/// How the packet leaves; with an encapsulation, what is outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// `null` for this host's own stack, or if it isn't known.
    pub interface: Option<String>,
    pub encapsulated: bool,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub time_to_live: u8,
    /// `null` where the kernel writes it.
    pub destination_mac: Option<String>,
}

/// Why nothing can be said about a packet.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("`{0}` is no protocol that is balanced: tcp or udp")]
    Protocol(String),
    #[error("{0} and {1} are of different address families")]
    Families(SocketAddr, SocketAddr),
    #[error("xlb isn't attached to an Ethernet interface `{0}`")]
    Interface(String),
    #[error("no packet is that long")]
    TooLong,
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("the programs can't be run on a packet: {0}")]
    Replica(#[from] ReplicaError),
}

impl ExplainError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Protocol(_) | Self::Families(..) | Self::Interface(_) | Self::TooLong => INVALID,
            Self::Map(_) | Self::Replica(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// All that it takes to explain a packet aside from the agent's task.
#[derive(Debug)]
pub struct Explainer {
    pub model: Model,
    pub facts: Facts,
}

/// What is known of the packet without running it.
#[derive(Debug)]
pub struct Facts {
    pub request: ExplainRequest,
    pub ends: Ends,
    pub interface: Device,
    /// With its id.
    pub listener: Option<(u32, ExplainedListener)>,
    pub source_rate: Option<SourceRateKey>,
    pub rule: Option<ExplainedRule>,
    pub slot: Option<Slot>,
    pub names: Names,
    /// Of every target.
    pub health: HashMap<TargetKey, (Health, Option<Reason>)>,
    /// Those that packets may leave by.
    pub devices: Vec<Device>,
}

/// An Ethernet interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
}

impl Explainer {
    /// Runs the packet through a replica of the data path. Blocks for as long
    /// as it takes to load the programs.
    ///
    /// # Errors
    /// If that can't be done.
    pub fn run(self) -> Result<Explanation, ExplainError> {
        let mut replica = self.model.replicate()?;
        self.facts.explain(&mut replica)
    }
}

impl Facts {
    fn explain(self, replica: &mut Replica) -> Result<Explanation, ExplainError> {
        let Ends {
            protocol,
            source,
            destination,
        } = self.ends;
        let known = replica.knows(protocol, source, destination)?;
        let flags = self.request.flags.unwrap_or(match known {
            true => TcpFlags::Ack,
            false => TcpFlags::Syn,
        });
        let shape = Shape {
            flags,
            payload: self.request.payload,
            time_to_live: self.request.time_to_live,
            mac: self.interface.mac,
        };
        let frame = frame::build(&self.ends, &shape).ok_or(ExplainError::TooLong)?;
        let outcome = replica.run(&Arrival {
            protocol,
            source,
            destination,
            frame: &frame,
            interface: self.interface.index,
            listener: self.listener.as_ref().map(|(id, _)| *id),
            source_rate: self.source_rate,
        })?;
        Ok(self.tell(&outcome, flags, frame.len()))
    }

    fn tell(self, outcome: &Outcome, flags: TcpFlags, frame: usize) -> Explanation {
        let reason = outcome.reasons.first().copied();
        let goes_on = reason.is_none_or(|reason| !reason.is_drop());
        let target = outcome.flow.and_then(|flow| {
            let key = self.names.targets.get(&(flow.target, flow.generation))?;
            Some(self.target(key))
        });
        // Only a packet that begins a flow is searched a target for.
        let is_known = outcome.flow.is_some() && !outcome.began;
        let selection = self
            .slot
            .filter(|_| !is_known && reason != Some(DropReason::Denied));
        Explanation {
            flags: (self.ends.protocol == flow::TCP).then(|| flags.as_str().to_owned()),
            bytes: frame - ETHERNET,
            security_group: self.rule.clone().filter(|_| !is_known),
            flow: outcome.flow.as_ref().map(|flow| self.names.record(flow)),
            new_flow: outcome.began,
            selection: selection.map(|slot| self.selection(slot)),
            target,
            action: action(outcome.action).to_owned(),
            drop_reason: reason.map(|reason| reason.name().to_owned()),
            answered: !goes_on && outcome.action != Action::Drop,
            leaves: match (outcome.action, goes_on && outcome.flow.is_some()) {
                (Action::Drop, _) | (_, false) => None,
                (_, true) => self.leaving(outcome, frame),
            },
            listener: self.listener.map(|(_, listener)| listener),
            interface: self.interface.name,
        }
    }

    fn target(&self, key: &TargetKey) -> ExplainedTarget {
        let known = self.health.get(key);
        let health = known.map_or(Health::Unused, |(health, _)| *health);
        let reason = known.and_then(|(_, reason)| *reason);
        // A healthy target's last failure isn't why it is healthy.
        let reason = reason.filter(|_| health != Health::Healthy);
        ExplainedTarget {
            target_group: key.group.clone(),
            target: key.to_string(),
            health: health.to_string(),
            reason: reason.map(|reason| reason.code().to_owned()),
            description: reason.map(|reason| reason.to_string()),
        }
    }

    fn selection(&self, slot: Slot) -> Selection {
        let of = |id: u32| {
            let mut targets = self.names.targets.iter();
            targets.find(|((target, _), _)| *target == id)
        };
        Selection {
            hash: slot.input.to_owned(),
            slot: slot.slot,
            slots: slot.slots,
            target: slot.target.and_then(of).map(|(_, key)| key.to_string()),
        }
    }

    fn leaving(&self, outcome: &Outcome, frame: usize) -> Option<Leaving> {
        let outside = frame::read(&outcome.frame)?;
        let named = |device: Option<&Device>| device.map(|it| it.name.clone());
        let with_index = |index| self.devices.iter().find(|it| it.index == index);
        let interface = match outcome.action {
            Action::Pass | Action::Drop => None,
            Action::Transmit => Some(self.interface.name.clone()),
            // The kernel doesn't tell which; its own address is in the frame.
            Action::Redirect => {
                let mut devices = self.devices.iter();
                named(devices.find(|it| it.mac == outside.source_mac))
            }
            Action::Handoff { interface, .. } => named(with_index(interface)),
        };
        let is_addressed = matches!(outcome.action, Action::Transmit | Action::Redirect);
        Some(Leaving {
            interface,
            // Nothing else makes a packet longer.
            encapsulated: outcome.frame.len() > frame,
            source: outside.source,
            destination: outside.destination,
            time_to_live: outside.time_to_live,
            destination_mac: is_addressed.then(|| mac(outside.destination_mac)),
        })
    }
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

fn action(action: Action) -> &'static str {
    match action {
        Action::Pass => "pass",
        Action::Drop => "drop",
        Action::Transmit => "transmit",
        Action::Redirect => "redirect",
        Action::Handoff { .. } => "handoff",
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
