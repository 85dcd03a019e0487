//! Target groups and their targets.

use std::{collections::BTreeSet, time::Duration};

use lb_common::limits::{
    DEFAULT_TABLE_SIZE, MAX_FLOWS, MAX_GROUPS, MAX_TABLE_SIZE, MAX_TARGETS, MIN_TABLE_SIZE,
};

use super::{
    fail_open::fail_open,
    forwarding::forwarding,
    health::health_check,
    names,
    target::{self, targets},
    time, time_from_zero,
    tls::Trust,
};
use crate::config::{
    Capacity, HashInput, OnUnhealthy, Target, TargetGroup,
    diagnostic::Diagnostic,
    reader::{At, Section},
    values,
};

/// Linux's `TCP_MIN_MSS`, and the largest that an IPv4 packet has room for.
const MIN_MSS: u32 = 88;
const MAX_MSS: u32 = 65_495;
/// Slots of a table that each target needs for an even spread.
const SLOTS_PER_TARGET: usize = 100;
/// As in ELB.
const DEREGISTRATION_DELAY: Duration = Duration::from_secs(300);

pub(super) fn groups(
    root: &Section<'_>,
    capacity: Capacity,
    trust: &Trust<'_>,
) -> Vec<At<TargetGroup>> {
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
        let name = names::unique(&section, "target group", "\"api\"", &mut names);
        let before = count;
        let group = group(section, name, &mut count, trust);
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

fn group(section: Section<'_>, name: String, count: &mut usize, trust: &Trust<'_>) -> TargetGroup {
    let targets = targets(&section);
    *count += targets.len();
    let health_check = health_check(&section, trust);
    let forwarding = forwarding(&section, &targets);
    if health_check.port.is_none() {
        target::check_ports(&section, &targets);
    }
    let targets: Vec<Target> = targets.into_iter().map(|target| target.value).collect();
    let unhealthy = [OnUnhealthy::Reset, OnUnhealthy::Keep];
    let on_unhealthy = section.word("on_unhealthy", &["reset", "keep"]);
    let inputs = [
        HashInput::Flow,
        HashInput::SourceIp,
        HashInput::DestinationPort,
    ];
    let hash_input = section.word("hash", &["flow", "source_ip", "destination_port"]);
    let group = TargetGroup {
        name,
        forwarding,
        hash: hash_input.map_or(HashInput::default(), |word| inputs[word]),
        max_flows_per_target: section
            .number("max_flows_per_target", 1..=MAX_FLOWS)
            .map(|number| number.value),
        mss_clamp: section
            .number("mss_clamp", MIN_MSS..=MAX_MSS)
            .map(|number| number.value as u16),
        table_size: table_size(&section, &targets),
        fail_open: fail_open(&section, targets.len()),
        on_unhealthy: on_unhealthy.map_or(OnUnhealthy::default(), |word| unhealthy[word]),
        slow_start: time(&section, "slow_start").map(|time| time.value),
        deregistration_delay: time_from_zero(&section, "deregistration_delay")
            .map_or(DEREGISTRATION_DELAY, |time| time.value),
        health_check,
        targets,
    };
    section.finish();
    group
}

fn table_size(section: &Section<'_>, targets: &[Target]) -> u32 {
    let key = "table_size";
    // Without one the default counts, and what is said is about the group.
    let size = match section.number(key, MIN_TABLE_SIZE..=MAX_TABLE_SIZE) {
        Some(size) => size,
        None => At {
            value: DEFAULT_TABLE_SIZE,
            span: section.span.clone(),
        },
    };
    let weights: u32 = targets.iter().map(|target| u32::from(target.weight)).sum();
    let slots = size.value;
    if let Err(near) = values::table_size(slots) {
        let message = format!("`{key}` must be a prime, and {slots} is none");
        section.report(Diagnostic::error(size.span, message).help(near));
    } else if weights > slots {
        let message = format!("the weights add up to {weights}, and the table has {slots} slots");
        let help = format!("set a larger `{key}`, a prime, or smaller weights");
        section.report(Diagnostic::error(size.span, message).help(help));
    } else if targets.len() * SLOTS_PER_TARGET > slots as usize {
        let message = format!(
            "a table of {slots} slots has fewer than {SLOTS_PER_TARGET} for each of {} targets \
             and spreads unevenly",
            targets.len()
        );
        let help = format!("set a larger `{key}`, a prime");
        section.report(Diagnostic::warning(size.span, message).help(help));
    }
    slots
}
