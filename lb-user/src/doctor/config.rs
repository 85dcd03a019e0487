//! What of a configuration doesn't work on this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{Finding, interface::is_native};
use crate::{
    config::{Config, Forwarding, Target},
    dataplane::XdpHook,
    host::{Host, Route},
    reconcile::{self, Availability, Ids, Inputs, MapState, Problem, Tables},
};

pub(super) fn check(config: &Config, host: &Host) -> Vec<Finding> {
    let problems = problems(config, host);
    let mut findings: Vec<_> = problems.iter().map(of_problem).collect();
    findings.extend(reverse_paths(config, host));
    if findings.is_empty() {
        let message = "this host can do what the configuration says";
        findings.push(Finding::ok("configuration", message));
    }
    findings
}

/// What the agent would report if it ran.
fn problems(config: &Config, host: &Host) -> Vec<Problem> {
    let mut ids = Ids::new(config.capacity);
    ids.assign(config, &BTreeSet::new());
    let attached: BTreeMap<u32, XdpHook> = reconcile::interfaces(config, host)
        .filter_map(Result::ok)
        .map(|interface| match is_native(interface, config.xdp_mode) {
            Some(false) => (interface.index, XdpHook::Generic),
            _ => (interface.index, XdpHook::Native),
        })
        .collect();
    let inputs = Inputs {
        config,
        host,
        attached: &attached,
        ids: &ids,
        slow_starts: &BTreeMap::new(),
        weights: &BTreeMap::new(),
        draining: &BTreeSet::new(),
        applied: &MapState::default(),
    };
    reconcile::desired(&inputs, &mut Tables::default(), |_| Availability::Healthy).problems
}

pub(super) fn of_problem(problem: &Problem) -> Finding {
    use Problem as P;
    let message = problem.to_string();
    match problem {
        // The agent doesn't start.
        P::NoInterface { name, .. } | P::InterfaceDown { name } | P::NotEthernet { name } => {
            Finding::error("interface", message).about(name)
        }
        P::ForwardingOff { interface, .. } => {
            Finding::error("forwarding", message).about(interface)
        }
        P::NoAddress { name, .. } => Finding::warning("address", message).about(name),
        P::NoRoute { .. }
        | P::NotAttached { .. }
        | P::DsrLocal { .. }
        | P::DsrBehindRouter { .. } => Finding::error("target", message),
        P::LocalPorts { .. } => Finding::warning("source_ports", message),
        P::TooManyAddresses { .. } | P::TooManyRanges { .. } => Finding::error("listener", message),
    }
}

/// Where packets reach targets by this host's own stack, a strict check of
/// their source drops those of clients whose way back leads out of another
/// interface (RFC 3704; Linux: Documentation/networking/ip-sysctl.rst). With
/// one interface there is only one way.
fn reverse_paths(config: &Config, host: &Host) -> Vec<Finding> {
    if config.interfaces.len() < 2 || !goes_by_stack(config, host) {
        return Vec::new();
    }
    let setting = |of: &str| -> u8 {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter"));
        text.ok().and_then(|it| it.trim().parse().ok()).unwrap_or(0)
    };
    let interfaces = config.interfaces.iter();
    let strict = interfaces.filter(|name| setting("all").max(setting(name)) == 1);
    strict
        .map(|name| {
            let message = format!(
                "rp_filter is strict on {name}: packets to targets on this host are dropped if \
                 the way back to their client leads out of another interface"
            );
            let advice = format!("`sysctl -w net.ipv4.conf.{name}.rp_filter=2`");
            Finding::warning("rp_filter", message)
                .about(name)
                .advice(advice)
        })
        .collect()
}

/// Whether targets are on this host.
fn goes_by_stack(config: &Config, host: &Host) -> bool {
    let local = |target: &Target| match target.address {
        None => true,
        Some(address) => host.routes.get(&address) == Some(&Route::Local),
    };
    let mut groups = config.target_groups.iter();
    groups.any(|group| {
        matches!(group.forwarding, Forwarding::Nat { .. }) && group.targets.iter().any(local)
    })
}
