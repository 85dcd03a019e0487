//! Listeners.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    num::NonZeroU16,
};

use lb_common::limits::MAX_LISTENERS;

use super::reachable_address;
use crate::config::{
    Capacity, Listener, Protocol, TargetGroup,
    diagnostic::Diagnostic,
    reader::{At, Section, nearest},
};

pub(super) fn listeners(
    root: &Section<'_>,
    groups: &[At<TargetGroup>],
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
    let indices: HashMap<&str, usize> = groups
        .iter()
        .enumerate()
        .map(|(index, group)| (group.value.name.as_str(), index))
        .collect();
    let mut seen = Seen::default();
    sections
        .into_iter()
        .filter_map(|section| {
            let span = section.span.clone();
            listener(section, &indices, &mut seen).map(|value| At { value, span })
        })
        .collect()
}

/// What no two listeners may share.
#[derive(Default)]
struct Seen {
    names: BTreeSet<String>,
    addresses: BTreeMap<(Option<IpAddr>, NonZeroU16, Protocol), String>,
}

fn listener(
    section: Section<'_>,
    groups: &HashMap<&str, usize>,
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
    let listener = address.zip(text).map(|((address, port), text)| {
        let separator = if text.value.starts_with(':') { "" } else { ":" };
        let default = format!("{protocol}{separator}{}", text.value);
        let chosen = name.as_ref().map_or(default, |name| name.value.to_owned());
        let place = name
            .as_ref()
            .map_or(text.span.clone(), |name| name.span.clone());
        if chosen.is_empty() {
            section.report(Diagnostic::error(place, "a listener's name can't be empty"));
        } else if let Some(other) = seen
            .addresses
            .insert((address, port, protocol), chosen.clone())
        {
            let message = format!("listener `{other}` has this address, port and protocol already");
            section.report(Diagnostic::error(text.span, message));
        } else if !seen.names.insert(chosen.clone()) {
            let message = format!("there is another listener `{chosen}`");
            section.report(Diagnostic::error(place, message));
        }
        Listener {
            name: chosen,
            address,
            port,
            protocol,
            target_group: target_group.unwrap_or(0),
        }
    });
    section.finish();
    listener.filter(|_| target_group.is_some())
}

fn target_group(section: &Section<'_>, groups: &HashMap<&str, usize>) -> Option<usize> {
    let Some(name) = section.text("target_group") else {
        section.missing("target_group", "\"api\"");
        return None;
    };
    let found = groups.get(name.value).copied();
    if found.is_none() {
        let error = Diagnostic::error(
            name.span,
            format!("there is no target group `{}`", name.value),
        );
        section.report(match nearest(name.value, groups.keys().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!(
                "write [[target_group]] with name = \"{}\"",
                name.value
            )),
        });
    }
    found
}
