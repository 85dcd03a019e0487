use lb_common::limits::MAX_INTERFACES;

use super::*;

#[test]
fn of_more_interfaces_than_the_map_holds_the_useful_ones_are_in_it() {
    let config = config(&group(":80", "targets = [\":1\"]"));
    let mut host = host();
    for index in 100..600 {
        let mut device = interface(index, "v", [10, 9, 0, 1]);
        if index != 599 {
            device.xdp_features = None;
        }
        host.interfaces.insert(index, device);
    }
    let entries = wanted(&config, &host, XdpHook::Native, healthy)
        .state
        .interfaces;
    assert_eq!(entries.len(), MAX_INTERFACES as usize);
    assert_eq!(entries[&599].flags, InterfaceEntry::REDIRECT);
    assert!(entries.contains_key(&ETH0));
}

/// eth1 is a port of a bridge, and a VLAN on that bridge leads to the target.
#[test]
fn replies_are_seen_on_a_port_of_a_bridge() {
    const BRIDGE: u32 = 20;
    let config = config(&group(":80", "targets = [\"10.0.9.9:80\"]"));
    let mut host = host();
    let mut vlan = interface(21, "br0.5", [10, 0, 9, 1]);
    let tag = VlanTag {
        protocol: 0x8100,
        id: 5,
    };
    vlan.vlan = Some(Vlan {
        parent: BRIDGE,
        tag,
    });
    for device in [interface(BRIDGE, "br0", [10, 0, 8, 1]), vlan] {
        host.interfaces.insert(device.index, device);
    }
    let route = Route::Unicast(Way {
        interface: 21,
        source: [10, 0, 9, 1].into(),
        gateway: false,
    });
    host.routes.insert([10, 0, 9, 9].into(), route);
    let problems = |host: &Host| wanted(&config, host, XdpHook::Native, healthy).problems;
    assert_eq!(problems(&host).len(), 1, "eth0 isn't on the way");
    host.interfaces.get_mut(&ETH0).unwrap().controller = Some(BRIDGE);
    assert_eq!(problems(&host), []);
}

/// Generic XDP sends by the stack; that needs no driver, but Ethernet.
#[test]
fn generic_mode_redirects_to_ethernet_only() {
    let config = config(&group(":80", "targets = [\":1\"]"));
    let mut host = host();
    for (index, ethernet) in [(30, true), (31, false)] {
        let mut device = interface(index, "v", [10, 9, 0, 1]);
        device.xdp_features = None;
        device.ethernet = ethernet;
        host.interfaces.insert(index, device);
    }
    let flags = |hook, index| {
        wanted(&config, &host, hook, healthy)
            .state
            .interfaces
            .get(&index)
            .map(|entry| entry.flags)
    };
    assert_eq!(flags(XdpHook::Generic, 30), Some(InterfaceEntry::REDIRECT));
    assert_eq!(flags(XdpHook::Generic, 31), Some(0));
    assert_eq!(flags(XdpHook::Native, 30), Some(0));
}

/// A driver loses frames of several buffers unless it says that it takes them.
#[test]
fn jumbo_frames_are_redirected_only_to_who_takes_them() {
    const ONE: u64 = 0b100;
    const SEVERAL: u64 = 0b100_0000;
    // (MTU, features, redirects, redirects of a VLAN with an MTU of 1,500)
    let cases = [
        (1_500, ONE, true, true),
        (3_506, ONE, true, true),
        (3_507, ONE, false, true),
        (9_000, ONE, false, true),
        (9_000, ONE | SEVERAL, true, true),
        (9_000, SEVERAL, false, false),
        (1_500, 0, false, false),
    ];
    let config = config(&group(":80", "targets = [\":1\"]"));
    for (mtu, features, own, vlan) in cases {
        let mut host = host();
        let eth1 = host.interfaces.get_mut(&ETH1).unwrap();
        eth1.mtu = mtu;
        eth1.xdp_features = Some(XdpFeatures(features));
        let tag = VlanTag {
            protocol: 0x8100,
            id: 5,
        };
        let device = Interface {
            mtu: 1_500,
            vlan: Some(Vlan { parent: ETH1, tag }),
            ..interface(20, "eth1.5", [10, 9, 0, 1])
        };
        host.interfaces.insert(20, device);
        let redirects = |hook, index| {
            let entries = wanted(&config, &host, hook, healthy).state.interfaces;
            entries[&index].flags & InterfaceEntry::REDIRECT != 0
        };
        let native = [ETH1, 20].map(|index| redirects(XdpHook::Native, index));
        assert_eq!(native, [own, vlan], "{mtu} {features:#b}");
        assert!(redirects(XdpHook::Generic, ETH1), "by the stack");
    }
}

