//! A group's targets.

use std::{collections::BTreeSet, ops::Range};

use lb_common::limits::{MAX_TARGETS_PER_GROUP, MAX_WEIGHT};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::reachable_address;
use crate::{
    address::Family,
    config::{
        Ports, Target,
        diagnostic::Diagnostic,
        reader::{At, Section, nearest, number},
    },
};

pub(super) fn targets(section: &Section<'_>) -> Vec<At<Target>> {
    let Some(list) = section.list("targets") else {
        section.missing("targets", "[\"10.0.0.1:8080\"]");
        return Vec::new();
    };
    if list.value.is_empty() {
        let message = "a target group needs at least one target";
        section.report(Diagnostic::error(list.span.clone(), message));
    }
    if list.value.len() > MAX_TARGETS_PER_GROUP as usize {
        let message = format!(
            "{} targets in one group, at most {MAX_TARGETS_PER_GROUP}",
            list.value.len()
        );
        section.report(Diagnostic::error(list.span, message));
    }
    let mut seen = BTreeSet::new();
    let mut targets = Vec::new();
    for value in list.value {
        if let Some(target) = target(section, value) {
            if seen.insert((target.address, target.port)) {
                targets.push(At {
                    value: target,
                    span: value.span(),
                });
            } else {
                let message = "this target is in the group already";
                section.report(Diagnostic::error(value.span(), message));
            }
        }
    }
    targets
}

/// `"10.0.0.1:80"`, or a table with `address` and `weight`.
fn target(section: &Section<'_>, value: &Spanned<DeValue<'_>>) -> Option<Target> {
    let (text, span, weight) = match value.get_ref() {
        DeValue::String(text) => (text.as_ref(), value.span(), 1),
        DeValue::Table(table) => target_table(section, table, value)?,
        other => {
            let message = format!("a target can't be of type {}", other.type_str());
            let help = "write it as \"10.0.0.1:80\" or { address = \"10.0.0.1:80\", weight = 2 }";
            section.report(Diagnostic::error(value.span(), message).help(help));
            return None;
        }
    };
    let (address, ports) = reachable_address(section, text, span.clone())?;
    let port = match ports {
        Ports::One(port) => Some(port),
        Ports::ALL => None,
        Ports::Range { .. } => {
            let error = Diagnostic::error(span, format!("`{text}`: a target has one port"));
            section.report(error.help("write `*` for the port that the client used"));
            return None;
        }
    };
    Some(Target {
        address,
        port,
        weight,
    })
}

fn target_table<'a>(
    section: &Section<'_>,
    table: &'a DeTable<'_>,
    value: &Spanned<DeValue<'_>>,
) -> Option<(&'a str, Range<usize>, u16)> {
    let mut address = None;
    let mut weight = 1;
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("address", DeValue::String(text)) => address = Some((text.as_ref(), value.span())),
            ("address", _) => {
                let message = "`address` must be a text in quotes";
                section.report(Diagnostic::error(value.span(), message));
            }
            ("weight", _) => match number(value, "weight", 1..=u32::from(MAX_WEIGHT)) {
                Ok(number) => weight = number.value as u16,
                Err(error) => section.report(error),
            },
            (unknown, _) => {
                let error = Diagnostic::error(key.span(), format!("unknown key `{unknown}`"));
                let near = nearest(unknown, ["address", "weight"].into_iter());
                let help = near.map_or("known here: address, weight".to_owned(), |near| {
                    format!("did you mean `{near}`?")
                });
                section.report(error.help(help));
            }
        }
    }
    if address.is_none() && !table.iter().any(|(key, _)| key.get_ref() == "address") {
        let error = Diagnostic::error(value.span(), "`address` is missing");
        section.report(error.help("write `address = \"10.0.0.1:80\"`"));
    }
    address.map(|(text, span)| (text, span, weight))
}

/// A listener's packets have one family, and unless they are encapsulated so
/// have the targets that they go to.
pub(super) fn check_families(section: &Section<'_>, targets: &[At<Target>]) {
    let family = |target: &At<Target>| target.value.address.map(Family::of);
    let Some(first) = targets.iter().find_map(family) else {
        return;
    };
    let odd = |target: &&At<Target>| family(target).is_some_and(|family| family != first);
    if let Some(odd) = targets.iter().find(odd) {
        let message = format!(
            "the targets before have {first} addresses, and without encapsulation a group has \
             one family"
        );
        let error = Diagnostic::error(odd.span.clone(), message);
        section.report(error.help("make a group for each family, and a listener for each"));
    }
}

/// Without a port of the check's own a target must have one.
pub(super) fn check_ports(section: &Section<'_>, targets: &[At<Target>]) {
    if let Some(target) = targets.iter().find(|target| target.value.port.is_none()) {
        let message = "there is no port to check this target at";
        let error = Diagnostic::error(target.span.clone(), message);
        section.report(error.help("set `port` under [target_group.health_check]"));
    }
}
