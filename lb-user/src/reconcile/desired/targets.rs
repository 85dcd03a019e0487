//! A target's entry.

use std::{net::IpAddr, num::NonZeroU16};

use lb_common::{Be16, target::TargetEntry, wire::wide};

use super::{Inputs, interfaces::is_attached};
use crate::{
    address::Prefix,
    config::{Encapsulation, Forwarding, Target, TargetGroup, Tunnel},
    host::{Host, Route, Way},
    reconcile::Problem,
};

/// The target's entry without the flags that its health decides.
pub(in crate::reconcile) fn entry(
    inputs: &Inputs<'_>,
    group: &TargetGroup,
    target: &Target,
    id: u32,
) -> Result<TargetEntry, Problem> {
    let mut entry = TargetEntry {
        port: Be16::new(target.port.map_or(0, NonZeroU16::get)),
        generation: inputs.ids.generation(id),
        max_flows: group.max_flows_per_target.unwrap_or(0),
        max_segment: group.mss_clamp.unwrap_or(0),
        ..TargetEntry::default()
    };
    let Some(address) = target.address else {
        entry.flags = TargetEntry::LOCAL;
        return Ok(entry);
    };
    entry.address = wide(address);
    if address.is_ipv6() {
        entry.flags |= TargetEntry::IPV6;
    }
    let name = || group.name.clone();
    let no_route = || Problem::NoRoute {
        group: name(),
        address,
    };
    let route = *inputs.host.routes.get(&address).ok_or_else(no_route)?;
    match (group.forwarding, route) {
        (Forwarding::Nat { .. }, Route::Local) => entry.flags |= TargetEntry::LOCAL,
        (Forwarding::Dsr(_), Route::Local) => {
            let group = name();
            return Err(Problem::DsrLocal { group, address });
        }
        (Forwarding::Nat { preserve_client_ip }, Route::Unicast(way)) => {
            if !preserve_client_ip {
                check_replies(inputs, group, address, way)?;
                entry.flags |= TargetEntry::SOURCE_NAT;
                entry.source = wide(way.source);
                entry.first_source_port = *inputs.config.source_ports.start();
                entry.last_source_port = *inputs.config.source_ports.end();
            }
        }
        (Forwarding::Dsr(tunnel), Route::Unicast(way)) => {
            if tunnel.encapsulation == Encapsulation::None && way.gateway {
                let group = name();
                return Err(Problem::DsrBehindRouter { group, address });
            }
            encapsulate(&mut entry, tunnel, way);
        }
    }
    Ok(entry)
}

/// A target's entry as the data path has it. One of another generation would be
/// the id's former holder.
pub(in crate::reconcile) fn known(inputs: &Inputs<'_>, id: u32) -> Option<TargetEntry> {
    let known = inputs.applied.targets.get(&id).copied();
    known.filter(|it| it.generation == inputs.ids.generation(id))
}

fn encapsulate(entry: &mut TargetEntry, tunnel: Tunnel, way: Way) {
    entry.flags |= TargetEntry::DSR;
    entry.encapsulation = tunnel.encapsulation as u8;
    entry.encapsulation_port = Be16::new(tunnel.port);
    entry.virtual_network = tunnel.virtual_network;
    if tunnel.encapsulation != Encapsulation::None {
        entry.source = wide(tunnel.source.map_or(way.source, Prefix::address));
        entry.source_bits = tunnel.source.map_or(0, Prefix::open_bits);
    }
}

/// Replies to a rewritten source come back by the way that leads there.
fn check_replies(
    inputs: &Inputs<'_>,
    group: &TargetGroup,
    address: IpAddr,
    way: Way,
) -> Result<(), Problem> {
    if is_attached(inputs, way.interface) {
        return Ok(());
    }
    Err(Problem::NotAttached {
        group: group.name.clone(),
        address,
        interface: name(inputs.host, way.interface),
    })
}

fn name(host: &Host, index: u32) -> String {
    host.interfaces
        .get(&index)
        .map_or_else(|| format!("#{index}"), |i| i.name.clone())
}
