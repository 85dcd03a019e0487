//! What isn't ours is passed as it came, and counted.

use std::{
    net::{IpAddr, Ipv6Addr},
    ops::Range,
};

use lb_common::counters::DropReason;

use super::{
    builder::{ACK, CLIENT_MAC, End, Frame, HOP_BY_HOP, SYN, Transport},
    lab::{Hook, Lab, V6, Verdict},
    net::{Net, both},
    step::{Counts, untouched},
};

fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2];
    bytes.extend_from_slice(&ethertype.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A frame to the listener.
fn syn(net: Net) -> Frame {
    Frame::new(Transport::Tcp(SYN), (net.client, 4000), (net.host, 80))
}

/// The same whose IP header has another protocol.
fn protocol(net: Net, number: u8) -> Vec<u8> {
    let mut bytes = syn(net).bytes();
    bytes[if net.v6() { 20 } else { 23 }] = number;
    bytes
}

/// A fragment of one whose first was never seen.
fn fragment(net: Net, range: Range<usize>, more: bool) -> Vec<u8> {
    let frame = syn(net).with(|f| {
        f.payload = vec![7; 90];
        f.whole = false;
        f.piece = Some((range, more));
    });
    frame.bytes()
}

fn to(net: Net, transport: Transport, destination: End) -> Vec<u8> {
    Frame::new(transport, (net.client, 4000), destination).bytes()
}

fn cases(net: Net) -> Vec<(&'static str, Vec<u8>, DropReason)> {
    use DropReason as R;
    let tcp = |address, port| to(net, Transport::Tcp(SYN), (address, port));
    let ssh = to(net, Transport::Tcp(ACK), (net.host, 22));
    let udp = to(net, Transport::Udp, (net.host, 80));
    let icmp = if net.v6() { 58 } else { 1 };
    let tags = vec![(0x88A8, 1), (0x8100, 2), (0x8100, 3)];
    let three_tags = syn(net).with(|f| f.tags = tags).bytes();
    vec![
        ("another port", tcp(net.host, 81), R::NotOurs),
        ("ssh", ssh, R::NotOurs),
        ("another address", tcp(net.address(1, 77), 80), R::NotOurs),
        ("the other protocol's port", udp, R::NotOurs),
        ("the target's own port", tcp(net.host, 8081), R::NotOurs),
        ("a port of source NAT", tcp(net.source, 20_000), R::NotOurs),
        ("port 0", tcp(net.host, 0), R::NotOurs),
        ("three tags", three_tags, R::NotIp),
        (
            "ICMP of no kind that is known",
            protocol(net, icmp),
            R::NotOurs,
        ),
        ("IGMP", protocol(net, 2), R::OtherProtocol),
        ("GRE", protocol(net, 47), R::OtherProtocol),
        ("ESP", protocol(net, 50), R::OtherProtocol),
        ("SCTP", protocol(net, 132), R::OtherProtocol),
        ("middle fragment", fragment(net, 40..80, true), R::Fragment),
        ("last fragment", fragment(net, 40..110, false), R::Fragment),
        ("ARP", frame(0x0806, &[0; 46]), R::NotIp),
        ("LLDP", frame(0x88CC, &[0; 46]), R::NotIp),
        ("unknown type", frame(0xFFFF, &[0; 46]), R::NotIp),
        ("802.3 length", frame(46, &[0; 46]), R::NotIp),
    ]
}

#[test]
fn passed_byte_for_byte() {
    let mut lab = Lab::new();
    for net in both() {
        let cases = cases(net);
        for (what, bytes, reason) in &cases {
            let (hook, bytes) = (Hook::Eth0, bytes.clone());
            let counts = Counts::reason(*reason);
            lab.check(&untouched(*what, hook, bytes, Verdict::Pass, counts));
        }
        // Whether others may fragment it makes no difference.
        for (n, whole) in [(0, true), (1, false)] {
            let frame = syn(net).with(|f| {
                f.source.1 = 4000 + n;
                f.whole = whole;
            });
            let (verdict, _) = lab.run(Hook::Eth0, &frame.bytes());
            let traffic = lab.dataplane.listener_traffic(net.base).unwrap();
            let expected = (Verdict::Pass, u64::from(n) + 1);
            assert_eq!((verdict, traffic.new_flows), expected);
        }
        println!("{} cases", cases.len() + 2);
    }
}

/// Of a node behind eth0.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0xFF, 0xFE00, 0x0102);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 2);
const MLD_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 0x16);

/// An ICMPv6 message over a link, to a node or a group, with these bytes behind
/// its type, code and checksum.
fn over_link(kind: u8, from: Ipv6Addr, to: Ipv6Addr, message: &[&[u8]]) -> Frame {
    let message = message.concat();
    let (first, rest) = message.split_at(4);
    let transport = Transport::Icmp(kind, 0, first.try_into().unwrap());
    Frame::new(transport, (from.into(), 0), (to.into(), 0)).with(|f| {
        f.payload = rest.to_vec();
        f.time_to_live = 255;
        if to.is_multicast() {
            let [.., a, b, c, d] = to.octets();
            f.macs.1 = [0x33, 0x33, a, b, c, d];
        }
    })
}

/// The group of a node's address, by its last three bytes.
fn solicited(of: Ipv6Addr) -> Ipv6Addr {
    let group = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00, 0);
    Ipv6Addr::from_bits(group.to_bits() | of.to_bits() & 0xFF_FFFF)
}

fn in_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(v4) => panic!("{v4}"),
    }
}

