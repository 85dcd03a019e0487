//! What the maps should hold, case by case, and the diff's properties.

mod families;
mod forwarding;
mod groups;
mod interfaces;
mod operator;
mod protection;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use lb_common::{
    Be16, flow,
    limits::NO_TARGET,
    listener::{ListenerEntry, VipEntry},
    settings::{InterfaceEntry, VlanTag},
    target::TargetEntry,
};
use proptest::prelude::*;

use super::*;
use crate::{
    config::{self, Config},
    dataplane::XdpHook,
    host::{Forwarding, Host, Interface, Route, Vlan, Way, XdpFeatures},
};

const ETH0: u32 = 2;
const ETH1: u32 = 3;

fn config(more: &str) -> Config {
    let text = format!("interface = [\"eth0\"]\n{more}");
    config::parse(&text, "x")
        .unwrap_or_else(|errors| panic!("{errors}"))
        .config
}

/// One group behind one listener.
fn group(listen: &str, attributes: &str) -> String {
    format!(
        "[[listener]]\nname = \"web\"\naddress = \"{listen}\"\ntarget_group = \"api\"\n\
         [[target_group]]\nname = \"api\"\ntable_size = 251\n{attributes}\n"
    )
}

fn interface(index: u32, name: &str, address: [u8; 4]) -> Interface {
    Interface {
        index,
        name: name.into(),
        up: true,
        ethernet: true,
        addresses: vec![address.into()],
        xdp_features: Some(XdpFeatures(0b111)),
        forwarding: Forwarding { v4: true, v6: true },
        ..Interface::default()
    }
}

/// eth0 10.0.1.1 towards clients, eth1 10.0.2.1; 10.0.1.9 is behind eth0,
/// 10.0.2.9 behind eth1.
fn host() -> Host {
    let interfaces = [
        interface(ETH0, "eth0", [10, 0, 1, 1]),
        interface(ETH1, "eth1", [10, 0, 2, 1]),
    ];
    let unicast = |interface, source: [u8; 4]| {
        Route::Unicast(Way {
            interface,
            source: source.into(),
            gateway: false,
        })
    };
    let address = |address: [u8; 4]| IpAddr::from(address);
    Host {
        interfaces: interfaces.into_iter().map(|i| (i.index, i)).collect(),
        routes: BTreeMap::from([
            (address([10, 0, 1, 1]), Route::Local),
            (address([10, 0, 1, 9]), unicast(ETH0, [10, 0, 1, 1])),
            (address([10, 0, 2, 9]), unicast(ETH1, [10, 0, 2, 1])),
        ]),
        ..Host::default()
    }
}

fn wanted(
    config: &Config,
    host: &Host,
    hook: XdpHook,
    health: impl Fn(&TargetKey) -> Availability,
) -> Desired {
    let mut ids = Ids::new(config.capacity);
    ids.assign(config, &BTreeSet::new());
    let attached = BTreeMap::from([(ETH0, hook)]);
    desired(
        &Inputs {
            config,
            host,
            attached: &attached,
            ids: &ids,
            draining: &BTreeSet::new(),
            slow_starts: &BTreeMap::new(),
            weights: &BTreeMap::new(),
            applied: &MapState::default(),
        },
        &mut Tables::default(),
        health,
    )
}

fn healthy(_: &TargetKey) -> Availability {
    Availability::Healthy
}

#[test]
fn targets_are_local_or_rewritten_as_their_route_says() {
    let list = "targets = [\":8081\", \"10.0.1.1:8082\", \"10.0.1.9:80\"]";
    let config = config(&group(":80", list));
    let got = wanted(&config, &host(), XdpHook::Native, healthy);
    assert_eq!(got.problems, []);
    let flags = |port: u16| {
        let target = got
            .state
            .targets
            .values()
            .find(|t| t.port == Be16::new(port))
            .unwrap();
        (
            target.flags & (TargetEntry::LOCAL | TargetEntry::SOURCE_NAT),
            target.address,
            target.source,
        )
    };
    let wide = |a: u8, b: u8| lb_common::wire::wide(Ipv4Addr::new(10, 0, a, b).into());
    assert_eq!(flags(8081), (TargetEntry::LOCAL, [0; 4], [0; 4]));
    assert_eq!(flags(8082), (TargetEntry::LOCAL, wide(1, 1), [0; 4]));
    assert_eq!(flags(80), (TargetEntry::SOURCE_NAT, wide(1, 9), wide(1, 1)));
    let nat = got
        .state
        .targets
        .values()
        .find(|t| t.has(TargetEntry::SOURCE_NAT))
        .unwrap();
    assert_eq!((nat.first_source_port, nat.last_source_port), (1024, 32767));
}

