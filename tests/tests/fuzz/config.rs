//! What the agent might have written: a group and an address for each way to a
//! target, in both families.

use std::net::IpAddr;

use lb_common::{
    Be16, flow,
    listener::{ListenerEntry, VipEntry},
    settings::{InterfaceEntry, Settings},
    target::{Encapsulation, TargetEntry},
    wire::wide,
};
use lb_user::{
    address::Prefix,
    config::{Rule, Rules},
    reconcile::{Block, MapState, Place, PlacePorts, Slots},
};

use super::world::{at, beyond, mac};

/// Slots of every table.
pub const TABLE_SIZE: u32 = 251;
/// Ids of one family's targets, groups and listeners; the other one's follow.
pub const TARGETS: u32 = 20;
pub const GROUPS: u32 = 10;

pub const SETTINGS: Settings = Settings {
    hash_key: 0x5EED_0F00_BA11_AD00,
    half_open_timeout: 60,
    established_timeout: 350,
    closing_timeout: 30,
    udp_timeout: 120,
    route_epoch: 0,
    paused_until: 0,
};

/// The address that a group's listeners have.
pub fn vip(v6: bool, group: u32) -> IpAddr {
    // The first group's targets are this host's, and so is the address.
    at(v6, 1, if group == 0 { 1 } else { 10 + group as u8 })
}

pub fn base(interfaces: [u32; 3]) -> MapState {
    let mut state = MapState {
        settings: SETTINGS,
        ..MapState::default()
    };
    for (n, index) in (1u8..).zip(interfaces) {
        let entry = InterfaceEntry {
            device: index,
            flags: InterfaceEntry::TRANSMIT | InterfaceEntry::REDIRECT,
            ..InterfaceEntry::default()
        };
        state.interfaces.insert(index, entry);
        let [a, b, c, d, e, f] = mac(n, 1);
        let address = u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]);
        state.macs.insert(address);
    }
    state.security_groups.insert(1, rules(Rule::Allow));
    state.security_groups.insert(2, rules(Rule::Deny));
    for v6 in [false, true] {
        add_targets(&mut state, v6);
        add_groups(&mut state, v6);
    }
    state
}

/// Everybody, but for some clients and some of those again.
pub fn rules(default: Rule) -> Rules {
    let other = match default {
        Rule::Allow => Rule::Deny,
        Rule::Deny => Rule::Allow,
    };
    let mut rules = Vec::new();
    for v6 in [false, true] {
        let (all, most) = if v6 { (128, 64) } else { (32, 24) };
        let prefix = |address, length| Prefix::around(address, length).unwrap();
        rules.push((prefix(at(v6, 1, 2), 0), default));
        rules.push((prefix(at(v6, 1, 2), most), other));
        rules.push((prefix(at(v6, 1, 3), all), default));
        rules.push((prefix(beyond(v6, 1), all - 1), other));
    }
    rules.sort_unstable_by_key(|(prefix, _)| *prefix);
    rules.into()
}

fn first(v6: bool, each: u32) -> u32 {
    u32::from(v6) * each
}

fn add_targets(state: &mut MapState, v6: bool) {
    let family = if v6 { TargetEntry::IPV6 } else { 0 };
    let plain = |network, host, port| TargetEntry {
        flags: TargetEntry::ACCEPTS | TargetEntry::KEEPS | family,
        generation: 1,
        address: wide(at(v6, network, host)),
        port: Be16::new(port),
        ..TargetEntry::default()
    };
    let local = |address, port| TargetEntry {
        address,
        flags: plain(1, 1, 0).flags | TargetEntry::LOCAL,
        ..plain(1, 1, port)
    };
    let nat = |network, host, port, ports: u16| TargetEntry {
        flags: plain(1, 1, 0).flags | TargetEntry::SOURCE_NAT,
        source: wide(at(v6, network, 1)),
        first_source_port: 20_000,
        last_source_port: 20_000 + ports - 1,
        ..plain(network, host, port)
    };
    let dsr = |network, host, encapsulation: Encapsulation| TargetEntry {
        flags: plain(1, 1, 0).flags | TargetEntry::DSR,
        source: wide(at(v6, network, 1)),
        encapsulation: encapsulation as u8,
        encapsulation_port: Be16::new(6080 + u16::from(encapsulation as u8)),
        virtual_network: 0xAB_CDEF,
        source_bits: 8 * u8::from(encapsulation == Encapsulation::Gue),
        ..plain(network, host, 0)
    };
    let targets = [
        local([0; 4], 8081),
        local(wide(at(v6, 2, 1)), 8082),
        nat(2, 2, 8080, 1000),
        nat(2, 3, 0, 8),
        plain(2, 2, 8080),
        plain(2, 3, 0),
        dsr(2, 2, Encapsulation::None),
        dsr(2, 2, Encapsulation::Ipip),
        dsr(2, 3, Encapsulation::Gue),
        dsr(2, 2, Encapsulation::Geneve),
        nat(3, 2, 8080, 40),
        nat(2, 99, 8080, 3),
        plain(21, 1, 8080),
        plain(1, 5, 8080),
        dsr(21, 1, Encapsulation::Ipip),
        dsr(2, 99, Encapsulation::None),
        dsr(3, 2, Encapsulation::Ipip),
        dsr(2, 99, Encapsulation::Geneve),
        dsr(1, 5, Encapsulation::Ipip),
        dsr(1, 5, Encapsulation::Gue),
    ];
    let ids = first(v6, TARGETS)..;
    state.targets.extend(ids.zip(targets));
}

/// The targets of each group.
const MEMBERS: [&[u16]; GROUPS as usize] = [
    &[0, 1],
    &[2, 3],
    &[4, 5],
    &[6, 15],
    &[7, 8, 9, 16],
    &[10],
    &[11, 12],
    &[13, 14, 18, 19],
    // Of the other family, see `members`.
    &[7, 8, 9, 17],
    &[2, 3, 10, 5],
];

pub fn members(v6: bool, group: u32) -> Vec<u16> {
    let other = group == 8;
    let offset = first(v6 != other, TARGETS) as u16;
    MEMBERS[group as usize]
        .iter()
        .map(|id| id + offset)
        .collect()
}

pub fn slots(members: &[u16]) -> Slots {
    let all = members.iter().cycle().take(TABLE_SIZE as usize);
    all.copied().collect()
}

fn add_groups(state: &mut MapState, v6: bool) {
    for group in 0..GROUPS {
        let id = first(v6, GROUPS) + group;
        state.tables.insert(id, slots(&members(v6, group)));
        let address = vip(v6, group);
        let owned = if group == 0 { 0 } else { VipEntry::OWNED };
        let flags = owned | VipEntry::RANGES;
        state.vips.insert(address, VipEntry { flags });
        for protocol in [flow::TCP, flow::UDP] {
            let udp = protocol == flow::UDP;
            let listener = ListenerEntry {
                id: 2 * id + u32::from(udp),
                group: id,
                table_size: TABLE_SIZE,
                ..ListenerEntry::default()
            };
            let port = if udp { 53 } else { 80 };
            let place = Place::port(address, port, protocol);
            state.listeners.insert(place, listener);
            for block in ranges(group) {
                let ports = PlacePorts::Block(block);
                let place = Place { ports, ..place };
                state.listeners.insert(place, listener);
            }
        }
    }
}

fn ranges(group: u32) -> Vec<Block> {
    let block = |first, open_bits| Block { first, open_bits };
    match group {
        // Every port, but not so that this host's own ports are taken.
        3 => vec![block(0, 16)],
        7 => vec![block(8000, 3), block(8008, 0)],
        _ => vec![block(8000, 3)],
    }
}
