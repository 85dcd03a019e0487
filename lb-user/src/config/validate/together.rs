//! Rules that listeners and target groups have with each other.

use std::num::NonZeroU16;

use super::At;
use crate::{
    address::Family,
    config::{
        Forwarding, Listener, Ports, SecurityGroup, Target, TargetGroup, diagnostic::Diagnostic,
        reader::Section,
    },
};

pub(super) fn check(root: &Section<'_>, listeners: &[At<Listener>], groups: &[At<TargetGroup>]) {
    for (index, group) in groups.iter().enumerate() {
        let mut users = listeners
            .iter()
            .filter(|l| l.value.target_group == index)
            .peekable();
        // A listener with a fault of its own is missing from the list.
        if users.peek().is_none() && root.is_faultless() {
            let message = format!("no listener uses the target group `{}`", group.value.name);
            root.report(Diagnostic::warning(group.span.clone(), message));
        }
        for listener in users {
            let (one, other) = (&listener.value, &group.value);
            let fault = circle(one, other)
                .or_else(|| families(one, other))
                .or_else(|| ports(one, other));
            if let Some(fault) = fault {
                root.report(Diagnostic::error(listener.span.clone(), fault));
            }
        }
    }
}

pub(super) fn check_security_groups(
    root: &Section<'_>,
    listeners: &[At<Listener>],
    groups: &[At<SecurityGroup>],
) {
    for (index, group) in groups.iter().enumerate() {
        let used = |listener: &At<Listener>| listener.value.security_group == Some(index);
        if root.is_faultless() && !listeners.iter().any(used) {
            let name = &group.value.name;
            let message = format!("no listener uses the security group `{name}`");
            root.report(Diagnostic::warning(group.span.clone(), message));
        }
    }
}

fn circle(listener: &Listener, group: &TargetGroup) -> Option<String> {
    let own = |target: &&Target| {
        target.address == listener.address
            && target
                .port
                .is_none_or(|port| listener.ports.contains(port.get()))
    };
    let target = group.targets.iter().find(own)?;
    let port = target
        .port
        .map_or_else(|| listener.ports.to_string(), |port| port.to_string());
    Some(format!(
        "listener `{}` has port {port} of the same address as a target: packets would go round \
         in circles",
        listener.name
    ))
}

/// Only an encapsulation crosses families.
fn families(listener: &Listener, group: &TargetGroup) -> Option<String> {
    let (from, to) = (Family::of(listener.address?), group.family()?);
    (from != to).then(|| {
        format!(
            "listener `{}` has an {from} address and the targets of `{}` have {to} ones: only \
             `dsr` with an encapsulation leads there",
            listener.name, group.name
        )
    })
}

/// `dsr` leaves the port as it is.
fn ports(listener: &Listener, group: &TargetGroup) -> Option<String> {
    let Forwarding::Dsr(_) = group.forwarding else {
        return None;
    };
    let other = |port: &NonZeroU16| listener.ports != Ports::One(*port);
    let port = group
        .targets
        .iter()
        .filter(|target| target.address.is_some())
        .filter_map(|target| target.port)
        .find(other)?;
    Some(format!(
        "listener `{}` has not the port {port} that a target of `{}` has, and `dsr` leaves the \
         port as it is: write `*` for the target's port",
        listener.name, group.name
    ))
}
