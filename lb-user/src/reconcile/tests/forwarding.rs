//! `dsr`, and what entries say of a group's attributes.

use super::{families::dual_host, *};
use lb_common::{target::Encapsulation, wire::wide};

fn dsr(attributes: &str, target: &str) -> Desired {
    let list = format!("forwarding = \"dsr\"\n{attributes}\ntargets = [{target}]");
    let config = config(&group("10.0.1.7:80", &list));
    wanted(&config, &dual_host(), XdpHook::Native, healthy)
}

fn only(desired: &Desired) -> TargetEntry {
    assert_eq!(desired.problems, []);
    desired.state.targets[&0]
}

const NEAR: &str = "\"10.0.1.9:80\"";
const BEHIND_ROUTER: &str = "\"[2001:db8:9::9]:80\"";

#[test]
fn dsr_without_encapsulation_says_where_and_no_more() {
    let entry = only(&dsr("", NEAR));
    let flags = TargetEntry::DSR | TargetEntry::ACCEPTS | TargetEntry::KEEPS;
    assert_eq!(entry.flags, flags);
    assert_eq!(entry.source, [0; 4]);
    assert_eq!(entry.encapsulation, Encapsulation::None as u8);
}

#[test]
fn an_encapsulation_has_a_source() {
    let own = only(&dsr("encapsulation = \"ipip\"", BEHIND_ROUTER));
    let address = |text: &str| wide(text.parse().unwrap());
    assert_eq!(own.encapsulation, Encapsulation::Ipip as u8);
    assert_eq!((own.source, own.source_bits), (address("2001:db8:1::1"), 0));
    assert!(own.has(TargetEntry::IPV6), "the listener is IPv4");

    let gue = "encapsulation = \"gue\"\nencapsulation_source = \"172.16.0.0/12\"";
    let many = only(&dsr(gue, NEAR));
    let source = (many.source, many.source_bits);
    assert_eq!(source, (address("172.16.0.0"), 20));
    assert_eq!(many.encapsulation_port, Be16::new(6080));

    let geneve = only(&dsr(
        "encapsulation = \"geneve\"\nvirtual_network = 7",
        NEAR,
    ));
    assert_eq!(geneve.virtual_network, 7);
    assert_eq!(geneve.encapsulation_port, Be16::new(6081));
}

#[test]
fn where_dsr_does_not_lead() {
    let behind = dsr("", "\"10.0.3.9:80\"");
    assert!(behind.problems[0].to_string().contains("no route"));
    let own = dsr("encapsulation = \"ipip\"", "\"10.0.1.1:80\"");
    assert_eq!(
        own.problems[0].to_string(),
        "target 10.0.1.1 of group api is this host itself, and `dsr` leads to other hosts: use \
         `forwarding = \"nat\"`"
    );
    let list = format!("forwarding = \"dsr\"\ntargets = [{BEHIND_ROUTER}]");
    let config = config(&group("[2001:db8:1::7]:80", &list));
    let routed = wanted(&config, &dual_host(), XdpHook::Native, healthy);
    assert!(
        routed.problems[0]
            .to_string()
            .contains("behind a router, which would send"),
        "{:?}",
        routed.problems
    );
    assert!(routed.state.targets.is_empty());
}

/// Its replies don't come back here.
#[test]
fn dsr_needs_no_program_at_the_way_out() {
    let attached_to_eth0_only = dsr("encapsulation = \"ipip\"", "\"10.0.2.9:80\"");
    assert_eq!(attached_to_eth0_only.problems, []);
}

#[test]
fn an_encapsulating_group_serves_both_families() {
    let list = format!("forwarding = \"dsr\"\nencapsulation = \"ipip\"\ntargets = [{NEAR}]");
    let config = config(&group(":80", &list));
    let state = wanted(&config, &dual_host(), XdpHook::Native, healthy).state;
    let v6 = state
        .listeners
        .keys()
        .filter(|place| place.address.is_ipv6())
        .count();
    assert_eq!((state.listeners.len(), v6), (2, 1));
}

/// A connection of this host and a flow may then have the same addresses and
/// ports.
#[test]
fn source_nat_and_the_hosts_own_ports() {
    let nat = group(":80", "targets = [\"10.0.1.9:80\"]");
    let kept = group(
        ":80",
        "preserve_client_ip = true\ntargets = [\"10.0.1.9:80\"]",
    );
    let local = group(":80", "targets = [\":81\"]");
    let ports = "source_nat.ports = \"30000-40000\"\n";
    let said = |text: &str, host: &Host| -> Vec<String> {
        let got = wanted(&config(text), host, XdpHook::Native, healthy);
        got.problems.iter().map(ToString::to_string).collect()
    };
    assert_eq!(said(&nat, &host()), [""; 0], "the defaults");
    assert_eq!(
        said(&format!("{ports}{nat}"), &host()),
        [
            "source NAT may use ports 30000 to 40000, and this host's own connections, health \
             checks among them, ports 32768 to 60999 (net.ipv4.ip_local_port_range), so a reply \
             that comes to port 32768, say, may reach the wrong one of both: set \
             `source_nat.ports`, or that range, so that they have no port in common"
        ]
    );
    for without in [kept, local] {
        assert_eq!(said(&format!("{ports}{without}"), &host()), [""; 0]);
    }
    let mut wide = host();
    wide.local_ports.range = 1_024..=65_535;
    assert_eq!(said(&nat, &wide).len(), 1);
    wide.local_ports.reserved = vec![1_024..=32_767];
    assert_eq!(said(&nat, &wide), [""; 0]);
}

#[test]
fn entries_have_the_groups_attributes() {
    for (hash, flags) in [
        ("flow", 0),
        ("source_ip", ListenerEntry::HASH_SOURCE),
        ("destination_port", ListenerEntry::HASH_PORT),
    ] {
        let attributes = format!(
            "hash = \"{hash}\"\nmss_clamp = 1300\nmax_flows_per_target = 5\ntargets = [\":1\"]"
        );
        let config = config(&group("10.0.1.7:80", &attributes));
        let state = wanted(&config, &host(), XdpHook::Native, healthy).state;
        let listener = state.listeners.values().next().unwrap();
        assert_eq!(listener.flags, flags, "{hash}");
        let target = state.targets[&0];
        assert_eq!((target.max_segment, target.max_flows), (1300, 5));
    }
}
