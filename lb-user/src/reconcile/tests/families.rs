//! IPv6, port ranges, and which addresses a listener has.

use super::*;

fn v6(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// [`host`] with IPv6: eth0 2001:db8:1::1, ::9 behind it on its network and
/// 2001:db8:9::9 behind a router.
pub(super) fn dual_host() -> Host {
    let mut host = host();
    let eth0 = host.interfaces.get_mut(&ETH0).unwrap();
    eth0.addresses.extend([v6("fe80::1"), v6("2001:db8:1::1")]);
    let unicast = |gateway| {
        Route::Unicast(Way {
            interface: ETH0,
            source: v6("2001:db8:1::1"),
            gateway,
        })
    };
    host.routes.extend([
        (v6("2001:db8:1::1"), Route::Local),
        (v6("2001:db8:1::9"), unicast(false)),
        (v6("2001:db8:9::9"), unicast(true)),
    ]);
    host
}

fn state(config: &Config) -> MapState {
    let wanted = wanted(config, &dual_host(), XdpHook::Native, healthy);
    assert_eq!(wanted.problems, []);
    wanted.state
}

fn addresses(state: &MapState) -> Vec<String> {
    let places = state.listeners.keys();
    places.map(|place| place.address.to_string()).collect()
}

#[test]
fn a_listener_without_address_has_those_of_its_targets_family() {
    let cases = [
        ("\":8081\"", vec!["10.0.1.1", "2001:db8:1::1"]),
        ("\":8081\", \"10.0.1.9:80\"", vec!["10.0.1.1"]),
        ("\"[2001:db8:1::9]:80\"", vec!["2001:db8:1::1"]),
    ];
    for (targets, expected) in cases {
        let list = format!("targets = [{targets}]");
        let state = state(&config(&group(":80", &list)));
        assert_eq!(addresses(&state), expected, "{targets}");
    }
}

#[test]
fn an_interface_without_the_targets_family_is_a_problem() {
    let mut host = dual_host();
    let eth0 = host.interfaces.get_mut(&ETH0).unwrap();
    eth0.addresses.retain(|address| address.is_ipv4());
    eth0.addresses.push(v6("fe80::1"));
    let config = config(&group(":80", "targets = [\"[2001:db8:1::9]:80\"]"));
    let got = wanted(&config, &host, XdpHook::Native, healthy);
    assert_eq!(
        got.problems[0].to_string(),
        "interface eth0 has no IPv6 address beyond link-local ones, so a listener without an \
         address hears nothing there"
    );
}

#[test]
fn ipv6_targets_are_rewritten_as_their_route_says() {
    let list = "targets = [\"[2001:db8:1::1]:1\", \"[2001:db8:1::9]:2\", \"[2001:db8:9::9]:3\"]";
    let state = state(&config(&group(":80", list)));
    let wide = |text| lb_common::wire::wide(v6(text));
    let kind = TargetEntry::LOCAL | TargetEntry::SOURCE_NAT | TargetEntry::IPV6;
    let entries: Vec<_> = state
        .targets
        .values()
        .map(|target| (target.port.get(), target.flags & kind, target.source))
        .collect();
    let nat = TargetEntry::IPV6 | TargetEntry::SOURCE_NAT;
    assert_eq!(
        entries,
        [
            (1, TargetEntry::IPV6 | TargetEntry::LOCAL, [0; 4]),
            (2, nat, wide("2001:db8:1::1")),
            (3, nat, wide("2001:db8:1::1")),
        ]
    );
}

#[test]
fn forwarding_matters_in_the_targets_family_only() {
    let mut host = dual_host();
    host.interfaces.get_mut(&ETH0).unwrap().forwarding.v6 = false;
    let problems = |targets: &str| {
        let config = config(&group(":80", &format!("targets = [{targets}]")));
        let got = wanted(&config, &host, XdpHook::Native, healthy).problems;
        got.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let said = problems("\"[2001:db8:1::9]:80\"");
    assert!(
        said[0].contains("`sysctl -w net.ipv6.conf.all.forwarding=1`"),
        "{said:?}"
    );
    assert_eq!(problems("\"10.0.1.9:80\""), [""; 0]);
    assert_eq!(problems("\"[2001:db8:1::1]:80\""), [""; 0], "local");
}

fn entry_at(state: &MapState, address: [u8; 4], port: u16) -> Option<u32> {
    let one = Place::port(address, port, flow::TCP);
    let in_block = |place: &Place| match place.ports {
        PlacePorts::Block(block) => {
            place.address == one.address && u32::from(port ^ block.first) >> block.open_bits == 0
        }
        PlacePorts::One(_) => false,
    };
    let hash = state.listeners.get(&one);
    let mut trie = state.listeners.iter().filter(|(place, _)| in_block(place));
    // Blocks don't overlap here, so the longest prefix is the only one.
    hash.or_else(|| trie.next().map(|(_, entry)| entry))
        .map(|entry| entry.id)
}

fn ranges(listeners: &[(&str, &str)]) -> Config {
    let listeners: String = listeners
        .iter()
        .map(|(name, address)| {
            format!(
                "[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\ntarget_group = \"r\"\n"
            )
        })
        .collect();
    config(&format!(
        "{listeners}[[target_group]]\nname = \"r\"\ntable_size = 251\ntargets = [\"10.0.1.9:*\"]\n\
         health_check.port = 80"
    ))
}

#[test]
fn a_port_wins_over_a_range_and_an_address_over_none() {
    let config = ranges(&[
        ("any", ":8000-8100"),
        ("exact", "10.0.1.1:8050-9000"),
        ("port", "10.0.1.1:8060"),
    ]);
    let state = state(&config);
    let id = |name: &str| {
        config
            .listeners
            .iter()
            .position(|l| l.name == name)
            .unwrap()
    };
    // Ids are given in the order of the names.
    let (any, exact, port) = (Some(0), Some(1), Some(2));
    assert_eq!((id("any"), id("exact"), id("port")), (0, 1, 2));
    for (at, expected) in [
        (7999, None),
        (8000, any),
        (8049, any),
        (8050, exact),
        (8060, port),
        (8100, exact),
        (9000, exact),
        (9001, None),
        (0, None),
    ] {
        assert_eq!(entry_at(&state, [10, 0, 1, 1], at), expected, "port {at}");
    }
    let vip = state.vips[&IpAddr::from([10, 0, 1, 1])];
    assert_eq!(vip.flags, VipEntry::RANGES);
    assert_eq!(state.targets[&0].port, Be16::new(0), "the client's port");
}

#[test]
fn all_ports_are_one_entry() {
    let state = state(&ranges(&[("all", "10.0.1.7:*")]));
    let all = Block {
        first: 0,
        open_bits: 16,
    };
    let ports: Vec<PlacePorts> = state.listeners.keys().map(|place| place.ports).collect();
    assert_eq!(ports, [PlacePorts::Block(all)]);
    assert_eq!(entry_at(&state, [10, 0, 1, 7], 0), Some(0), "port 0 too");
}

#[test]
fn an_address_that_no_interface_has_is_xlbs_own() {
    let text = group("10.0.1.7:80", "targets = [\":1\"]")
        + "[[listener]]\naddress = \"10.0.2.1:80\"\ntarget_group = \"api\"\n";
    let vips = state(&config(&text)).vips;
    let flags = |address: [u8; 4]| vips[&IpAddr::from(address)].flags;
    assert_eq!(flags([10, 0, 1, 7]), VipEntry::OWNED);
    assert_eq!(flags([10, 0, 2, 1]), 0, "eth1 has it");
}
