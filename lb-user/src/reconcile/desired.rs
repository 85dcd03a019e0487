//! What the maps should hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::{IpAddr, Ipv4Addr},
};

use lb_common::{
    Be16, Ipv4, flow,
    limits::{MAX_INTERFACES, MAX_LISTENER_ADDRESSES, MAX_VLAN_TAGS, NO_TARGET},
    listener::{ListenerEntry, ListenerKey, ListenerKey4},
    settings::{InterfaceEntry, Settings, VlanTag},
    target::TargetEntry,
};

use super::{Ids, MapState, Problem, TargetKey};
use crate::{
    config::{Config, Listener, OnUnhealthy, Protocol, Target, TargetGroup, Timeouts},
    dataplane::XdpHook,
    host::{Host, Interface, Route},
    maglev::{self, Member},
};

/// What matters of a target's health here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// No result yet.
    Initial,
    Healthy,
    Unhealthy,
}

/// What the maps' contents follow from.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    pub host: &'a Host,
    /// Where the programs are attached, by interface index.
    pub attached: &'a BTreeMap<u32, XdpHook>,
    /// Of everything in `config`.
    pub ids: &'a Ids,
}

/// What the maps should hold, and what of the configuration can't be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    pub state: MapState,
    pub problems: Vec<Problem>,
}

/// Works out the maps' contents.
#[must_use]
pub fn desired(inputs: &Inputs<'_>, health: impl Fn(&TargetKey) -> Availability) -> Desired {
    let config = inputs.config;
    let mut problems = BTreeMap::new();
    let mut state = MapState {
        settings: settings(config.hash_key, &config.timeouts),
        interfaces: interface_entries(inputs),
        ..MapState::default()
    };
    check_interfaces(inputs, &mut problems);
    let used: BTreeSet<usize> = config.listeners.iter().map(|l| l.target_group).collect();
    for group in used
        .iter()
        .filter_map(|&index| config.target_groups.get(index))
    {
        add_group(inputs, group, &health, &mut state, &mut problems);
    }
    add_listeners(inputs, &mut state, &mut problems);
    check_forwarding(inputs, &state, &mut problems);
    Desired {
        state,
        problems: problems.into_values().collect(),
    }
}

/// The configured interfaces as the host has them, in their order.
///
/// # Errors
/// For each that isn't there, is down, or has no Ethernet frames.
pub fn interfaces<'a>(
    config: &'a Config,
    host: &'a Host,
) -> impl Iterator<Item = Result<&'a Interface, Problem>> {
    config
        .interfaces
        .iter()
        .map(|name| match host.interface(name) {
            Some(interface) if !interface.ethernet => {
                Err(Problem::NotEthernet { name: name.clone() })
            }
            Some(interface) if interface.up => Ok(interface),
            Some(_) => Err(Problem::InterfaceDown { name: name.clone() }),
            None => Err(Problem::NoInterface {
                name: name.clone(),
                similar: host
                    .interfaces
                    .values()
                    .map(|i| i.name.clone())
                    .filter(|n| n != "lo")
                    .collect(),
            }),
        })
}

/// An interface may go down or away while xlb runs.
fn check_interfaces(inputs: &Inputs<'_>, problems: &mut Problems) {
    for problem in interfaces(inputs.config, inputs.host).filter_map(Result::err) {
        report(problems, problem);
    }
}

/// Problems by their text, so that each is reported once.
type Problems = BTreeMap<String, Problem>;

fn report(problems: &mut Problems, problem: Problem) {
    problems.insert(problem.to_string(), problem);
}

fn settings(hash_key: u64, timeouts: &Timeouts) -> Settings {
    let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    Settings {
        hash_key,
        half_open_timeout: seconds(timeouts.tcp_half_open),
        established_timeout: seconds(timeouts.tcp_established),
        closing_timeout: seconds(timeouts.tcp_closing),
        udp_timeout: seconds(timeouts.udp),
    }
}