/// Each look at the host voids what the data path keeps of it; with policy
/// rules nothing is kept.
#[test]
fn answers_of_the_routing_table_are_kept_unless_rules_look_at_more() {
    let config = config(&group(":80", "targets = [\":8081\"]"));
    let epoch = |number, policy_rules| {
        let host = Host {
            number,
            policy_rules,
            ..host()
        };
        let got = wanted(&config, &host, XdpHook::Native, healthy);
        got.state.settings.route_epoch
    };
    assert_eq!(
        [epoch(7, false), epoch(8, false), epoch(9, true)],
        [7, 8, 0]
    );
}

#[test]
fn what_does_not_work_is_said_and_left_out() {
    let list = "targets = [\"10.0.1.9:80\", \"10.0.2.9:80\", \"10.0.3.9:80\"]";
    let got = wanted(
        &config(&group(":80", list)),
        &host(),
        XdpHook::Native,
        healthy,
    );
    let said: Vec<String> = got.problems.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("10.0.2.9") && said[0].contains("add \"eth1\" to `interface`"));
    assert!(said[1].contains("10.0.3.9") && said[1].contains("no route"));
    assert_eq!(got.state.targets.len(), 1);

    let kept = format!("preserve_client_ip = true\n{list}");
    let got = wanted(
        &config(&group(":80", &kept)),
        &host(),
        XdpHook::Native,
        healthy,
    );
    assert_eq!(
        got.problems.len(),
        1,
        "the egress program restores what the kernel forwards"
    );

    let mut host = host();
    host.interfaces.get_mut(&ETH0).unwrap().forwarding.v4 = false;
    let got = wanted(
        &config(&group(":80", "targets = [\"10.0.1.9:80\"]")),
        &host,
        XdpHook::Native,
        healthy,
    );
    assert!(
        got.problems[0]
            .to_string()
            .contains("sysctl -w net.ipv4.ip_forward=1")
    );
    let got = wanted(
        &config(&group(":80", "targets = [\":81\"]")),
        &host,
        XdpHook::Native,
        healthy,
    );
    assert_eq!(got.problems, [], "local targets need no forwarding");
}

#[test]
fn health_decides_who_is_in_the_table_and_whose_flows_go_on() {
    use Availability::{Healthy as H, Initial as I, Unhealthy as U};
    // (health of :1 and :2, attributes, in the table, keeping their flows)
    type Case<'a> = ([Availability; 2], &'a str, &'a [u16], &'a [u16]);
    let cases: &[Case<'_>] = &[
        ([H, H], "", &[1, 2], &[1, 2]),
        ([H, U], "", &[1], &[1]),
        ([H, I], "", &[1], &[1]),
        ([H, U], "on_unhealthy = \"keep\"", &[1], &[1, 2]),
        ([I, I], "", &[], &[]),
        ([I, U], "", &[], &[]),
        ([U, U], "", &[1, 2], &[1, 2]),
        ([U, U], "fail_open = false", &[], &[]),
        (
            [U, U],
            "fail_open = false\non_unhealthy = \"keep\"",
            &[],
            &[1, 2],
        ),
    ];
    for (health, attributes, accepting, keeping) in cases {
        let config = config(&group(
            ":80",
            &format!("{attributes}\ntargets = [\":1\", \":2\"]"),
        ));
        let of = |key: &TargetKey| health[usize::from(key.port) - 1];
        let state = wanted(&config, &host(), XdpHook::Native, of).state;
        let with = |flag| -> Vec<u16> {
            state
                .targets
                .values()
                .filter(|t| t.has(flag))
                .map(|t| t.port.get())
                .collect()
        };
        assert_eq!(
            with(TargetEntry::ACCEPTS),
            *accepting,
            "{health:?} {attributes}"
        );
        assert_eq!(
            with(TargetEntry::KEEPS),
            *keeping,
            "{health:?} {attributes}"
        );
        let mut slots: Vec<u16> = state.tables[&0].to_vec();
        slots.sort_unstable();
        slots.dedup();
        let expected: Vec<u16> = if accepting.is_empty() {
            vec![NO_TARGET]
        } else {
            accepting.iter().map(|port| port - 1).collect()
        };
        assert_eq!(slots, expected, "{health:?} {attributes}");
    }
}

#[test]
fn a_group_that_no_listener_uses_has_nothing() {
    let spare = "[[target_group]]\nname = \"spare\"\ntargets = [\":9\"]\n";
    let config = config(&(group(":80", "targets = [\":1\"]") + spare));
    let state = wanted(&config, &host(), XdpHook::Native, healthy).state;
    assert_eq!((state.tables.len(), state.targets.len()), (1, 1));
}

