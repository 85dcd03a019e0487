//! Forwarding modes and what goes with each.

use super::*;

const NAME: &str = "name = \"api\"";
const TARGETS: &str = "targets = [\":8081\", { address = \"10.0.0.2:80\", weight = 2 }]";
const DSR: &str = "forwarding = \"dsr\"\ntargets = [\"10.0.0.2:80\"]";

const CASES: &[Case] = &[
    (
        NAME,
        "name = \"api\"\nforwarding = \"tunnel\"",
        "9:14",
        "`nat` or `dsr`",
    ),
    (
        NAME,
        "name = \"api\"\nhash = \"port\"",
        "9:8",
        "`flow`, `source_ip` or `destination_port`",
    ),
    (
        NAME,
        "name = \"api\"\nmss_clamp = 87",
        "9:13",
        "from 88 to 65495",
    ),
    (
        NAME,
        "name = \"api\"\nmax_flows_per_target = 0",
        "9:24",
        "from 1 to 4000000",
    ),
    (
        NAME,
        "name = \"api\"\nencapsulation = \"ipip\"",
        "9:17",
        "`encapsulation` goes with `forwarding = \"dsr\"` only",
    ),
    (
        NAME,
        "name = \"api\"\nforwarding = \"nat\"\nvirtual_network = 1",
        "10:19",
        "`virtual_network` goes with `forwarding",
    ),
    (
        TARGETS,
        "forwarding = \"dsr\"\ntargets = [\"10.0.0.2:80\", \":81\"]",
        "10:27",
        "is another host",
    ),
    (
        TARGETS,
        "forwarding = \"dsr\"\npreserve_client_ip = true\ntargets = [\"10.0.0.2:80\"]",
        "10:22",
        "always sees the client's address",
    ),
    (
        TARGETS,
        "forwarding = \"dsr\"\ntargets = [\"10.0.0.2:80\", \"[2001:db8::2]:80\"]",
        "10:27",
        "without encapsulation a group has one family",
    ),
    (
        TARGETS,
        "forwarding = \"dsr\"\ntargets = [\"10.0.0.2:8080\"]",
        "3:1",
        "has not the port 8080 that a target of `api` has",
    ),
    (
        TARGETS,
        "encapsulation = \"vxlan\"\nforwarding = \"dsr\"\ntargets = [\"10.0.0.2:80\"]",
        "9:17",
        "`none`, `ipip`, `gue` or `geneve`",
    ),
    (
        TARGETS,
        "encapsulation_port = 6080\nforwarding = \"dsr\"\ntargets = [\"10.0.0.2:80\"]",
        "9:22",
        "goes with `gue` and `geneve` only",
    ),
    (
        TARGETS,
        "encapsulation_source = \"10.0.0.1\"\nforwarding = \"dsr\"\ntargets = [\"10.0.0.2:80\"]",
        "9:24",
        "needs an `encapsulation`",
    ),
    (
        TARGETS,
        "virtual_network = 1\nencapsulation = \"gue\"\nforwarding = \"dsr\"\n\
         targets = [\"10.0.0.2:80\"]",
        "9:19",
        "goes with `encapsulation = \"geneve\"` only",
    ),
];

/// (`encapsulation_source`, part of the message)
const SOURCES: &[(&str, &str)] = &[
    ("172.16.0.0/33", "is not a prefix"),
    ("172.16.0", "is not a prefix"),
    ("172.16.0.0/x", "is not a prefix"),
    ("172.16.1.0/16", "write it as `172.16.0.0/16`"),
    ("10.0.0.0/7", "of 8 bits at least"),
    ("127.0.0.1", "can't be used"),
    ("2001:db8::/96", "is IPv6, and not all targets have IPv6"),
];

#[test]
fn faults_are_reported_at_their_place() {
    check(CASES);
    for (source, message) in SOURCES {
        let dsr = format!("encapsulation_source = \"{source}\"\nencapsulation = \"ipip\"\n{DSR}");
        check_lines(&lines(&VALID.replace(TARGETS, &dsr)), "9:24", message);
    }
}

fn group(attributes: &str) -> TargetGroup {
    let text = VALID.replace(TARGETS, attributes);
    let mut config = parse(&text, "x")
        .unwrap_or_else(|errors| panic!("{errors}"))
        .config;
    config.target_groups.remove(0)
}

#[test]
fn modes_and_their_defaults() {
    let nat = |preserve_client_ip| Forwarding::Nat { preserve_client_ip };
    let tunnel = |encapsulation, port, virtual_network| {
        Forwarding::Dsr(Tunnel {
            encapsulation,
            port,
            source: None,
            virtual_network,
        })
    };
    use Encapsulation::{Geneve, Gue, Ipip};
    for (attributes, expected) in [
        (TARGETS.to_owned(), nat(false)),
        (format!("preserve_client_ip = true\n{TARGETS}"), nat(true)),
        (DSR.to_owned(), tunnel(Encapsulation::None, 0, 0)),
        (
            format!("encapsulation = \"ipip\"\n{DSR}"),
            tunnel(Ipip, 0, 0),
        ),
        (
            format!("encapsulation = \"gue\"\n{DSR}"),
            tunnel(Gue, 6080, 0),
        ),
        (
            format!("encapsulation = \"geneve\"\nvirtual_network = 16777215\n{DSR}"),
            tunnel(Geneve, 6081, 16_777_215),
        ),
        (
            format!("encapsulation = \"gue\"\nencapsulation_port = 5555\n{DSR}"),
            tunnel(Gue, 5555, 0),
        ),
    ] {
        assert_eq!(group(&attributes).forwarding, expected, "{attributes}");
    }
}

#[test]
fn outer_sources_are_a_prefix_or_one_address() {
    for (source, targets, bits) in [
        ("172.16.0.0/16", "\"10.0.0.2:80\"", 16),
        ("172.16.0.1", "\"10.0.0.2:80\"", 0),
        ("2001:db8::/96", "\"[2001:db8::2]:80\"", 32),
    ] {
        let group = group(&format!(
            "encapsulation_source = \"{source}\"\nencapsulation = \"ipip\"\n\
             forwarding = \"dsr\"\ntargets = [{targets}]"
        ));
        let Forwarding::Dsr(tunnel) = group.forwarding else {
            panic!("{source}");
        };
        assert_eq!(tunnel.source.map(|source| source.open_bits()), Some(bits));
        assert_eq!(group.family(), None, "an encapsulation crosses families");
    }
}

#[test]
fn attributes_that_any_mode_has() {
    let group = group(&format!(
        "hash = \"source_ip\"\nmss_clamp = 1400\nmax_flows_per_target = 9\n{TARGETS}"
    ));
    assert_eq!(group.hash, HashInput::SourceIp);
    assert_eq!(group.mss_clamp, Some(1400));
    assert_eq!(group.max_flows_per_target, Some(9));
}
