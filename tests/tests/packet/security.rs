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

/// Of a large group: the default, blocks of four units with as many between
/// them, and one address in every tenth block.
const BLOCKS: u32 = 90_908;

/// The `n`th block. A unit is an address of IPv4 and 2^64 of IPv6.
fn block(net: Net, n: u32) -> Prefix {
    let address = if net.v6() {
        let high = 0x2001_0DB8_0000_0000 + u128::from(n) * 8;
        Ipv6Addr::from_bits(high << 64).into()
    } else {
        Ipv4Addr::from_bits(0x0B00_0000 + n * 8).into()
    };
    Prefix::around(address, if net.v6() { 62 } else { 30 }).unwrap()
}

/// An address so far from the beginning of a prefix, or so far from its end.
fn beside(prefix: Prefix, offset: i8, end: bool) -> IpAddr {
    let open = if end { prefix.open_bits() } else { 0 };
    let ones = !(u128::MAX << open);
    match prefix.address() {
        IpAddr::V4(v4) => {
            let last = v4.to_bits() | ones as u32;
            Ipv4Addr::from_bits(last.wrapping_add_signed(offset.into())).into()
        }
        IpAddr::V6(v6) => {
            let last = v6.to_bits() | ones;
            Ipv6Addr::from_bits(last.wrapping_add_signed(offset.into())).into()
        }
    }
}

/// In both families at once, as the agent writes them.
#[test]
fn a_hundred_thousand_prefixes() {
    let mut lab = Lab::new();
    let mut rules = Vec::new();
    for net in NETS {
        rules.push((Prefix::around(net.client, 0).unwrap(), Rule::Deny));
        for n in 0..BLOCKS {
            let block = block(net, n);
            rules.push((block, Rule::Allow));
            if n % 10 == 0 {
                let bits = block.length() + block.open_bits();
                let second = Prefix::around(beside(block, 1, false), bits);
                rules.push((second.unwrap(), Rule::Deny));
            }
        }
    }
    assert_eq!(rules.len(), 2 * 100_000);
    rules.sort_unstable_by_key(|(prefix, _)| *prefix);
    set(&mut lab, 5, &rules);
    for net in NETS {
        guard(&mut lab, net, 5);
        let ends = Ends::new(net, Mode::Local, false, 0);
        for n in [0, 1, 9, 10, 45_454, 65_535, 65_536, 90_900, BLOCKS - 1] {
            let block = block(net, n);
            for (source, allowed) in [
                (beside(block, -1, false), false),
                (beside(block, 0, false), true),
                (beside(block, 1, false), n % 10 != 0),
                (beside(block, 2, false), true),
                (beside(block, 0, true), true),
                (beside(block, 1, true), false),
            ] {
                let what = format!("block {n}");
                check(&mut lab, &ends, source, SYN, allowed, &what);
            }
        }
        check(&mut lab, &ends, net.client, SYN, false, "none of them");
        // Without its address in it, a block is allowed as a whole.
        let second = beside(block(net, 90_900), 1, false);
        let bits = if net.v6() { 128 } else { 32 };
        let gone = Prefix::around(second, bits).unwrap();
        rules.retain(|(prefix, _)| *prefix != gone);
        lab.apply(Change::SetRules {
            id: 5,
            rules: rules.clone().into(),
            set: vec![],
            gone: vec![gone],
        });
        check(&mut lab, &ends, second, SYN, true, "after it has gone");
    }
}
