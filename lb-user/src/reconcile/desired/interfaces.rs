//! How to send out of the host's interfaces, and what they are good for.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
};

use lb_common::{
    limits::{MAX_INTERFACES, MAX_MACS, MAX_VLAN_TAGS},
    settings::{InterfaceEntry, VlanTag},
    target::TargetEntry,
};

use super::{Inputs, Problems, report};
use crate::{
    address::Family,
    dataplane::XdpHook,
    host::Interface,
    reconcile::{MapState, Problem},
};

/// How to send out of each interface that is up.
pub(super) fn entries(inputs: &Inputs<'_>) -> BTreeMap<u32, InterfaceEntry> {
    let interfaces = &inputs.host.interfaces;
    let mut entries: Vec<(u32, InterfaceEntry)> = interfaces
        .values()
        .filter(|interface| interface.up)
        .filter_map(|interface| Some((interface.index, entry(inputs, interface)?)))
        .collect();
    // A host may have more than the map holds. One without flags is sent out
    // of by the kernel, as one without an entry is.
    entries.sort_by_key(|&(index, entry)| (entry.flags == 0, index));
    entries.truncate(MAX_INTERFACES as usize);
    entries.into_iter().collect()
}

/// Whose frames are for this host: those to any of its interfaces, for what
/// comes in by one may be addressed to a device on top of it.
pub(super) fn macs(inputs: &Inputs<'_>) -> BTreeSet<u64> {
    let interfaces = inputs.host.interfaces.values();
    interfaces
        .filter_map(|interface| interface.mac)
        .take(MAX_MACS as usize)
        .collect()
}

/// `None` if the kernel must do it: the parent isn't known, or there are more
/// tags than XDP handles.
fn entry(inputs: &Inputs<'_>, interface: &Interface) -> Option<InterfaceEntry> {
    let mut device = interface;
    let mut tags = [VlanTag::default(); MAX_VLAN_TAGS];
    let mut tag_count = 0;
    while let Some(vlan) = device.vlan {
        if tag_count == MAX_VLAN_TAGS {
            return None;
        }
        // The device nearest to the wire bears the outermost tag.
        tags.rotate_right(1);
        tags[0] = vlan.tag;
        tag_count += 1;
        device = inputs.host.interfaces.get(&vlan.parent)?;
    }
    Some(InterfaceEntry {
        device: device.index,
        flags: capabilities(inputs, device, interface.mtu),
        tag_count: tag_count as u16,
        tags,
    })
}

/// For packets of up to `mtu` bytes, which a VLAN may have fewer of than its
/// parent.
fn capabilities(inputs: &Inputs<'_>, device: &Interface, mtu: u32) -> u16 {
    let takes_redirects = device
        .xdp_features
        .is_some_and(|features| features.takes_redirects(mtu));
    // Generic XDP sends by the stack, which any Ethernet device takes. But a
    // frame that native XDP took in needs the other driver's help to leave.
    let all_generic = || {
        inputs
            .attached
            .values()
            .all(|&hook| hook == XdpHook::Generic)
    };
    let redirect = if device.ethernet && (takes_redirects || all_generic()) {
        InterfaceEntry::REDIRECT
    } else {
        0
    };
    let transmit = match hook(inputs, device) {
        Some(XdpHook::Generic) => InterfaceEntry::TRANSMIT,
        // XDP_TX on a veth is lost unless its peer has a program too, which
        // can't be seen from here; a redirect to itself does the same.
        Some(XdpHook::Native) if device.kind.as_deref() != Some("veth") => InterfaceEntry::TRANSMIT,
        _ => 0,
    };
    redirect | transmit
}

/// How packets that come in by a device meet the programs. Native ones of a bond
/// the kernel gives to its ports, and it's a port that packets then come in by.
fn hook(inputs: &Inputs<'_>, device: &Interface) -> Option<XdpHook> {
    let of_bond = || {
        let bond = inputs.host.interfaces.get(&device.controller?)?;
        let hook = inputs.attached.get(&bond.index)?;
        (bond.kind.as_deref() == Some("bond") && *hook == XdpHook::Native).then_some(hook)
    };
    let own = inputs.attached.get(&device.index);
    own.or_else(of_bond).copied()
}

/// Whether packets that come in by an interface meet the programs: at the
/// interface itself, at the device that it is a VLAN of, or at a port of the
/// bridge or bond that either is.
pub(super) fn is_attached(inputs: &Inputs<'_>, index: u32) -> bool {
    let interfaces = &inputs.host.interfaces;
    let parent = |device: &&Interface| interfaces.get(&device.vlan?.parent);
    let is_port_of = |port: &u32, index: u32| {
        interfaces
            .get(port)
            .is_some_and(|port| port.controller == Some(index))
    };
    iter::successors(interfaces.get(&index), parent).any(|device| {
        let mut attached = inputs.attached.keys();
        attached.any(|&port| port == device.index || is_port_of(&port, device.index))
    })
}

/// `bpf_fib_lookup` answers only for interfaces that forward.
pub(super) fn check_forwarding(inputs: &Inputs<'_>, state: &MapState, problems: &mut Problems) {
    let remote = state
        .targets
        .values()
        .filter(|target| !target.has(TargetEntry::LOCAL));
    let families: BTreeSet<Family> = remote
        .map(|target| match target.has(TargetEntry::IPV6) {
            true => Family::V6,
            false => Family::V4,
        })
        .collect();
    let interfaces = inputs.host.interfaces.values();
    for interface in interfaces.filter(|interface| hook(inputs, interface).is_some()) {
        for &family in &families {
            if !interface.forwarding.of(family) {
                let interface = interface.name.clone();
                report(problems, Problem::ForwardingOff { interface, family });
            }
        }
    }
}
