//! Listeners.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::limits::MAX_LISTENERS;

use super::{limits::limits, names::Known, reachable_address};
use crate::config::{
    Capacity, Listener, Ports, Protocol, SecurityGroup, TargetGroup,
    diagnostic::Diagnostic,
    reader::{At, Section},
};

pub(super) fn listeners(
    root: &Section<'_>,
    groups: &[At<TargetGroup>],
    security_groups: &[At<SecurityGroup>],
    capacity: Capacity,
) -> Vec<At<Listener>> {
    let sections = root.sections("listener");
    if sections.is_empty() {
        let error = Diagnostic::error(0..0, "there is no [[listener]], so nothing to do");
        root.report(error.help("write [[listener]], address = \":80\", target_group = \"…\""));
    }
    let limit = capacity.listeners as usize;
    if let Some(first) = sections.get(limit) {
        let message = format!("more than {limit} listeners");
        let help = format!("raise `listeners` under [capacity], at most {MAX_LISTENERS}");
        root.report(Diagnostic::error(first.span.clone(), message).help(help));
    }
    let groups = groups.iter().map(|group| group.value.name.as_str());
    let groups = Known::new("target_group", groups);
    let security_groups = security_groups
        .iter()
        .map(|group| group.value.name.as_str());
    let security_groups = Known::new("security_group", security_groups);
    let mut seen = Seen::default();
    sections
        .into_iter()
        .filter_map(|section| {
            let span = section.span.clone();
            listener(section, &groups, &security_groups, &mut seen).map(|value| At { value, span })
        })
        .collect()
}

/// What no two listeners may share.
#[derive(Default)]
struct Seen {
    names: BTreeSet<String>,
    ports: BTreeMap<(Option<IpAddr>, Protocol), Vec<Taken>>,
}

/// Ports and the name of the listener that has them.
struct Taken {
    ports: Ports,
    owner: String,
}

impl Seen {
    /// Takes note of a listener's ports, or says whose they are already. One
    /// port of a range may have a listener of its own.
    fn take(
        &mut self,
        address: Option<IpAddr>,
        protocol: Protocol,
        ports: Ports,
        name: &str,
    ) -> Result<(), String> {
        let taken = self.ports.entry((address, protocol)).or_default();
        for other in taken.iter() {
            let owner = &other.owner;
            match (ports, other.ports) {
                (Ports::One(port), Ports::One(other)) if port == other => {
                    return Err(format!(
                        "listener `{owner}` has this address, port and protocol already"
                    ));
                }
                (Ports::Range { .. }, Ports::Range { .. }) if ports.overlap(other.ports) => {
                    let other = other.ports;
                    return Err(format!(
                        "listener `{owner}` has the ports {other} of this address and protocol \
                         already"
                    ));
                }
                _ => {}
            }
        }
        taken.push(Taken {
            ports,
            owner: name.to_owned(),
        });
        Ok(())
    }
}

fn listener(
    section: Section<'_>,
    groups: &Known<'_>,
    security_groups: &Known<'_>,
    seen: &mut Seen,
) -> Option<Listener> {
    let name = section.text("name");
    let words = [Protocol::Tcp, Protocol::Udp];
    let protocol = section
        .word("protocol", &["tcp", "udp"])
        .map_or(Protocol::Tcp, |word| words[word]);
    let text = section.text("address");
    if text.is_none() {
        section.missing("address", "\":80\"");
    }
    let address = text
        .clone()
        .and_then(|text| reachable_address(&section, text.value, text.span));
    let target_group = target_group(&section, groups);
    let security_group = section
        .text("security_group")
        .and_then(|name| security_groups.find(&section, name));
    let limits = limits(&section);
    let listener = address.zip(text).map(|((address, ports), text)| {
        let separator = if text.value.starts_with(':') { "" } else { ":" };
        let default = format!("{protocol}{separator}{}", text.value);
        let chosen = name.as_ref().map_or(default, |name| name.value.to_owned());
        let place = name
            .as_ref()
            .map_or(text.span.clone(), |name| name.span.clone());
        if chosen.is_empty() {
            section.report(Diagnostic::error(place, "a listener's name can't be empty"));
        } else if let Err(message) = seen.take(address, protocol, ports, &chosen) {
            section.report(Diagnostic::error(text.span, message));
        } else if !seen.names.insert(chosen.clone()) {
            let message = format!("there is another listener `{chosen}`");
            section.report(Diagnostic::error(place, message));
        }
        Listener {
            name: chosen,
            address,
            ports,
            protocol,
            target_group: target_group.unwrap_or(0),
            security_group,
            limits,
        }
    });
    section.finish();
    listener.filter(|_| target_group.is_some())
}

fn target_group(section: &Section<'_>, known: &Known<'_>) -> Option<usize> {
    let Some(name) = section.text("target_group") else {
        section.missing("target_group", "\"api\"");
        return None;
    };
    known.find(section, name)
}
