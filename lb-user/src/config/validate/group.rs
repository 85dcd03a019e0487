//! Target groups and their targets.

use std::{collections::BTreeSet, ops::Range};

use lb_common::limits::{
    DEFAULT_TABLE_SIZE, MAX_GROUPS, MAX_TABLE_SIZE, MAX_TARGETS, MAX_TARGETS_PER_GROUP, MAX_WEIGHT,
    MIN_TABLE_SIZE,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{health::health_check, reachable_address};
use crate::config::{
    Capacity, OnUnhealthy, Target, TargetGroup,
    diagnostic::Diagnostic,
    reader::{At, Section, nearest, number},
    values,
};

pub(super) fn groups(root: &Section<'_>, capacity: Capacity) -> Vec<At<TargetGroup>> {
    let sections = root.sections("target_group");
    if sections.len() > MAX_GROUPS as usize {
        let message = format!(
            "there are {} target groups, at most {MAX_GROUPS}",
            sections.len()
        );
        root.report(Diagnostic::error(
            sections[MAX_GROUPS as usize].span.clone(),
            message,
        ));
    }
    let mut groups: Vec<At<TargetGroup>> = Vec::new();
    let mut names = BTreeSet::new();
    let mut count = 0;
    for section in sections {
        let span = section.span.clone();
        let name = group_name(&section, &mut names);
        let before = count;
        let group = group(section, name, &mut count);
        let limit = capacity.targets as usize;
        if before <= limit && count > limit {
            let message = format!("more than {limit} targets in all groups together");
            let help = format!("raise `targets` under [capacity], at most {MAX_TARGETS}");
            root.report(Diagnostic::error(span.clone(), message).help(help));
        }
        groups.push(At { value: group, span });
    }
    groups
}

fn group_name(section: &Section<'_>, names: &mut BTreeSet<String>) -> String {
    let Some(name) = section.text("name") else {
        section.missing("name", "\"api\"");
        return String::new();
    };
    if name.value.is_empty() {
        section.report(Diagnostic::error(
            name.span,
            "a target group's name can't be empty",
        ));
    } else if !names.insert(name.value.to_owned()) {
        let message = format!("there is another target group `{}`", name.value);
        section.report(Diagnostic::error(name.span, message));
    }
    name.value.to_owned()
}

fn group(section: Section<'_>, name: String, count: &mut usize) -> TargetGroup {
    let targets = targets(&section);
    *count += targets.len();
    let unhealthy = [OnUnhealthy::Reset, OnUnhealthy::Keep];
    let on_unhealthy = section.word("on_unhealthy", &["reset", "keep"]);
    let group = TargetGroup {
        name,
        preserve_client_ip: section.boolean("preserve_client_ip").unwrap_or(false),
        table_size: table_size(&section, &targets),
        targets,
        fail_open: section.boolean("fail_open").unwrap_or(true),
        on_unhealthy: on_unhealthy.map_or(OnUnhealthy::default(), |word| unhealthy[word]),
        health_check: health_check(&section),
    };
    section.finish();
    group
}

fn table_size(section: &Section<'_>, targets: &[Target]) -> u32 {
    let key = "table_size";
    let Some(size) = section.number(key, MIN_TABLE_SIZE..=MAX_TABLE_SIZE) else {
        return DEFAULT_TABLE_SIZE;
    };
    let weights: u32 = targets.iter().map(|target| u32::from(target.weight)).sum();
    if let Err(near) = values::table_size(size.value) {
        let message = format!("`{key}` must be a prime, and {} is none", size.value);
        section.report(Diagnostic::error(size.span, message).help(near));
    } else if weights > size.value {
        let message = format!("the weights add up to {weights}, more than the table has slots");
        section.report(Diagnostic::error(size.span, message).help("make the table larger"));
    } else if targets.len() * 100 > size.value as usize {
        let message = "a table of fewer than 100 slots a target spreads unevenly";
        section.report(Diagnostic::warning(size.span, message));
    }
    size.value
}

fn targets(section: &Section<'_>) -> Vec<Target> {
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
                targets.push(target);
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
    let (address, port) = reachable_address(section, text, span)?;
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
