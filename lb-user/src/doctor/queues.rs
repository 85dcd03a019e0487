//! How packets come to the CPUs: queues, what spreads them, and what merges
//! them.

use std::thread;

use super::{
    Finding,
    ethtool::{Channels, Device},
};
use crate::host::Interface;

/// `below`: devices below the interface that merge packets before XDP.
pub(super) fn check(interface: &Interface, device: &Device, below: &[String]) -> Vec<Finding> {
    let mut findings = merging(&interface.name, device, below);
    let channels = device.channels.unwrap_or(Channels {
        receive: interface.receive_queues,
        most_receive: interface.receive_queues,
    });
    let cpus = thread::available_parallelism().map_or(1, usize::from) as u32;
    findings.push(queues(interface, channels, cpus));
    // A virtual device's queues are chosen by the sender.
    if channels.receive > 1 && interface.kind.is_none() {
        findings.extend(hashing(&interface.name, device));
    }
    findings
}

/// Packets that the card has merged aren't those that came, and most drivers
/// refuse native XDP with it.
fn merging(name: &str, device: &Device, below: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(device.lro.map(|on| {
        match on {
            true => Finding::warning(
                "lro",
                "the driver merges packets (LRO), which native XDP excludes and forwarding breaks",
            )
            .advice(format!("`ethtool -K {name} lro off`")),
            false => Finding::ok("lro", "LRO is off"),
        }
    }));
    if let [first, ..] = below {
        let names = below.join(", ");
        let message = format!(
            "merged packets (GRO) meet generic XDP here, and those larger than the MTU are dropped \
             on their way to targets elsewhere: {names} merges them"
        );
        let advice = format!("`ethtool -K {first} gro off`, or name {first:?} as the interface");
        findings.push(Finding::warning("gro", message).advice(advice));
        return findings;
    }
    findings.extend(device.gro.map(|on| {
        match on {
            true => Finding::ok(
                "gro",
                "GRO is on: it merges packets behind XDP, for this host's stack",
            ),
            false => Finding::note(
                "gro",
                "GRO is off, so packets to targets on this host cost its stack more",
            )
            .advice(format!("`ethtool -K {name} gro on`")),
        }
    }));
    findings
}

/// A packet is handled by the CPU that its queue belongs to.
pub(super) fn queues(interface: &Interface, channels: Channels, cpus: u32) -> Finding {
    const CHECK: &str = "queues";
    let (count, most) = (channels.receive, channels.most_receive);
    let wanted = cpus.min(most);
    let message = format!("{count} receive queues of at most {most}, for {cpus} CPUs");
    if count < wanted {
        let name = &interface.name;
        let advice = format!("`ethtool -L {name} combined {wanted}`, or `rx {wanted}`");
        // Behind a virtual device there is often one sender only.
        let finding = match &interface.kind {
            None => Finding::warning(CHECK, message),
            Some(_) => Finding::note(CHECK, message),
        };
        return finding.advice(advice);
    }
    if count == 1 && cpus > 1 {
        return Finding::note(CHECK, format!("{message}: one CPU handles all packets"));
    }
    Finding::ok(CHECK, message)
}

/// Whether flows are spread over the queues.
fn hashing(name: &str, device: &Device) -> Option<Finding> {
    const CHECK: &str = "rss";
    Some(match device.udp_ports_hashed? {
        true => Finding::ok(CHECK, "the card spreads UDP over its queues by ports too"),
        false => Finding::note(
            CHECK,
            "the card spreads UDP over its queues by addresses only, so all flows between two \
             hosts share one CPU",
        )
        .advice(format!(
            "`ethtool -N {name} rx-flow-hash udp4 sdfn`, and udp6"
        )),
    })
}