#[test]
fn a_removed_targets_id_comes_back_with_another_generation() {
    let capacity = config(
        "capacity.targets = 1\n[[listener]]\naddress = \":80\"\ntarget_group = \"a\"\n\
                           [[target_group]]\nname = \"a\"\ntargets = [\":1\"]",
    )
    .capacity;
    let mut ids = Ids::new(capacity);
    let first = config(&group(":80", "targets = [\":1\"]"));
    let second = config(&group(":80", "targets = [\":2\"]"));
    let key = |config: &Config| {
        TargetKey::new(
            &config.target_groups[0],
            &config.target_groups[0].targets[0],
        )
    };
    ids.assign(&first, &BTreeSet::new());
    let before = (ids.target(&key(&first)), ids.generation(0));
    ids.assign(&second, &BTreeSet::new());
    assert_eq!(ids.target(&key(&first)), None);
    let after = (ids.target(&key(&second)), ids.generation(0));
    assert_eq!((before.0, after.0), (Some(0), Some(0)));
    assert_ne!(before.1, after.1);
    assert_eq!(key(&first).address, None::<IpAddr>);
}

/// Random contents of the maps, small enough to overlap often.
fn state() -> impl Strategy<Value = MapState> {
    let target = (0u16..4, 0u16..8).prop_map(|(port, flags)| TargetEntry {
        port: Be16::new(port),
        flags,
        ..TargetEntry::default()
    });
    let listener = (0u32..3, 0u32..3).prop_map(|(id, group)| ListenerEntry {
        id,
        group,
        ..ListenerEntry::default()
    });
    let key = (any::<bool>(), 0u8..3, 1u16..4).prop_map(|(v6, last, port)| {
        let address = match v6 {
            false => Ipv4Addr::new(10, 0, 0, last).into(),
            true => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)]),
        };
        Place::port(address, port, flow::TCP)
    });
    let vip = (0u8..3, 0u32..4);
    let interface = (0u16..4).prop_map(|flags| InterfaceEntry {
        flags,
        ..Default::default()
    });
    let slots = prop_oneof![
        proptest::collection::vec(0u16..3, 10),
        proptest::collection::vec(0u16..3, 13)
    ]
    .prop_map(Slots::from);
    (
        0u32..3,
        proptest::collection::btree_map(0u32..4, interface, 0..4),
        proptest::collection::btree_map(key, listener, 0..6),
        proptest::collection::btree_map(0u32..3, slots, 0..3),
        proptest::collection::btree_map(0u32..6, target, 0..6),
        proptest::collection::vec(vip, 0..3),
        proptest::collection::btree_set(0u64..4, 0..3),
    )
        .prop_map(
            |(timeout, interfaces, listeners, tables, targets, vips, macs)| {
                let vip = |(last, flags)| ([10, 0, 0, last].into(), VipEntry { flags });
                let mut state = MapState {
                    interfaces,
                    macs,
                    listeners,
                    tables,
                    targets,
                    vips: vips.into_iter().map(vip).collect(),
                    ..Default::default()
                };
                state.settings.udp_timeout = timeout;
                state
            },
        )
}

proptest! {
    #[test]
    fn the_diff_converges(from in state(), to in state()) {
        let mut now = from.clone();
        for change in diff(&from, &to) {
            now.apply(&change);
        }
        prop_assert_eq!(&now, &to);
        prop_assert_eq!(diff(&to, &to), vec![]);
    }

    #[test]
    fn no_change_is_empty_or_written_twice(from in state(), to in state()) {
        let mut now = from.clone();
        for change in diff(&from, &to) {
            let before = now.clone();
            now.apply(&change);
            prop_assert_ne!(before, now.clone(), "{:?} changes nothing", change);
        }
    }

    #[test]
    fn nothing_goes_before_what_names_it(from in state(), to in state()) {
        let changes = diff(&from, &to);
        let last = |is: fn(&Change) -> bool| changes.iter().rposition(is);
        let first = |is: fn(&Change) -> bool| changes.iter().position(is).unwrap_or(usize::MAX);
        let tables = first(|c| matches!(c, Change::CreateTable { .. } | Change::SetSlots { .. }));
        prop_assert!(last(|c| matches!(c, Change::SetTarget(..))).is_none_or(|at| at < tables));
        let gone = first(|c| matches!(c, Change::RemoveTable { .. } | Change::ClearTarget(_)));
        let listeners = |c: &Change| matches!(c, Change::SetListener(..) | Change::RemoveListener(_));
        prop_assert!(last(listeners).is_none_or(|at| at < gone));
    }
}