/// How to send out of each interface that is up.
fn interface_entries(inputs: &Inputs<'_>) -> BTreeMap<u32, InterfaceEntry> {
    let interfaces = &inputs.host.interfaces;
    let mut entries: Vec<(u32, InterfaceEntry)> = interfaces
        .values()
        .filter(|interface| interface.up)
        .filter_map(|interface| Some((interface.index, interface_entry(inputs, interface)?)))
        .collect();
    // A host may have more than the map holds. One without flags is sent out
    // of by the kernel, as one without an entry is.
    entries.sort_by_key(|&(index, entry)| (entry.flags == 0, index));
    entries.truncate(MAX_INTERFACES as usize);
    entries.into_iter().collect()
}

/// `None` if the kernel must do it: the parent isn't known, or there are more
/// tags than XDP handles.
fn interface_entry(inputs: &Inputs<'_>, interface: &Interface) -> Option<InterfaceEntry> {
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
        flags: capabilities(inputs, device),
        tag_count: tag_count as u16,
        tags,
    })
}

fn capabilities(inputs: &Inputs<'_>, device: &Interface) -> u16 {
    let takes_redirects = device
        .xdp_features
        .is_some_and(|features| features.takes_redirects());
    let hook = inputs.attached.get(&device.index);
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
    let transmit = match hook {
        Some(XdpHook::Generic) => InterfaceEntry::TRANSMIT,
        // XDP_TX on a veth is lost unless its peer has a program too, which
        // can't be seen from here; a redirect to itself does the same.
        Some(XdpHook::Native) if device.kind.as_deref() != Some("veth") => InterfaceEntry::TRANSMIT,
        _ => 0,
    };
    redirect | transmit
}

fn add_group(
    inputs: &Inputs<'_>,
    group: &TargetGroup,
    health: &impl Fn(&TargetKey) -> Availability,
    state: &mut MapState,
    problems: &mut Problems,
) {
    let Some(group_id) = inputs.ids.group(&group.name) else {
        return;
    };
    let mut candidates = Vec::new();
    for target in &group.targets {
        let key = TargetKey::new(group, target);
        let Some(id) = inputs.ids.target(&key) else {
            continue;
        };
        match target_entry(inputs, group, target, id) {
            Ok(entry) => candidates.push((id, target, entry, health(&key))),
            Err(problem) => report(problems, problem),
        }
    }
    let chosen = choose(group, candidates.iter().map(|&(.., health)| health));
    let mut members = Vec::new();
    for (id, target, mut entry, health) in candidates {
        let accepts = match chosen {
            Chosen::Healthy => health == Availability::Healthy,
            Chosen::All => true,
        };
        if accepts {
            entry.flags |= TargetEntry::ACCEPTS;
            members.push(member(id, target));
        }
        if accepts || group.on_unhealthy == OnUnhealthy::Keep {
            entry.flags |= TargetEntry::KEEPS;
        }
        state.targets.insert(id, entry);
    }
    let slots = maglev::build(&members, group.table_size, inputs.config.hash_key);
    state.tables.insert(group_id, slots);
}

enum Chosen {
    Healthy,
    All,
}

/// A group fails open when every target has had a result and none is healthy.
fn choose(group: &TargetGroup, health: impl Iterator<Item = Availability>) -> Chosen {
    let mut open = group.fail_open;
    for health in health {
        open &= health == Availability::Unhealthy;
    }
    if open { Chosen::All } else { Chosen::Healthy }
}

fn member(id: u32, target: &Target) -> Member {
    Member {
        identity: maglev::identity(target.address, target.port.get()),
        // Ids are below MAX_TARGETS, far below NO_TARGET.
        id: u16::try_from(id).unwrap_or(NO_TARGET),
        weight: target.weight,
    }
}

