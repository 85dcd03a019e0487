//! How a packet leaves, and why it can't.

use lb_common::{
    counters::DropReason,
    settings::{InterfaceEntry, VlanTag},
    target::TargetEntry,
};

use super::{
    builder::{ETH0_MAC, ETH1_MAC, Frame, Mac, SYN, TARGET_MAC, Transport, mac},
    lab::{CLIENT, Counts, Hook, KEEP_VIP, Lab, SOURCE, TARGET, Verdict, rewritten, untouched},
};

const IDS: (u32, u32) = (4, 4);

fn syn() -> Frame {
    Frame::new(Transport::Tcp(SYN), (CLIENT, 4000), (KEEP_VIP, 80))
}

fn sent(macs: (Mac, Mac)) -> Frame {
    syn().with(|f| {
        f.destination = (TARGET, 8080);
        f.time_to_live = 63;
        f.macs = macs;
    })
}

fn to(lab: &mut Lab, address: [u8; 4]) {
    lab.target(4, |target: &mut TargetEntry| {
        target.address[..4].copy_from_slice(&address);
    });
}

#[test]
fn by_what_the_interface_can_do() {
    let next = (ETH1_MAC, TARGET_MAC);
    let both = InterfaceEntry::TRANSMIT | InterfaceEntry::REDIRECT;
    let cases = [
        (
            "another device, redirect",
            Hook::Eth0,
            both,
            Verdict::Redirect,
            next,
        ),
        (
            "the same device, TX",
            Hook::Eth1,
            both,
            Verdict::Transmit,
            next,
        ),
        (
            "the same, no TX",
            Hook::Eth1,
            InterfaceEntry::REDIRECT,
            Verdict::Redirect,
            next,
        ),
    ];
    for (what, hook, flags, verdict, macs) in cases {
        let mut lab = Lab::new();
        lab.interface(lab.eth1, flags, &[]);
        let counts = Counts::new_flow(IDS, &syn());
        lab.check(&rewritten(what, hook, &syn(), verdict, &sent(macs), counts));
    }
    let mut lab = Lab::new();
    lab.interface(lab.eth1, 0, &[]);
    let handoff = Verdict::Handoff(lab.eth1, 0);
    let counts = Counts::new_flow(IDS, &syn());
    let out = sent(syn().macs);
    lab.check(&rewritten(
        "neither",
        Hook::Eth0,
        &syn(),
        handoff,
        &out,
        counts,
    ));
}

#[test]
fn a_neighbour_that_is_not_known_is_the_kernels_to_find() {
    let mut lab = Lab::new();
    to(&mut lab, [10, 0, 2, 99]);
    let out = sent(syn().macs).with(|f| f.destination.0 = [10, 0, 2, 99]);
    let verdict = Verdict::Handoff(lab.eth1, 0);
    let counts = Counts::new_flow(IDS, &syn());
    lab.check(&rewritten(
        "no neighbour",
        Hook::Eth0,
        &syn(),
        verdict,
        &out,
        counts,
    ));
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
            vec![(0x8100, 0xE007)],
            vec![(0x8100, 0xE009)],
        ),
        (
            "two others",
            &[vlan(0x88A8, 1), vlan(0x8100, 2)],
            vec![(0x8100, 0x2007), (0x8100, 0x1008)],
            vec![(0x88A8, 0x2001), (0x8100, 0x1002)],
        ),
    ];
    for (what, tags, input, output) in cases {
        let mut lab = Lab::new();
        lab.interface(lab.eth1, InterfaceEntry::REDIRECT, tags);
        let input = syn().with(|f| f.tags = input);
        let output = sent((ETH1_MAC, TARGET_MAC)).with(|f| f.tags = output);
        let counts = Counts::new_flow(IDS, &input);
        lab.check(&rewritten(
            what,
            Hook::Eth0,
            &input,
            Verdict::Redirect,
            &output,
            counts,
        ));
    }
    let mut lab = Lab::new();
    lab.interface(lab.eth1, InterfaceEntry::REDIRECT, &[vlan(0x8100, 7)]);
    let verdict = Verdict::Handoff(lab.eth1, 0);
    let counts = Counts::new_flow(IDS, &syn());
    let out = sent(syn().macs);
    lab.check(&rewritten(
        "a tag to add",
        Hook::Eth0,
        &syn(),
        verdict,
        &out,
        counts,
    ));
}

/// What can't go on is dropped as it came; the flow has been begun by then.
#[test]
fn no_way_out() {
    use DropReason as R;
    let cases: [(&str, [u8; 4], R); 3] = [
        ("unreachable", [10, 0, 21, 1], R::NoRoute),
        ("blackhole", [10, 0, 22, 1], R::NoRoute),
        ("prohibit", [10, 0, 23, 1], R::NoRoute),
    ];
    for (what, address, reason) in cases {
        let mut lab = Lab::new();
        to(&mut lab, address);
        let counts = Counts::new_flow(IDS, &syn()).and(reason);
        lab.check(&untouched(
            what,
            Hook::Eth0,
            syn().bytes(),
            Verdict::Drop,
            counts,
        ));
    }
    let mut lab = Lab::new();
    to(&mut lab, [10, 0, 3, 2]);
    let large = syn().with(|f| f.payload = vec![1; 600]);
    let counts = Counts::new_flow(IDS, &large).and(R::TooBig);
    lab.check(&untouched(
        "too big",
        Hook::Eth0,
        large.bytes(),
        Verdict::Drop,
        counts,
    ));

    let mut lab = Lab::new();
    lab.namespace
        .sysctl("ipv4/conf/eth0/forwarding", "0")
        .unwrap();
    let counts = Counts::new_flow(IDS, &syn()).and(R::ForwardingDisabled);
    lab.check(&untouched(
        "no forwarding",
        Hook::Eth0,
        syn().bytes(),
        Verdict::Drop,
        counts,
    ));

    for ttl in [0, 1] {
        let mut lab = Lab::new();
        let old = syn().with(|f| f.time_to_live = ttl);
        let counts = Counts::new_flow(IDS, &old).and(R::TtlExpired);
        lab.check(&untouched(
            "ttl",
            Hook::Eth0,
            old.bytes(),
            Verdict::Drop,
            counts,
        ));
    }
    let mut lab = Lab::new();
    let two = syn().with(|f| f.time_to_live = 2);
    let out = sent((ETH1_MAC, TARGET_MAC)).with(|f| f.time_to_live = 1);
    let counts = Counts::new_flow(IDS, &two);
    lab.check(&rewritten(
        "ttl 2",
        Hook::Eth0,
        &two,
        Verdict::Redirect,
        &out,
        counts,
    ));
    assert_ne!((ETH0_MAC, SOURCE), (ETH1_MAC, TARGET));
    assert_eq!(mac(1, 1), ETH0_MAC);
}
