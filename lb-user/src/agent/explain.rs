//! What is known of a packet that somebody asks about.

use std::net::IpAddr;

use lb_common::{flow, security_group::Rule};

use super::Agent;
use crate::{
    api::{
        Device, ExplainError, ExplainRequest, ExplainedListener, ExplainedRule, Explainer, Facts,
    },
    explain::{self, Ends},
    host::Interface,
    reconcile::TargetKey,
};

impl Agent {
    /// All that it takes to explain the packet aside from the agent's task.
    pub(super) fn explain(&self, request: ExplainRequest) -> Result<Explainer, ExplainError> {
        let ends = ends(&request)?;
        let source = ends.source.ip();
        let entry = explain::listener(&self.applied, &ends);
        let listener = entry.and_then(|entry| {
            let mut listeners = self.config.listeners.iter();
            let is_it = |name: &str| self.ids.listener(name) == Some(entry.id);
            let listener = listeners.find(|it| is_it(&it.name))?;
            let target_group = self.config.target_groups[listener.target_group]
                .name
                .clone();
            let name = listener.name.clone();
            Some((entry.id, ExplainedListener { name, target_group }))
        });
        let registered = TargetKey::all(&self.config)
            .chain(self.registry.draining().map(|(key, _)| key.clone()))
            .filter_map(|key| {
                let health = &self.registry.get(&key)?.health;
                Some((key, (health.health, health.reason)))
            });
        let facts = Facts {
            interface: self.device(request.interface.as_deref())?,
            source_rate: entry.and_then(|it| explain::source_rate(&self.applied, it.id, source)),
            rule: entry.and_then(|it| self.rule(it.security_group, source)),
            slot: entry.and_then(|it| explain::slot(&self.applied, &it, &ends)),
            names: self.names(),
            health: registered.collect(),
            devices: self.host.interfaces.values().filter_map(device).collect(),
            ends,
            listener,
            request,
        };
        let model = self.dataplane.model()?;
        Ok(Explainer { model, facts })
    }

    fn rule(&self, id: u16, source: IpAddr) -> Option<ExplainedRule> {
        let (prefix, rule) = explain::rule(&self.applied, id, source)?;
        let mut groups = self.config.security_groups.iter();
        let group = groups.find(|it| self.ids.security_group(&it.name) == Some(id))?;
        Some(ExplainedRule {
            name: group.name.clone(),
            prefix: prefix.to_string(),
            allows: rule == Rule::Allow,
        })
    }

    /// Where a packet can come in: the first interface unless another is named.
    fn device(&self, name: Option<&str>) -> Result<Device, ExplainError> {
        let first = self.config.interfaces.first().map(String::as_str);
        let name = name.or(first).unwrap_or_default();
        let attached = self.dataplane.attached();
        let interface = self.host.interface(name);
        interface
            .filter(|it| attached.contains_key(&it.index))
            .and_then(device)
            .ok_or_else(|| ExplainError::Interface(name.to_owned()))
    }
}

fn ends(request: &ExplainRequest) -> Result<Ends, ExplainError> {
    let (source, destination) = (request.source, request.destination);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(ExplainError::Families(source, destination));
    }
    let protocol = match request.protocol.as_str() {
        "tcp" => flow::TCP,
        "udp" => flow::UDP,
        other => return Err(ExplainError::Protocol(other.to_owned())),
    };
    Ok(Ends {
        protocol,
        source,
        destination,
    })
}

fn device(interface: &Interface) -> Option<Device> {
    let [a, b, c, d, e, f, _, _] = interface.mac?.to_ne_bytes();
    Some(Device {
        index: interface.index,
        name: interface.name.clone(),
        mac: [a, b, c, d, e, f],
    })
}
