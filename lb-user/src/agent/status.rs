//! The agent's state as `xlb status` shows it.

use std::{collections::BTreeSet, time::Instant};

use lb_common::counters::DropReason;
use tracing::warn;

use super::Agent;
use crate::{
    address::with_port,
    api::{
        ChecksStatus, FlowsStatus, GroupStatus, InterfaceStatus, ListenerStatus, Status,
        TargetStatus, TrafficStatus,
    },
    config::{Listener, TargetGroup},
    dataplane::MapError,
    health::Health,
    reconcile::TargetKey,
    registry::Registered,
};

impl Agent {
    pub(super) fn status(&self) -> Status {
        let flows = self.swept.flows();
        let passed = DropReason::ALL.iter().filter(|reason| !reason.is_drop());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            interfaces: self.interface_status(),
            listeners: self
                .config
                .listeners
                .iter()
                .map(|l| self.listener_status(l))
                .collect(),
            target_groups: self.group_statuses(),
            flows: FlowsStatus {
                established: flows.established,
                half_open: flows.half_open,
                capacity: self.config.capacity.flows.into(),
                half_open_capacity: self.config.capacity.half_open_flows.into(),
                ipv4: self.swept.v4.into(),
                ipv6: self.swept.v6.into(),
                swept: self.removed,
            },
            drops: read(self.dataplane.drops())
                .unwrap_or_default()
                .into_iter()
                .map(|(reason, count)| (reason.name().to_owned(), count))
                .collect(),
            passed: passed.map(|reason| reason.name().to_owned()).collect(),
            problems: self.all_problems(),
        }
    }

    fn all_problems(&self) -> Vec<String> {
        let problems = self.problems.iter().cloned();
        problems.chain(self.state.problem()).collect()
    }

    fn interface_status(&self) -> Vec<InterfaceStatus> {
        self.dataplane
            .attached()
            .iter()
            .map(|(index, attached)| InterfaceStatus {
                name: self.host.interfaces.get(index).map_or_else(
                    || format!("#{index} (gone)"),
                    |interface| interface.name.clone(),
                ),
                xdp: attached.xdp.to_string(),
                tc: attached.tc.to_string(),
            })
            .collect()
    }

    fn listener_status(&self, listener: &Listener) -> ListenerStatus {
        let traffic = self
            .ids
            .listener(&listener.name)
            .and_then(|id| read(self.dataplane.listener_traffic(id)))
            .unwrap_or_default();
        ListenerStatus {
            name: listener.name.clone(),
            address: with_port(listener.address, listener.ports),
            protocol: listener.protocol.to_string(),
            target_group: self.config.target_groups[listener.target_group]
                .name
                .clone(),
            traffic: traffic.into(),
        }
    }

    /// The configured groups, each with the targets that drain, and those that
    /// aren't configured any more but whose targets drain.
    fn group_statuses(&self) -> Vec<GroupStatus> {
        let groups = &self.config.target_groups;
        let mut statuses: Vec<GroupStatus> =
            groups.iter().map(|it| self.group_status(it)).collect();
        let configured: BTreeSet<TargetKey> = TargetKey::all(&self.config).collect();
        let draining = self.registry.draining();
        for (key, target) in draining.filter(|(key, _)| !configured.contains(key)) {
            let status = self.target_status(key, target);
            match statuses.iter_mut().find(|group| group.name == key.group) {
                Some(group) => group.targets.push(status),
                None => statuses.push(GroupStatus {
                    name: key.group.clone(),
                    // Of a group that is gone only its targets are known.
                    forwarding: "removed".to_owned(),
                    encapsulation: None,
                    fail_open: false,
                    targets: vec![status],
                }),
            }
        }
        statuses
    }

    fn group_status(&self, group: &TargetGroup) -> GroupStatus {
        let keys = group.targets.iter().map(|it| TargetKey::new(group, it));
        let balance = self.balances.get(&group.name);
        GroupStatus {
            name: group.name.clone(),
            forwarding: group.forwarding.mode().to_owned(),
            encapsulation: group.forwarding.encapsulation().map(str::to_owned),
            fail_open: balance.is_some_and(|balance| balance.fail_open),
            targets: keys
                .filter_map(|key| Some(self.target_status(&key, self.registry.get(&key)?)))
                .collect(),
        }
    }

    fn share(&self, key: &TargetKey) -> f64 {
        let (id, balance) = (self.ids.target(key), self.balances.get(&key.group));
        id.zip(balance)
            .map_or(0.0, |(id, balance)| balance.share(id))
    }

    pub(super) fn target_status(&self, key: &TargetKey, target: &Registered) -> TargetStatus {
        let health = &target.health;
        let overrides = self.registry.overrides();
        let id = self.ids.target(key);
        let flows = id.and_then(|id| self.swept.by_target.get(id as usize));
        let traffic: TrafficStatus = id
            .and_then(|id| read(self.dataplane.target_traffic(id)))
            .unwrap_or_default()
            .into();
        // A healthy target's last failure isn't why it is healthy.
        let reason = health.reason.filter(|_| health.health != Health::Healthy);
        let left = |end: Instant| end.saturating_duration_since(Instant::now());
        TargetStatus {
            address: key.to_string(),
            weight: target.weight,
            configured_weight: overrides.configured_weight(key),
            drained: overrides.is_drained(key),
            share: self.share(key),
            health: health.health.to_string(),
            reason: reason.map(|reason| reason.code().to_owned()),
            description: reason.map(|reason| reason.to_string()),
            since: health.since,
            remaining: target.ends.map(|end| left(end).as_secs_f64()),
            checks: ChecksStatus {
                successes: health.successes,
                failures: health.failures,
                inconclusive: health.inconclusive,
                contrary: health.contrary,
                latency: health.latency.map(|latency| latency.as_secs_f64()),
            },
            flows: flows.copied().unwrap_or_default(),
            traffic,
        }
    }
}

/// A counter that can't be read is not worth failing the whole status for.
fn read<T>(result: Result<T, MapError>) -> Option<T> {
    result
        .inspect_err(|error| warn!(%error, "could not read a counter"))
        .ok()
}
