//! What is made of interfaces that a test can't have: network cards, bonds.

use super::{
    ethtool::{Channels, Device},
    *,
};
use crate::{
    config::XdpMode,
    host::{Interface, Vlan, XdpFeatures},
};
use lb_common::settings::VlanTag;

const BASIC: u64 = 1;
const REDIRECT: u64 = 1 << 1;
const RX_SG: u64 = 1 << 5;

fn card(index: u32, name: &str, features: Option<u64>) -> Interface {
    Interface {
        index,
        name: name.to_owned(),
        up: true,
        ethernet: true,
        mtu: 1_500,
        xdp_features: features.map(XdpFeatures),
        receive_queues: 1,
        ..Interface::default()
    }
}

fn host(interfaces: impl IntoIterator<Item = Interface>) -> Host {
    let interfaces = interfaces.into_iter().map(|it| (it.index, it));
    Host {
        interfaces: interfaces.collect(),
        ..Host::default()
    }
}

fn of<'a>(findings: &'a [Finding], check: &str) -> Option<&'a Finding> {
    findings.iter().find(|finding| finding.check == check)
}

fn severity(findings: &[Finding], check: &str) -> Option<Severity> {
    of(findings, check).map(|finding| finding.severity)
}

fn advice<'a>(findings: &'a [Finding], check: &str) -> &'a str {
    of(findings, check).unwrap().advice.as_deref().unwrap()
}

#[test]
fn native_xdp_follows_from_the_driver_and_the_mtu() {
    use Severity::{Error, Note, Ok, Warning};
    // features, MTU, mode, severity of xdp_mode and of mtu
    let cases = [
        (Some(BASIC), 1_500, XdpMode::Auto, Some(Ok), Some(Ok)),
        (Some(BASIC), 9_000, XdpMode::Auto, Some(Ok), Some(Warning)),
        (Some(BASIC), 9_000, XdpMode::Native, Some(Ok), Some(Error)),
        (Some(BASIC), 3_506, XdpMode::Native, Some(Ok), Some(Ok)),
        (Some(BASIC), 3_507, XdpMode::Native, Some(Ok), Some(Error)),
        (
            Some(BASIC | RX_SG),
            9_000,
            XdpMode::Auto,
            Some(Ok),
            Some(Ok),
        ),
        (Some(0), 1_500, XdpMode::Auto, Some(Warning), None),
        (Some(0), 1_500, XdpMode::Native, Some(Error), None),
        (Some(REDIRECT), 1_500, XdpMode::Auto, Some(Warning), None),
        (Some(BASIC), 9_000, XdpMode::Generic, Some(Note), None),
        (None, 1_500, XdpMode::Auto, Some(Note), None),
    ];
    for (features, mtu, mode, xdp_mode, of_mtu) in cases {
        let mut interface = card(1, "eth0", features);
        interface.mtu = mtu;
        let host = host([interface.clone()]);
        let findings = interface::xdp(&interface, &Device::default(), &host, mode);
        let case = format!("{features:?} {mtu} {mode:?}");
        assert_eq!(severity(&findings, "xdp_mode"), xdp_mode, "{case}");
        assert_eq!(severity(&findings, "mtu"), of_mtu, "{case}");
    }
}

#[test]
fn a_vlan_is_better_taken_at_its_parent() {
    let mut vlan = card(2, "eth0.10", Some(0));
    let tag = VlanTag {
        protocol: 0x8100,
        id: 10,
    };
    vlan.vlan = Some(Vlan { parent: 1, tag });
    let host = host([card(1, "eth0", Some(BASIC)), vlan.clone()]);
    let findings = interface::xdp(&vlan, &Device::default(), &host, XdpMode::Auto);
    assert!(advice(&findings, "xdp_mode").contains("\"eth0\""));
}

#[test]
fn bonds_are_no_better_than_their_ports() {
    let mut bond = card(1, "bond0", Some(BASIC));
    bond.kind = Some("bond".to_owned());
    let port = |index, name, features| Interface {
        controller: Some(1),
        ..card(index, name, Some(features))
    };
    let good = host([bond.clone(), port(2, "eth0", BASIC), port(3, "eth1", BASIC)]);
    let bad = host([bond.clone(), port(2, "eth0", BASIC), port(3, "eth1", 0)]);
    let at_bond = |host| link::check(&bond, host, None);
    assert_eq!(severity(&at_bond(&good), "bond"), Some(Severity::Ok));
    let finding = &at_bond(&bad)[0];
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.message.ends_with("none: eth1"), "{finding:?}");

    let at_port = link::check(&port(2, "eth0", BASIC), &good, None);
    assert_eq!(severity(&at_port, "bond"), Some(Severity::Warning));
    assert!(advice(&at_port, "bond").contains("\"bond0\""));
    let alone = host([bond.clone(), port(2, "eth0", BASIC)]);
    assert_eq!(link::check(&port(2, "eth0", BASIC), &alone, None), []);
}