#[test]
fn an_interface_that_goes_is_a_problem_and_stops_nothing_else() {
    let config = config(&group("10.0.1.1:80", "targets = [\":1\"]"));
    let whole = host();
    let mut down = host();
    down.interfaces.get_mut(&ETH0).unwrap().up = false;
    let mut tunnel = host();
    tunnel.interfaces.get_mut(&ETH0).unwrap().ethernet = false;
    let mut gone = host();
    gone.interfaces.remove(&ETH0);
    let name = || "eth0".to_owned();
    let similar = vec!["eth1".to_owned()];
    let cases = [
        (whole, vec![]),
        (down, vec![Problem::InterfaceDown { name: name() }]),
        (tunnel, vec![Problem::NotEthernet { name: name() }]),
        (
            gone,
            vec![Problem::NoInterface {
                name: name(),
                similar,
            }],
        ),
    ];
    for (host, problems) in cases {
        let wanted = wanted(&config, &host, XdpHook::Native, healthy);
        assert_eq!(wanted.problems, problems);
        assert_eq!(wanted.state.listeners.len(), 1);
        assert_eq!(wanted.state.targets.len(), 1);
    }
}

#[test]
fn frames_to_any_of_its_interfaces_are_the_hosts() {
    let config = config(&group(":80", "targets = [\":1\"]"));
    let mut host = host();
    host.interfaces.get_mut(&ETH0).unwrap().mac = Some(7);
    host.interfaces.get_mut(&ETH1).unwrap().mac = Some(9);
    let macs = wanted(&config, &host, XdpHook::Native, healthy).state.macs;
    assert_eq!(macs, [7, 9].into());
}

#[test]
fn a_listener_without_address_has_those_of_its_interfaces() {
    let exact = "[[listener]]\nname = \"exact\"\naddress = \"10.0.1.1:80\"\ntarget_group = \"b\"\n\
                 [[target_group]]\nname = \"b\"\ntargets = [\":2\"]\n";
    let config = config(&(group(":80", "targets = [\":1\"]") + exact));
    let mut host = host();
    host.interfaces
        .get_mut(&ETH0)
        .unwrap()
        .addresses
        .push([10, 0, 1, 2].into());
    let state = wanted(&config, &host, XdpHook::Native, healthy).state;
    let of = |address: [u8; 4]| {
        let place = Place::port(address, 80, flow::TCP);
        state.listeners.get(&place).map(|entry| entry.id)
    };
    let any = of([10, 0, 1, 2]).unwrap();
    let exact = of([10, 0, 1, 1]).unwrap();
    assert_ne!(any, exact, "the exact address wins");
    assert_eq!(of([10, 0, 2, 1]), None, "eth1 is not ours");
}

