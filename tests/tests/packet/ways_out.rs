//! How a packet leaves, and why it can't.

use std::net::IpAddr;

use lb_common::{
    counters::DropReason,
    settings::{InterfaceEntry, VlanTag},
    target::TargetEntry,
    wire::wide,
};

use super::{
    builder::{ETH1_MAC, Frame, Mac, SYN, TARGET_MAC, Transport, mac},
    lab::{Hook, Lab, Verdict},
    net::{NETS, Net, SMALL_MTU, V4},
    step::{Counts, rewritten, untouched},
};

const NEXT: (Mac, Mac) = (ETH1_MAC, TARGET_MAC);

fn ids(net: Net) -> (u32, u32) {
    (net.base + 4, net.base + 4)
}

/// The `n`th flow's.
fn syn(net: Net, n: u16) -> Frame {
    Frame::new(
        Transport::Tcp(SYN),
        (net.client, 4000 + n),
        (net.keep_vip, 80),
    )
}

fn sent(net: Net, n: u16, macs: (Mac, Mac)) -> Frame {
    syn(net, n).with(|f| {
        f.destination = (net.target, 8080);
        f.time_to_live = 63;
        f.macs = macs;
    })
}

fn to(lab: &mut Lab, net: Net, address: IpAddr) {
    lab.target(net.base + 4, |target: &mut TargetEntry| {
        target.address = wide(address);
    });
}

#[test]
fn by_what_the_interface_can_do() {
    let both = InterfaceEntry::TRANSMIT | InterfaceEntry::REDIRECT;
    let redirect = InterfaceEntry::REDIRECT;
    let cases = [
        ("another", Hook::Eth0, both, Verdict::Redirect),
        ("the same, TX", Hook::Eth1, both, Verdict::Transmit),
        ("the same, no TX", Hook::Eth1, redirect, Verdict::Redirect),
    ];
    let mut lab = Lab::new();
    for net in NETS {
        for (n, (what, hook, flags, verdict)) in (0..).zip(cases) {
            lab.interface(lab.eth1, flags, &[]);
            let input = syn(net, n);
            let counts = Counts::new_flow(ids(net), &input);
            let output = sent(net, n, NEXT);
            lab.check(&rewritten(what, hook, &input, verdict, &output, counts));
        }
        lab.interface(lab.eth1, 0, &[]);
        let handoff = Verdict::Handoff(lab.eth1, 0);
        let input = syn(net, 9);
        let counts = Counts::new_flow(ids(net), &input);
        let output = sent(net, 9, input.macs);
        let (what, hook) = ("neither", Hook::Eth0);
        lab.check(&rewritten(what, hook, &input, handoff, &output, counts));
    }
}

#[test]
fn a_neighbour_that_is_not_known_is_the_kernels_to_find() {
    let mut lab = Lab::new();
    for net in NETS {
        let unknown = net.address(2, 99);
        to(&mut lab, net, unknown);
        let input = syn(net, 0);
        let output = sent(net, 0, input.macs).with(|f| f.destination.0 = unknown);
        let verdict = Verdict::Handoff(lab.eth1, 0);
        let counts = Counts::new_flow(ids(net), &input);
        let hook = Hook::Eth0;
        lab.check(&rewritten(net.name, hook, &input, verdict, &output, counts));
    }
}

#[test]
fn tags_are_replaced_by_those_of_the_way_out() {
    let vlan = |protocol, id| VlanTag { protocol, id };
    type Tags = Vec<(u16, u16)>;
    let cases: [(&str, &[VlanTag], Tags, Tags); 3] = [
        (
            "the same",
            &[vlan(0x8100, 7)],
            vec![(0x8100, 0xE007)],
            vec![(0x8100, 0xE007)],
        ),
        (
            "another id",
            &[vlan(0x8100, 9)],
            vec![(0x8100, 0xF007)],
            vec![(0x8100, 0xF009)],
        ),
        (
            "two others",
            &[vlan(0x88A8, 1), vlan(0x8100, 2)],
            vec![(0x8100, 0x2007), (0x8100, 0x1008)],
            vec![(0x88A8, 0x2001), (0x8100, 0x1002)],
        ),
    ];
    let mut lab = Lab::new();
    for net in NETS {
        for (n, (what, tags, input, output)) in (0..).zip(&cases) {
            lab.interface(lab.eth1, InterfaceEntry::REDIRECT, tags);
            let input = syn(net, n).with(|f| f.tags.clone_from(input));
            let output = sent(net, n, NEXT).with(|f| f.tags.clone_from(output));
            let counts = Counts::new_flow(ids(net), &input);
            let (hook, verdict) = (Hook::Eth0, Verdict::Redirect);
            lab.check(&rewritten(*what, hook, &input, verdict, &output, counts));
        }
        lab.interface(lab.eth1, InterfaceEntry::REDIRECT, &[vlan(0x8100, 7)]);
        let (what, hook, verdict) = ("one to add", Hook::Eth0, Verdict::Handoff(lab.eth1, 0));
        let input = syn(net, 9);
        let counts = Counts::new_flow(ids(net), &input);
        let output = sent(net, 9, input.macs);
        lab.check(&rewritten(what, hook, &input, verdict, &output, counts));
    }
}