#[test]
fn queues_are_weighed_against_cpus() {
    use Severity::{Note, Ok, Warning};
    // receive queues, how many it could have, CPUs
    let cases = [
        (1, 1, 1, Ok, ""),
        (1, 1, 4, Note, ""),
        (1, 8, 4, Warning, "combined 4"),
        (2, 8, 4, Warning, "combined 4"),
        (4, 8, 4, Ok, ""),
        (2, 2, 64, Ok, ""),
    ];
    for (receive, most_receive, cpus, expected, words) in cases {
        let channels = Channels {
            receive,
            most_receive,
        };
        let mut interface = card(1, "eth0", None);
        let finding = queues::queues(&interface, channels, cpus);
        assert_eq!(finding.severity, expected, "{channels:?}, {cpus} CPUs");
        interface.kind = Some("veth".to_owned());
        let finding_of_veth = queues::queues(&interface, channels, cpus);
        assert_eq!(finding_of_veth.severity, expected.min(Note));
        let advice = finding.advice.unwrap_or_default();
        assert!(advice.contains(words), "{advice}");
    }
}

#[test]
fn what_merges_and_what_spreads() {
    let interface = Interface {
        receive_queues: 4,
        ..card(1, "eth0", Some(BASIC))
    };
    let device = |lro, gro, udp_ports_hashed| Device {
        lro: Some(lro),
        gro: Some(gro),
        udp_ports_hashed: Some(udp_ports_hashed),
        ..Device::default()
    };
    let found = |device: &Device| {
        let findings = queues::check(&interface, device, &[]);
        ["lro", "gro", "rss"].map(|check| severity(&findings, check))
    };
    use Severity::{Note, Ok, Warning};
    let bad = [Some(Warning), Some(Note), Some(Note)];
    assert_eq!(found(&device(true, false, false)), bad);
    assert_eq!(found(&device(false, true, true)), [Some(Ok); 3]);
    // A driver that doesn't tell.
    assert_eq!(found(&Device::default()), [None; 3]);
}

#[test]
fn what_merges_below_a_generic_program() {
    let virtual_device = |index, name, kind: &str| Interface {
        kind: Some(kind.to_owned()),
        ..card(index, name, Some(0))
    };
    let port = |index, name| Interface {
        controller: Some(3),
        ..card(index, name, Some(BASIC))
    };
    let vlan = Interface {
        vlan: Some(Vlan {
            parent: 3,
            tag: VlanTag::default(),
        }),
        ..virtual_device(4, "bond0.7", "vlan")
    };
    let bond = virtual_device(3, "bond0", "bond");
    let host = host([port(1, "eth0"), port(2, "eth1"), bond, vlan.clone()]);
    let merging = |gro: fn(&str) -> Option<bool>| link::merging_below(&vlan, &host, gro);
    assert_eq!(merging(|_| Some(true)), ["eth0", "eth1"]);
    assert_eq!(merging(|name| Some(name == "eth1")), ["eth1"]);
    // What the bond itself says of it is about nothing.
    assert!(merging(|name| Some(name == "bond0")).is_empty());
    assert!(merging(|_| None).is_empty());
    let card = card(1, "eth0", Some(BASIC));
    assert!(link::merging_below(&card, &host, |_| Some(true)).is_empty());

    let device = Device {
        gro: Some(true),
        ..Device::default()
    };
    let findings = queues::check(&vlan, &device, &["eth1".to_owned()]);
    assert_eq!(severity(&findings, "gro"), Some(Severity::Warning));
    assert!(advice(&findings, "gro").contains("`ethtool -K eth1 gro off`"));
}

#[test]
fn an_index_of_another_namespace_is_no_circle() {
    let vlan = |index, parent| Interface {
        vlan: Some(Vlan {
            parent,
            tag: VlanTag::default(),
        }),
        ..card(index, "eth0.7", Some(0))
    };
    let host = host([vlan(1, 2), vlan(2, 1)]);
    assert!(link::merging_below(&vlan(1, 2), &host, |_| Some(true)).is_empty());
}

#[test]
fn the_worst_counts() {
    let findings = [
        Finding::ok("a", ""),
        Finding::warning("b", ""),
        Finding::note("c", ""),
    ];
    assert_eq!(worst(&findings), Severity::Warning);
    assert_eq!(worst(&[]), Severity::Ok);
}
