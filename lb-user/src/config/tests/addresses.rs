//! Addresses of both families, ranges of ports, and who may share them.

use super::*;

const ADDRESS: &str = "address = \":80\"";
const TARGETS: &str = "targets = [\":8081\", { address = \"10.0.0.2:80\", weight = 2 }]";

const CASES: &[Case] = &[
    (ADDRESS, "address = \"[::1]:80\"", "4:11", "::1"),
    (ADDRESS, "address = \"[::]:80\"", "4:11", "names no address"),
    (
        ADDRESS,
        "address = \"[fe80::1]:80\"",
        "4:11",
        "nothing beyond its link",
    ),
    (ADDRESS, "address = \"[ff02::1]:80\"", "4:11", "multicast"),
    (
        ADDRESS,
        "address = \"[::ffff:10.0.0.1]:80\"",
        "4:11",
        "write the IPv4 address",
    ),
    (
        ADDRESS,
        "address = \"2001:db8::1:80\"",
        "4:11",
        "write it as `[2001:db8::1:80]:80`",
    ),
    (
        ADDRESS,
        "address = \"[2001:db8::1]\"",
        "4:11",
        "write it as `[2001:db8::1]:80`",
    ),
    (
        ADDRESS,
        "address = \"2001:db8:80\"",
        "4:11",
        "goes in brackets",
    ),
    (
        ADDRESS,
        "address = \"[2001:db8::g]:80\"",
        "4:11",
        "`2001:db8::g` is not an IPv6 address",
    ),
    (
        ADDRESS,
        "address = \":9-1\"",
        "4:11",
        "ends before it begins",
    ),
    (
        ADDRESS,
        "address = \":0-9\"",
        "4:11",
        "every port is written as `*`",
    ),
    (ADDRESS, "address = \":1-x\"", "4:11", "`x` is not a number"),
    (
        "[[listener]]",
        "[[listener]]\naddress = \":70-79\"\ntarget_group = \"api\"\n[[listener]]\n\
         address = \":79-90\"\ntarget_group = \"api\"\n[[listener]]",
        "7:11",
        "listener `tcp:70-79` has the ports 70-79 of this address and protocol already",
    ),
    (
        "[[listener]]",
        "[[listener]]\naddress = \"10.0.0.1:*\"\ntarget_group = \"api\"\n[[listener]]\n\
         address = \"10.0.0.1:79-90\"\ntarget_group = \"api\"\n[[listener]]",
        "7:11",
        "has the ports * of",
    ),
    (
        ADDRESS,
        "address = \":8000-8999\"",
        "3:1",
        "has port 8081 of the same address as a target",
    ),
    (
        "{ address = \"10.0.0.2:80\", weight = 2 }",
        "\"10.0.0.2:80-90\"",
        "9:21",
        "a target has one port",
    ),
    (
        "{ address = \"10.0.0.2:80\", weight = 2 }",
        "\"10.0.0.2:*\"",
        "9:21",
        "set `port` under [target_group.health_check]",
    ),
    (
        "{ address = \"10.0.0.2:80\", weight = 2 }",
        "\"10.0.0.2:80\", \"[2001:db8::2]:80\"",
        "9:36",
        "the targets before have IPv4 addresses",
    ),
    (
        ADDRESS,
        "address = \"[2001:db8::1]:80\"",
        "3:1",
        "has an IPv6 address and the targets of `api` have IPv4 ones",
    ),
];

#[test]
fn faults_are_reported_at_their_place() {
    check(CASES);
}

fn listeners(addresses: &[&str], targets: &str) -> Config {
    let listeners: String = addresses
        .iter()
        .map(|address| format!("[[listener]]\naddress = \"{address}\"\ntarget_group = \"api\"\n"))
        .collect();
    let group = VALID[VALID.find("[[target_group]]").unwrap()..].replace(TARGETS, targets);
    let text = format!("interface = \"eth0\"\n{listeners}{group}port = 81\n");
    parse(&text, "x")
        .unwrap_or_else(|errors| panic!("{errors}"))
        .config
}

#[test]
fn what_may_be_written() {
    let config = listeners(
        &[
            "[2001:db8::1]:80",
            "[2001:db8::1]:80-89",
            "[2001:db8::1]:90-99",
            ":90-99",
            "10.0.0.5:*",
            "10.0.0.5:80",
            "10.0.0.5:8000-8000",
        ],
        "targets = [\":8081\"]",
    );
    let names: Vec<&str> = config.listeners.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names[0], "tcp:[2001:db8::1]:80");
    assert_eq!(names[4], "tcp:10.0.0.5:*");
    let address = "2001:db8::1".parse().ok();
    assert_eq!(config.listeners[0].address, address);
    let range = Ports::Range {
        first: 80,
        last: 89,
    };
    assert_eq!(config.listeners[1].ports, range);
    assert_eq!(config.listeners[4].ports, Ports::ALL);
    let one = |port| Ports::One(std::num::NonZeroU16::new(port).unwrap());
    assert_eq!(config.listeners[6].ports, one(8000), "a range of one");
    assert_eq!(config.target_groups[0].family(), None);
}

#[test]
fn a_target_may_have_the_clients_port() {
    let config = listeners(
        &["[2001:db8::1]:80-89", ":70"],
        "targets = [\"[2001:db8::7]:*\"]",
    );
    let group = &config.target_groups[0];
    assert_eq!(group.targets[0].port, None);
    assert_eq!(group.family(), Some(crate::address::Family::V6));
}
