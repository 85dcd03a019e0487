//! The agent's state as `xlb status` shows it.

use tracing::warn;

use super::Agent;
use crate::{
    api::{
        FlowsStatus, GroupStatus, InterfaceStatus, ListenerStatus, Status, TargetStatus,
        TrafficStatus,
    },
    config::{Listener, Target, TargetGroup},
    dataplane::MapError,
    health::{Health, TargetHealth},
    reconcile::TargetKey,
};

impl Agent {
    pub(super) fn status(&self) -> Status {
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
            target_groups: self
                .config
                .target_groups
                .iter()
                .map(|g| self.group_status(g))
                .collect(),
            flows: FlowsStatus {
                established: self.swept.established,
                half_open: self.swept.half_open,
                capacity: self.config.capacity.flows.into(),
            },
            drops: read(self.dataplane.drops())
                .unwrap_or_default()
                .into_iter()
                .map(|(reason, count)| (reason.name().to_owned(), count))
                .collect(),
            problems: self.problems.clone(),
        }
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
            address: socket_address(listener.address, listener.port),
            protocol: listener.protocol.to_string(),
            target_group: self.config.target_groups[listener.target_group]
                .name
                .clone(),
            traffic: traffic.into(),
        }
    }

    fn group_status(&self, group: &TargetGroup) -> GroupStatus {
        GroupStatus {
            name: group.name.clone(),
            targets: group
                .targets
                .iter()
                .map(|t| self.target_status(group, t))
                .collect(),
        }
    }

    fn target_status(&self, group: &TargetGroup, target: &Target) -> TargetStatus {
        let key = TargetKey::new(group, target);
        let unknown = TargetHealth::new(self.started);
        let health = self.health.get(&key).unwrap_or(&unknown);
        let id = self.ids.target(&key);
        let flows = id.and_then(|id| self.swept.by_target.get(id as usize));
        let traffic: TrafficStatus = id
            .and_then(|id| read(self.dataplane.target_traffic(id)))
            .unwrap_or_default()
            .into();
        // A healthy target's last failure isn't why it is healthy.
        let reason = health.reason.filter(|_| health.health != Health::Healthy);
        TargetStatus {
            address: socket_address(target.address, target.port),
            weight: target.weight,
            health: health.health.to_string(),
            reason: reason.map(|reason| reason.code().to_owned()),
            description: reason.map(|reason| reason.to_string()),
            since: health.since,
            flows: flows.copied().unwrap_or_default(),
            traffic,
        }
    }
}

/// As the configuration has it.
fn socket_address(address: Option<std::net::IpAddr>, port: std::num::NonZeroU16) -> String {
    match address {
        Some(address) => std::net::SocketAddr::new(address, port.get()).to_string(),
        None => format!(":{port}"),
    }
}

/// A counter that can't be read is not worth failing the whole status for.
fn read<T>(result: Result<T, MapError>) -> Option<T> {
    result
        .inspect_err(|error| warn!(%error, "could not read a counter"))
        .ok()
}