/// What can't go on is dropped as it came; the flow has been begun by then.
#[test]
fn no_way_out() {
    let mut lab = Lab::new();
    let dropped = |lab: &mut Lab, net, n, what: &str, reason| {
        let input = syn(net, n);
        let counts = Counts::new_flow(ids(net), &input).and(reason);
        let (hook, verdict) = (Hook::Eth0, Verdict::Drop);
        lab.check(&untouched(what, hook, input.bytes(), verdict, counts));
    };
    for net in NETS {
        for (n, what) in [(1, "unreachable"), (2, "blackhole"), (3, "prohibit")] {
            to(&mut lab, net, net.address(20 + n, 1));
            dropped(&mut lab, net, n.into(), what, DropReason::NoRoute);
        }
        to(&mut lab, net, net.target);
        let family = if net.v6() { "ipv6" } else { "ipv4" };
        let setting = format!("{family}/conf/eth0/forwarding");
        lab.namespace.sysctl(&setting, "0").unwrap();
        let reason = DropReason::ForwardingDisabled;
        dropped(&mut lab, net, 9, "no forwarding", reason);
    }
}

/// What doesn't fit is answered: see `too_big`.
#[test]
fn as_large_as_the_way_out_takes() {
    let mut lab = Lab::new();
    for net in NETS {
        to(&mut lab, net, net.far);
        let of = |length: u16| {
            let payload = usize::from(length) - net.header() - 20;
            syn(net, 0).with(|f| f.payload = vec![1; payload])
        };
        let large = of(SMALL_MTU + 1).bytes();
        assert_eq!(lab.run(Hook::Eth0, &large).0, Verdict::Transmit, "an error");
        let fits = of(SMALL_MTU);
        let counts = Counts::forward(ids(net), &fits);
        let output = sent(net, 0, (mac(3, 1), mac(3, 2))).with(|f| {
            f.destination.0 = net.far;
            f.payload.clone_from(&fits.payload);
        });
        let (hook, verdict) = (Hook::Eth0, Verdict::Redirect);
        lab.check(&rewritten("it fits", hook, &fits, verdict, &output, counts));
    }
}

/// A policy that forbids the packet as it leaves, and one that doesn't.
#[test]
fn by_the_hosts_policy_rules() {
    let mut lab = Lab::new();
    for net in NETS {
        let to = |address: IpAddr| format!("to {address}");
        let from = |address: IpAddr| format!("from {address}");
        let cases = [
            (to(net.target), true),
            (to(net.keep_vip), false),
            (from(net.client), true),
            (from(net.host), false),
            ("iif eth0".into(), true),
            ("iif eth1".into(), false),
            ("tos 0x08".into(), true),
            ("tos 0x10".into(), false),
            ("ipproto tcp".into(), true),
            ("ipproto udp".into(), false),
        ];
        let family = if net == V4 { "-4" } else { "-6" };
        for (n, (rule, forbidden)) in (0..).zip(cases) {
            let rule = format!("{rule} pref 100 prohibit");
            let change = |verb| format!("{family} rule {verb} {rule}");
            lab.namespace.ip(&change("add")).unwrap();
            let what = format!("{}: {rule}", net.name);
            let input = syn(net, n).with(|f| f.type_of_service = 0x08);
            let counts = Counts::new_flow(ids(net), &input);
            let hook = Hook::Eth0;
            lab.check(&if forbidden {
                let counts = counts.and(DropReason::NoRoute);
                untouched(what, hook, input.bytes(), Verdict::Drop, counts)
            } else {
                let out = sent(net, n, NEXT).with(|f| f.type_of_service = 0x08);
                rewritten(what, hook, &input, Verdict::Redirect, &out, counts)
            });
            lab.namespace.ip(&change("del")).unwrap();
        }
    }
}

#[test]
fn the_time_to_live_is_used_up() {
    let mut lab = Lab::new();
    for net in NETS {
        let hook = Hook::Eth0;
        for ttl in [0, 1] {
            let old = syn(net, ttl.into()).with(|f| f.time_to_live = ttl);
            let counts = Counts::new_flow(ids(net), &old).and(DropReason::TtlExpired);
            let verdict = Verdict::Drop;
            lab.check(&untouched("ttl", hook, old.bytes(), verdict, counts));
        }
        let two = syn(net, 2).with(|f| f.time_to_live = 2);
        let out = sent(net, 2, NEXT).with(|f| f.time_to_live = 1);
        let counts = Counts::new_flow(ids(net), &two);
        let verdict = Verdict::Redirect;
        lab.check(&rewritten("ttl 2", hook, &two, verdict, &out, counts));
    }
}
