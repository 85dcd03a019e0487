//! Security groups: who may begin flows at a listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{counters::DropReason, flow};
use lb_user::{
    address::Prefix,
    config::Rule,
    reconcile::{Change, Place},
};

use super::{
    builder::{ACK, Frame, SYN, Transport},
    ends::{Ends, Mode},
    lab::{Hook, Lab, Verdict},
    net::{NETS, Net},
    step::{Counts, rewritten, untouched},
};

fn outside(net: Net) -> IpAddr {
    if net.v6() {
        Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 1).into()
    }
}

/// Prefixes around addresses of a net: all, its networks, one, and a host.
fn prefixes(net: Net) -> [Prefix; 4] {
    let (all, one, host) = if net.v6() {
        (32, 48, 128)
    } else {
        (16, 24, 32)
    };
    let around = |address, length| Prefix::around(address, length).unwrap();
    [
        around(net.client, 0),
        around(net.client, all),
        around(net.address(5, 0), one),
        around(net.address(5, 7), host),
    ]
}

fn set(lab: &mut Lab, id: u32, rules: &[(Prefix, Rule)]) {
    lab.apply(Change::SetRules {
        id,
        rules: rules.into(),
        set: rules.to_vec(),
        gone: vec![],
    });
}

/// Gives the local listener a security group.
fn guard(lab: &mut Lab, net: Net, group: u16) {
    let (place, id) = (Place::port(net.host, 80, flow::TCP), net.base);
    lab.listener(place, id, id, |entry| entry.security_group = group);
}

fn check(lab: &mut Lab, ends: &Ends, source: IpAddr, flags: u8, allowed: bool, what: &str) {
    let from = |f: &mut Frame| f.source.0 = source;
    let input = ends.request(Transport::Tcp(flags)).with(from);
    let what = format!("{what}, {source}");
    let hook = Hook::Eth0;
    lab.check(&if allowed {
        let counts = match flags {
            SYN => Counts::new_flow(ends.ids(), &input),
            _ => Counts::forward(ends.ids(), &input),
        };
        let output = ends.sent(&input).with(from);
        rewritten(what, hook, &input, Verdict::Pass, &output, counts)
    } else {
        let counts = Counts::reason(DropReason::Denied);
        untouched(what, hook, input.bytes(), Verdict::Drop, counts)
    });
}

#[test]
fn the_longest_prefix_decides() {
    let mut lab = Lab::new();
    for net in NETS {
        let cases = [
            (outside(net), false),
            (net.client, true),
            (net.address(4, 7), true),
            (net.address(5, 2), false),
            (net.address(5, 7), true),
            (net.address(5, 8), false),
            (net.address(6, 7), true),
        ];
        for (n, inverted) in [(0, false), (1, true)] {
            guard(&mut lab, net, 3);
            let rule = |allow: bool| {
                if allow == inverted {
                    Rule::Deny
                } else {
                    Rule::Allow
                }
            };
            let rules: Vec<_> = prefixes(net)
                .into_iter()
                .zip([false, true, false, true].map(rule))
                .collect();
            set(&mut lab, 3, &rules);
            // Of another group, which says the contrary.
            let others: Vec<_> = prefixes(net)
                .into_iter()
                .zip([true, false, true, false].map(rule))
                .collect();
            set(&mut lab, 4, &others);
            let ends = Ends::new(net, Mode::Local, false, n);
            for (source, allowed) in cases {
                let what = format!("inverted: {inverted}");
                check(&mut lab, &ends, source, SYN, allowed != inverted, &what);
            }
        }
        // Without a group there is nothing to be asked.
        guard(&mut lab, net, 0);
        let ends = Ends::new(net, Mode::Local, false, 2);
        check(&mut lab, &ends, outside(net), SYN, true, "no group");
        // A group without rules lets nobody in.
        guard(&mut lab, net, 9);
        check(&mut lab, &ends, net.client, SYN, false, "no rules");
    }
}

#[test]
fn only_new_flows_are_checked() {
    let mut lab = Lab::new();
    for net in NETS {
        let [all, ..] = prefixes(net);
        guard(&mut lab, net, 1);
        set(&mut lab, 1, &[(all, Rule::Allow)]);
        let ends = Ends::new(net, Mode::Local, false, 0);
        check(&mut lab, &ends, net.client, SYN, true, "SYN");
        set(&mut lab, 1, &[(all, Rule::Deny)]);
        check(&mut lab, &ends, net.client, ACK, true, "ACK");
        let reply = ends.reply(Transport::Tcp(ACK));
        let counts = Counts::reply(ends.ids(), &reply);
        let (hook, output) = (Hook::Egress, ends.restored(&reply));
        let verdict = Verdict::Pass;
        lab.check(&rewritten("reply", hook, &reply, verdict, &output, counts));
        let other = Ends::new(net, Mode::Local, false, 1);
        for flags in [SYN, ACK] {
            check(&mut lab, &other, net.client, flags, false, "another flow");
        }
    }
}