/// The target's entry without the flags that its health decides.
fn target_entry(
    inputs: &Inputs<'_>,
    group: &TargetGroup,
    target: &Target,
    id: u32,
) -> Result<TargetEntry, Problem> {
    let mut entry = TargetEntry {
        port: Be16::new(target.port.get()),
        generation: inputs.ids.generation(id),
        ..TargetEntry::default()
    };
    // Validation lets no IPv6 address through yet.
    let Some(IpAddr::V4(address)) = target.address else {
        entry.flags = TargetEntry::LOCAL;
        return Ok(entry);
    };
    entry.address = wide(address);
    match inputs.host.routes.get(&address) {
        Some(Route::Local) => entry.flags = TargetEntry::LOCAL,
        Some(&Route::Unicast { interface, source }) if !group.preserve_client_ip => {
            if !is_attached(inputs, interface) {
                let interface = name(inputs.host, interface);
                let group = group.name.clone();
                return Err(Problem::NotAttached {
                    group,
                    address,
                    interface,
                });
            }
            entry.flags = TargetEntry::SOURCE_NAT;
            entry.source = wide(source);
            entry.first_source_port = *inputs.config.source_ports.start();
            entry.last_source_port = *inputs.config.source_ports.end();
        }
        Some(Route::Unicast { .. }) => {}
        None => {
            return Err(Problem::NoRoute {
                group: group.name.clone(),
                address,
            });
        }
    }
    Ok(entry)
}

/// Whether packets that come in by an interface meet the programs: at the
/// interface itself, at the device that it is a VLAN of, or at a port of the
/// bridge or bond that either is.
fn is_attached(inputs: &Inputs<'_>, index: u32) -> bool {
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

fn name(host: &Host, index: u32) -> String {
    host.interfaces
        .get(&index)
        .map_or_else(|| format!("#{index}"), |i| i.name.clone())
}

fn wide(address: Ipv4Addr) -> [u8; 16] {
    let mut wide = [0; 16];
    wide[..4].copy_from_slice(&address.octets());
    wide
}

fn add_listeners(inputs: &Inputs<'_>, state: &mut MapState, problems: &mut Problems) {
    // Those with an address last: they win over those without.
    let (any, exact): (Vec<_>, Vec<_>) = inputs
        .config
        .listeners
        .iter()
        .partition(|listener| listener.address.is_none());
    for listener in any.into_iter().chain(exact) {
        let Some(entry) = listener_entry(inputs, listener) else {
            continue;
        };
        for address in listener_addresses(inputs, listener, problems) {
            if state.listeners.len() == MAX_LISTENER_ADDRESSES as usize {
                report(
                    problems,
                    Problem::TooManyAddresses {
                        limit: MAX_LISTENER_ADDRESSES,
                    },
                );
                return;
            }
            state
                .listeners
                .insert(listener_key(listener, address), entry);
        }
    }
}

fn listener_entry(inputs: &Inputs<'_>, listener: &Listener) -> Option<ListenerEntry> {
    let group = &inputs.config.target_groups[listener.target_group];
    Some(ListenerEntry {
        id: inputs.ids.listener(&listener.name)?,
        group: inputs.ids.group(&group.name)?,
        table_size: group.table_size,
        padding: 0,
    })
}

fn listener_key(listener: &Listener, address: Ipv4Addr) -> ListenerKey4 {
    let protocol = match listener.protocol {
        Protocol::Tcp => flow::TCP,
        Protocol::Udp => flow::UDP,
    };
    ListenerKey::new(
        Ipv4::from(address),
        Be16::new(listener.port.get()),
        protocol,
    )
}

fn listener_addresses(
    inputs: &Inputs<'_>,
    listener: &Listener,
    problems: &mut Problems,
) -> Vec<Ipv4Addr> {
    match listener.address {
        Some(IpAddr::V4(address)) => vec![address],
        Some(IpAddr::V6(_)) => Vec::new(),
        None => {
            let mut all = Vec::new();
            for name in &inputs.config.interfaces {
                // One that is missing has been reported as such.
                let Some(interface) = inputs.host.interface(name) else {
                    continue;
                };
                if interface.addresses.is_empty() {
                    report(problems, Problem::NoAddress { name: name.clone() });
                }
                all.extend_from_slice(&interface.addresses);
            }
            all
        }
    }
}

/// `bpf_fib_lookup` answers only for interfaces that forward.
fn check_forwarding(inputs: &Inputs<'_>, state: &MapState, problems: &mut Problems) {
    if state
        .targets
        .values()
        .all(|target| target.has(TargetEntry::LOCAL))
    {
        return;
    }
    for index in inputs.attached.keys() {
        if let Some(interface) = inputs.host.interfaces.get(index)
            && !interface.forwarding
        {
            report(
                problems,
                Problem::ForwardingOff {
                    interface: interface.name.clone(),
                },
            );
        }
    }
}
