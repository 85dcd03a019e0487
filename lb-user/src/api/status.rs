//! What `xlb status --json` prints. Fields are only ever added.

use std::{collections::BTreeMap, time::SystemTime};

use lb_common::counters::Traffic;
use serde::{Deserialize, Serialize};

use crate::dataplane::FamilyFlows;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// Seconds since 1970 (UTC).
    #[serde(with = "epoch")]
    pub started: SystemTime,
    pub interfaces: Vec<InterfaceStatus>,
    pub listeners: Vec<ListenerStatus>,
    pub target_groups: Vec<GroupStatus>,
    pub flows: FlowsStatus,
    /// Packets by drop reason.
    pub drops: BTreeMap<String, u64>,
    /// Those drop reasons whose packets were passed to the kernel; packets of
    /// all others were dropped.
    #[serde(default)]
    pub passed: Vec<String>,
    /// What keeps parts of the configuration from working, one sentence each.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    /// `native` or `generic`.
    pub xdp: String,
    /// `tcx` or `clsact`.
    pub tc: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerStatus {
    pub name: String,
    /// As configured: `10.0.2.15:80`, `[2001:db8::1]:8000-8999`, or `:80` for
    /// every address.
    pub address: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    pub target_group: String,
    #[serde(flatten)]
    pub traffic: TrafficStatus,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupStatus {
    pub name: String,
    /// `nat` or `dsr`; `removed` for a group that is gone and drains.
    #[serde(default)]
    pub forwarding: String,
    /// Of `dsr`: `none`, `ipip`, `gue` or `geneve`.
    #[serde(default)]
    pub encapsulation: Option<String>,
    /// Too few targets are healthy, so new flows go to all of them.
    #[serde(default)]
    pub fail_open: bool,
    pub targets: Vec<TargetStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetStatus {
    /// As configured: `10.0.2.15:8081`, `10.0.2.15:*` for the client's port, or
    /// `:8081` for a port of this host.
    pub address: String,
    /// The one that holds, which an operator may have set.
    pub weight: u16,
    /// The configured one, if an operator has set another.
    #[serde(default)]
    pub configured_weight: Option<u16>,
    /// An operator has drained it, and hasn't enabled it since.
    #[serde(default)]
    pub drained: bool,
    /// Of the group's new flows, from 0 to 1, at present.
    #[serde(default)]
    pub share: f64,
    /// `initial`, `healthy`, `unhealthy`, `draining` or `unused`.
    pub health: String,
    /// A stable word for scripts, and a sentence; absent for a healthy target.
    pub reason: Option<String>,
    pub description: Option<String>,
    /// Since when `health` is so, seconds since 1970 (UTC).
    #[serde(with = "epoch")]
    pub since: SystemTime,
    /// While it is `draining`: seconds until its flows end.
    #[serde(default)]
    pub remaining: Option<f64>,
    #[serde(default)]
    pub checks: ChecksStatus,
    /// Established flows as of the last sweep, at most a few seconds ago.
    #[serde(default)]
    pub flows: u64,
    #[serde(flatten)]
    pub traffic: TrafficStatus,
}

/// A target's health checks since it was registered.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ChecksStatus {
    pub successes: u64,
    pub failures: u64,
    /// Checks that this host couldn't make.
    pub inconclusive: u64,
    /// Last results in a row that speak against `health`.
    pub contrary: u32,
    /// Of the last check, in seconds; `null` before the first one.
    pub latency: Option<f64>,
}

/// Bytes are IP bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct TrafficStatus {
    pub forward_packets: u64,
    pub forward_bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
    pub new_flows: u64,
}

/// The flow table as of the last sweep, at most a few seconds ago.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct FlowsStatus {
    pub established: u64,
    pub half_open: u64,
    /// Flows of each address family that fit.
    pub capacity: u64,
    #[serde(default)]
    pub half_open_capacity: u64,
    #[serde(default)]
    pub ipv4: FamilyFlowsStatus,
    #[serde(default)]
    pub ipv6: FamilyFlowsStatus,
    /// Entries, two a flow, that sweeps have removed.
    #[serde(default)]
    pub swept: u64,
}

/// Flows of one address family.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct FamilyFlowsStatus {
    pub established: u64,
    pub half_open: u64,
}

impl From<FamilyFlows> for FamilyFlowsStatus {
    fn from(count: FamilyFlows) -> Self {
        let FamilyFlows {
            established,
            half_open,
        } = count;
        Self {
            established,
            half_open,
        }
    }
}

impl From<Traffic> for TrafficStatus {
    fn from(traffic: Traffic) -> Self {
        Self {
            forward_packets: traffic.forward_packets,
            forward_bytes: traffic.forward_bytes,
            reply_packets: traffic.reply_packets,
            reply_bytes: traffic.reply_bytes,
            new_flows: traffic.new_flows,
        }
    }
}

mod epoch {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        // Milliseconds are enough, and exact in a double until the year 287396.
        to.serialize_f64((since.as_millis() as f64) / 1000.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds)
            .map(|since| UNIX_EPOCH + since)
            .map_err(serde::de::Error::custom)
    }
}
