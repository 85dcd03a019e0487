//! Ports of source NAT that this host may also use for itself.

use lb_common::target::TargetEntry;

use super::{Inputs, Problems, report};
use crate::reconcile::{MapState, Problem};

/// A connection of this host to a target, from an address and port that a flow
/// has too, can't be told from that flow.
pub(super) fn check(inputs: &Inputs<'_>, state: &MapState, problems: &mut Problems) {
    let mut targets = state.targets.values();
    if !targets.any(|target| target.has(TargetEntry::SOURCE_NAT)) {
        return;
    }
    let ports = &inputs.config.source_ports;
    if let Some(shared) = inputs.host.local_ports.first_in(ports) {
        let (ports, local) = (ports.clone(), inputs.host.local_ports.range.clone());
        report(
            problems,
            Problem::LocalPorts {
                ports,
                local,
                shared,
            },
        );
    }
}
