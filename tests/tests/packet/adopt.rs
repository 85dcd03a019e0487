//! Pinned maps are read back as they were written.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::{
    Be16, flow,
    listener::{ListenerEntry, ListenerLimits, VipEntry},
    settings::{InterfaceEntry, Settings, VlanTag},
    target::TargetEntry,
};
use lb_user::{
    address::Prefix,
    config::{Capacity, Rule},
    dataplane::{Dataplane, Pins},
    reconcile::{Block, MapState, Place, PlacePorts, UNKNOWN_SLOT, diff},
};
use xlb_tests::{directory::Directory, require_root};

const SMALL: Capacity = Capacity {
    listeners: 8,
    targets: 8,
    flows: 8,
    half_open_flows: 8,
};
const ADDRESSES: [&str; 2] = ["10.0.0.1", "2001:db8::1"];

/// Something in every map, of both families.
fn state() -> MapState {
    let mut state = MapState {
        settings: Settings {
            hash_key: 7,
            half_open_timeout: 1,
            established_timeout: 2,
            closing_timeout: 3,
            udp_timeout: 4,
            route_epoch: 5,
            paused_until: 0,
        },
        macs: BTreeSet::from([1, 0xAABB_CCDD_EEFF]),
        ..MapState::default()
    };
    let interface = InterfaceEntry {
        device: 3,
        flags: InterfaceEntry::REDIRECT,
        tag_count: 1,
        tags: [
            VlanTag {
                protocol: 0x8100,
                id: 10,
            },
            VlanTag::default(),
        ],
    };
    state.interfaces.insert(2, interface);
    let limits = ListenerLimits {
        new_flows: 9,
        new_flows_per_source: 0,
        prefix_v4: 32,
        prefix_v6: 64,
    };
    state.limits.insert(1, limits);
    let mut rules = Vec::new();
    for (n, address) in (1..).zip(ADDRESSES) {
        let address: IpAddr = address.parse().unwrap();
        let entry = ListenerEntry {
            id: n,
            group: n,
            table_size: 251,
            flags: ListenerEntry::LIMITED,
            security_group: 1,
        };
        let block = Block {
            first: 8_000,
            open_bits: 5,
        };
        for (protocol, ports) in [
            (flow::TCP, PlacePorts::One(80)),
            (flow::UDP, PlacePorts::Block(block)),
        ] {
            let place = Place {
                address,
                protocol,
                ports,
            };
            state.listeners.insert(place, entry);
        }
        let flags = VipEntry::OWNED | VipEntry::RANGES;
        state.vips.insert(address, VipEntry { flags });
        for length in [0, 8, 24] {
            let prefix = Prefix::around(address, length).unwrap();
            let rule = if length == 8 { Rule::Deny } else { Rule::Allow };
            rules.push((prefix, rule));
        }
        let target = TargetEntry {
            address: [n, 2, 3, 4],
            port: Be16::new(8_080),
            flags: TargetEntry::ACCEPTS,
            generation: 1 + n,
            ..TargetEntry::default()
        };
        state.targets.insert(n, target);
        state.tables.insert(n, vec![n as u16; 251].into());
    }
    rules.sort_unstable_by_key(|&(prefix, _)| prefix);
    state.security_groups = BTreeMap::from([(1, Arc::from(rules))]);
    state
}

fn load(directory: &Directory) -> Dataplane {
    let bpffs = xlb_tests::directory::bpffs(directory.path());
    let pins = Pins::open(&bpffs, "adopt").unwrap();
    Dataplane::load_pinned(&SMALL, pins).unwrap()
}

fn write(dataplane: &mut Dataplane, from: &MapState, to: &MapState) {
    for change in diff(from, to) {
        dataplane.apply(&change).unwrap();
    }
}

#[test]
fn what_is_pinned_is_read_back() {
    require_root().unwrap();
    let directory = Directory::create().unwrap();
    let state = state();
    let mut first = load(&directory);
    assert!(!first.is_adopted());
    assert_eq!(first.observe().unwrap(), MapState::default());
    write(&mut first, &MapState::default(), &state);
    drop(first);

    let mut second = load(&directory);
    assert!(second.is_adopted());
    let observed = second.observe().unwrap();
    let mut expected = state.clone();
    for slots in expected.tables.values_mut() {
        *slots = vec![UNKNOWN_SLOT; slots.len()].into();
    }
    assert_eq!(observed, expected);
    // What is read back is good enough to be changed: all of it goes.
    write(&mut second, &observed, &MapState::default());
    let mut left = second.observe().unwrap();
    left.tables.clear();
    assert_eq!(left, MapState::default());

    second.unpin().unwrap();
    drop(second);
    assert!(!load(&directory).is_adopted());
}