#[test]
fn how_to_send_out_of_an_interface() {
    use InterfaceEntry as E;
    let config = config(&group(":80", "targets = [\":1\"]"));
    let mut host = host();
    host.interfaces.get_mut(&ETH1).unwrap().kind = Some("veth".into());
    let vlan = |index, parent, id| Interface {
        vlan: Some(Vlan {
            parent,
            tag: VlanTag {
                protocol: 0x8100,
                id,
            },
        }),
        ..interface(index, "v", [10, 0, index as u8, 1])
    };
    for device in [
        vlan(10, ETH0, 7),
        vlan(11, 10, 8),
        vlan(12, 11, 9),
        vlan(13, 99, 1),
    ] {
        host.interfaces.insert(device.index, device);
    }
    let entries = wanted(&config, &host, XdpHook::Native, healthy)
        .state
        .interfaces;
    assert_eq!(entries[&ETH0].flags, E::TRANSMIT | E::REDIRECT);
    assert_eq!(
        entries[&ETH1].flags,
        E::REDIRECT,
        "not attached, takes frames"
    );
    assert_eq!(
        (
            entries[&10].device,
            entries[&10].tag_count,
            entries[&10].tags[0].id
        ),
        (ETH0, 1, 7)
    );
    let outer_first = [entries[&11].tags[0].id, entries[&11].tags[1].id];
    assert_eq!((entries[&11].device, outer_first), (ETH0, [7, 8]));
    assert!(!entries.contains_key(&12), "three tags are the kernel's");
    assert!(!entries.contains_key(&13), "its parent isn't here");

    let eth0 = host.interfaces.get_mut(&ETH0).unwrap();
    eth0.kind = Some("veth".into());
    eth0.xdp_features = None;
    let entries = wanted(&config, &host, XdpHook::Native, healthy)
        .state
        .interfaces;
    assert_eq!(
        entries[&ETH0].flags, 0,
        "a veth whose peer isn't ready takes nothing"
    );
    let entries = wanted(&config, &host, XdpHook::Generic, healthy)
        .state
        .interfaces;
    assert_eq!(
        entries[&ETH0].flags,
        E::TRANSMIT | E::REDIRECT,
        "generic XDP sends by the stack"
    );
}

/// Packets come in by the ports of a bond that has native XDP, and an answer goes
/// back by the port.
#[test]
fn ports_of_a_bond_are_what_it_is() {
    use InterfaceEntry as E;
    const PORT: u32 = 40;
    let config = config(&group(":80", "targets = [\"10.0.1.9:80\"]"));
    let mut host = host();
    let port = Interface {
        controller: Some(ETH0),
        xdp_features: None,
        ..interface(PORT, "port", [10, 9, 0, 1])
    };
    host.interfaces.insert(PORT, port);
    let flags =
        |host: &Host, hook| wanted(&config, host, hook, healthy).state.interfaces[&PORT].flags;
    let kind = |host: &mut Host, kind: &str| {
        host.interfaces.get_mut(&ETH0).unwrap().kind = Some(kind.to_owned());
    };
    kind(&mut host, "bond");
    assert_eq!(flags(&host, XdpHook::Native), E::TRANSMIT);
    assert_eq!(
        flags(&host, XdpHook::Generic),
        E::REDIRECT,
        "at the bond itself"
    );
    kind(&mut host, "bridge");
    assert_eq!(flags(&host, XdpHook::Native), 0, "no such bridge is there");

    let before = wanted(&config, &host, XdpHook::Native, healthy).problems;
    host.interfaces.get_mut(&PORT).unwrap().forwarding.v4 = false;
    assert_eq!(
        wanted(&config, &host, XdpHook::Native, healthy).problems,
        before
    );
    kind(&mut host, "bond");
    let problems = wanted(&config, &host, XdpHook::Native, healthy).problems;
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|said| said.contains("port")), "{said:?}");
}

#[test]
fn interfaces_must_be_there_and_up() {
    let config = config(&group(":80", "targets = [\":1\"]"));
    let first = |host: &Host| {
        let first = interfaces(&config, host).next();
        first.unwrap().map(|interface| interface.index)
    };
    let mut host = host();
    assert_eq!(first(&host).unwrap(), ETH0);
    host.interfaces.get_mut(&ETH0).unwrap().up = false;
    let error = first(&host).unwrap_err().to_string();
    assert_eq!(error, "interface eth0 is down: `ip link set eth0 up`");
    host.interfaces.remove(&ETH0);
    let error = first(&host).unwrap_err().to_string();
    assert_eq!(error, "interface eth0 doesn't exist; this host has eth1");
}
