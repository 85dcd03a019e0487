//! What kind of interface it is, and what belongs to it.

use std::collections::BTreeSet;

use super::{Finding, named};
use crate::{
    config::Config,
    host::{Host, Interface},
};

pub(super) fn check(interface: &Interface, host: &Host, config: Option<&Config>) -> Vec<Finding> {
    let kind = of_kind(interface, host);
    let port = port(interface, host, config);
    kind.into_iter().chain(port).collect()
}

fn of_kind(interface: &Interface, host: &Host) -> Option<Finding> {
    match interface.kind.as_deref()? {
        "veth" => Some(
            Finding::note(
                "veth",
                "frames that a container sends without crossing a wire have unfinished checksums",
            )
            .advice("`ethtool -K DEVICE tx off` in containers that are clients or targets"),
        ),
        "bond" => {
            let ports = ports(interface, host);
            let lacking: Vec<&str> = ports
                .iter()
                .filter(|port| port.xdp_features.is_some_and(|it| !it.has_basic()))
                .map(|port| port.name.as_str())
                .collect();
            Some(match lacking[..] {
                [] => Finding::ok("bond", "every port of the bond has native XDP"),
                _ => {
                    let message = format!(
                        "ports of the bond have no native XDP, so the bond has none: {}",
                        lacking.join(", ")
                    );
                    Finding::warning("bond", message)
                        .advice("bond network cards with native XDP only")
                }
            })
        }
        _ => None,
    }
}

/// What comes in by the other ports of its bond or bridge doesn't meet XDP at
/// this one.
fn port(interface: &Interface, host: &Host, config: Option<&Config>) -> Option<Finding> {
    let controller = host.interfaces.get(&interface.controller?)?;
    let known: &[String] = config.map_or(&[], |config| &config.interfaces);
    let others: Vec<&str> = ports(controller, host)
        .iter()
        .filter_map(|port| named(host, port.index))
        .filter(|&name| name != interface.name && !known.iter().any(|known| known == name))
        .collect();
    if others.is_empty() {
        return None;
    }
    let name = &controller.name;
    let kind = controller.kind.as_deref().unwrap_or("group");
    let message = format!(
        "it is a port of the {kind} {name}, and what comes in by the others isn't balanced: {}",
        others.join(", ")
    );
    Some(match kind {
        "bond" => Finding::warning("bond", message).advice(format!("set `interface = {name:?}`")),
        _ => Finding::note("bridge", message).advice(format!(
            "name every port where clients are, or {name:?}, where XDP is generic"
        )),
    })
}

/// The network cards below a virtual device that merge packets (GRO), as `gro`
/// says of each: a generic program at that device meets them merged, for it is
/// only a program of their own that keeps the kernel from it.
pub(super) fn merging_below(
    interface: &Interface,
    host: &Host,
    gro: impl Fn(&str) -> Option<bool>,
) -> Vec<String> {
    let mut seen = BTreeSet::from([interface.index]);
    let mut found = BTreeSet::new();
    let mut next = below(interface, host);
    while let Some(device) = next.pop() {
        // A parent's index may be one of another namespace.
        if !seen.insert(device.index) {
            continue;
        }
        let devices = below(device, host);
        if devices.is_empty() && gro(&device.name) == Some(true) {
            found.insert(device.name.clone());
        }
        next.extend(devices);
    }
    found.into_iter().collect()
}

fn below<'a>(interface: &Interface, host: &'a Host) -> Vec<&'a Interface> {
    let parent = interface
        .vlan
        .and_then(|vlan| host.interfaces.get(&vlan.parent));
    ports(interface, host).into_iter().chain(parent).collect()
}

fn ports<'a>(controller: &Interface, host: &'a Host) -> Vec<&'a Interface> {
    let interfaces = host.interfaces.values();
    interfaces
        .filter(|port| port.controller == Some(controller.index))
        .collect()
}