/// NDP (RFC 4861): all of it has a hop limit of 255.
fn neighbour_discovery() -> Vec<(&'static str, Frame)> {
    let [host, vip, client] = [V6.host, V6.nat_vip, V6.client].map(in_v6);
    let nobody = Ipv6Addr::UNSPECIFIED;
    let source = [&[1, 1], &CLIENT_MAC[..]].concat();
    let target = [&[2, 1], &CLIENT_MAC[..]].concat();
    let prefix = [&[3, 4, 64, 0xC0][..], &[0; 12], &client.octets()].concat();
    let timers = [64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let solicitation = |from, to, of: Ipv6Addr| {
        let option = if from == nobody { &[][..] } else { &source };
        over_link(135, from, to, &[&[0; 4], &of.octets(), option])
    };
    let advertisement = |to, flags| {
        over_link(
            136,
            client,
            to,
            &[&[flags, 0, 0, 0], &client.octets(), &target],
        )
    };
    let routers = |from| over_link(133, from, ALL_ROUTERS, &[&[0; 4], &source]);
    let router = |to| over_link(134, LINK_LOCAL, to, &[&timers, &source, &prefix]);
    vec![
        ("router solicitation", routers(client)),
        ("router solicitation, link-local", routers(LINK_LOCAL)),
        ("router advertisement", router(ALL_NODES)),
        ("router advertisement to one", router(host)),
        (
            "for a host's address",
            solicitation(client, solicited(host), host),
        ),
        (
            "for a listener's",
            solicitation(client, solicited(vip), vip),
        ),
        (
            "link-local",
            solicitation(LINK_LOCAL, solicited(host), host),
        ),
        (
            "duplicate address",
            solicitation(nobody, solicited(host), host),
        ),
        ("is it still there", solicitation(client, host, host)),
        ("advertised to all", advertisement(ALL_NODES, 0x20)),
        ("an answer", advertisement(host, 0x60)),
    ]
}

/// MLD (RFC 2710 and 3810): router alert, and a hop limit of 1.
fn multicast_listeners() -> Vec<(&'static str, Frame)> {
    let from = LINK_LOCAL;
    let group = solicited(in_v6(V6.client));
    let record = [&[4, 0, 0, 0][..], &group.octets()].concat();
    let no_sources = [2, 125, 0, 0];
    let delay = [0x27, 0x10, 0, 0];
    let (any, this) = (Ipv6Addr::UNSPECIFIED.octets(), group.octets());
    let messages = [
        ("query", over_link(130, from, ALL_NODES, &[&delay, &any])),
        (
            "query, version 2",
            over_link(130, from, group, &[&delay, &this, &no_sources]),
        ),
        ("report", over_link(131, from, group, &[&[0; 4], &this])),
        ("done", over_link(132, from, ALL_ROUTERS, &[&[0; 4], &this])),
        (
            "report, version 2",
            over_link(143, from, MLD_ROUTERS, &[&[0, 0, 0, 1], &record]),
        ),
        (
            "two records",
            over_link(143, from, MLD_ROUTERS, &[&[0, 0, 0, 2], &record, &record]),
        ),
    ];
    let alert = (HOP_BY_HOP, vec![0, 0, 5, 2, 0, 0, 1, 0]);
    let with = |frame: Frame| {
        frame.with(|f| {
            f.time_to_live = 1;
            f.extensions = vec![alert.clone()];
        })
    };
    messages.map(|(what, frame)| (what, with(frame))).into()
}

/// IPv6 on a link lives by these.
#[test]
fn neighbours_and_multicast_listeners_find_each_other() {
    let mut lab = Lab::new();
    let messages = [neighbour_discovery(), multicast_listeners()].concat();
    let tags = [vec![], vec![(0x8100, 7)], vec![(0x88A8, 8), (0x8100, 7)]];
    for (what, frame) in &messages {
        for tags in &tags {
            let bytes = frame.clone().with(|f| f.tags.clone_from(tags)).bytes();
            for (hook, counts) in [
                (Hook::Eth0, Counts::reason(DropReason::NotOurs)),
                (Hook::Eth1, Counts::reason(DropReason::NotOurs)),
                (Hook::Egress, Counts::none()),
            ] {
                let what = format!("{what}, {} tags", tags.len());
                lab.check(&untouched(what, hook, bytes.clone(), Verdict::Pass, counts));
            }
        }
    }
    println!("{} messages", messages.len());
}

#[test]
fn egress_leaves_the_hosts_own_traffic_alone() {
    let mut lab = Lab::new();
    for net in both() {
        let client = (net.client, 4000);
        let own = [
            Frame::new(Transport::Tcp(ACK), (net.host, 22), client),
            Frame::new(Transport::Tcp(ACK), (net.host, 8081), client),
            Frame::new(Transport::Udp, (net.host, 5353), client),
            Frame::new(Transport::Tcp(SYN), client, (net.host, 80)),
        ];
        let counts = Counts::none;
        for frame in own {
            let (hook, bytes) = (Hook::Egress, frame.bytes());
            lab.check(&untouched("own", hook, bytes, Verdict::Pass, counts()));
        }
        // Of a flow, but in its forward direction.
        let syn = to(net, Transport::Tcp(SYN), (net.nat_vip, 80));
        lab.run(Hook::Eth0, &syn);
        let hook = Hook::Egress;
        lab.check(&untouched("forward", hook, syn, Verdict::Pass, counts()));
    }
}

/// A local target's reply can't come in from outside.
#[test]
fn a_spoofed_reply_is_not_ours() {
    let mut lab = Lab::new();
    for net in both() {
        lab.run(Hook::Eth0, &syn(net).bytes());
        let (target, client) = ((net.host, 8081), (net.client, 4000));
        let reply = Frame::new(Transport::Tcp(SYN | ACK), target, client).bytes();
        let counts = Counts::reason(DropReason::NotOurs);
        let (what, hook) = ("spoofed", Hook::Eth0);
        lab.check(&untouched(what, hook, reply, Verdict::Pass, counts));
    }
}
