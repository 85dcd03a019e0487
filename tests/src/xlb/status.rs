//! What an agent says of itself.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// What `xlb status --json` prints, as far as tests read it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub interfaces: Vec<InterfaceStatus>,
    pub listeners: Vec<ListenerStatus>,
    pub target_groups: Vec<GroupStatus>,
    pub drops: BTreeMap<String, u64>,
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    /// `native` or `generic`.
    pub xdp: String,
    /// `tcx` or `clsact`.
    pub tc: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ListenerStatus {
    pub name: String,
    #[serde(flatten)]
    pub traffic: Traffic,
}

#[derive(Clone, Debug, Deserialize)]
pub struct GroupStatus {
    pub name: String,
    pub fail_open: bool,
    pub targets: Vec<TargetStatus>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TargetStatus {
    pub address: String,
    pub health: String,
    pub reason: Option<String>,
    pub weight: u16,
    pub configured_weight: Option<u16>,
    pub drained: bool,
    /// Of the group's new flows, from 0 to 1.
    pub share: f64,
    /// Seconds until a draining target's flows end.
    pub remaining: Option<f64>,
    pub checks: Checks,
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// A target's health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Checks {
    pub successes: u64,
    pub failures: u64,
    /// Seconds.
    pub latency: Option<f64>,
}

/// Counters of a listener or a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Traffic {
    pub forward_packets: u64,
    pub forward_bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
    pub new_flows: u64,
}

impl TargetStatus {
    pub(super) fn is(&self, target: SocketAddr) -> bool {
        self.address == target.to_string() || self.address == format!(":{}", target.port())
    }
}

impl Status {
    /// All targets, with their group's name.
    pub fn targets(&self) -> impl Iterator<Item = (&str, &TargetStatus)> {
        self.target_groups.iter().flat_map(|group| {
            group
                .targets
                .iter()
                .map(|target| (group.name.as_str(), target))
        })
    }

    /// A target's counters.
    ///
    /// # Errors
    /// If there is no such target.
    pub fn target(&self, target: SocketAddr) -> Result<&TargetStatus> {
        let mut found = self.targets().filter(|(_, status)| status.is(target));
        let (_, status) = found
            .next()
            .with_context(|| format!("status has no target {target}"))?;
        ensure!(
            found.next().is_none(),
            "status has several targets {target}"
        );
        Ok(status)
    }
}
