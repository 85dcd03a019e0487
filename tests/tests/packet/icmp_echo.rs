//! Echo requests: answered at an address that only xlb has, and nowhere else.

use std::net::IpAddr;

use lb_common::{
    counters::DropReason,
    listener::VipEntry,
    settings::{InterfaceEntry, VlanTag},
};
use lb_user::reconcile::Change;

use super::{
    builder::{DESTINATION_OPTIONS, Frame, HOP_BY_HOP, Transport, options},
    lab::{Hook, Lab, Verdict},
    net::{NETS, Net},
    step::{Counts, rewritten, untouched},
};

const WORDS: [u8; 4] = [0x12, 0x34, 0, 9];

fn request(net: Net, to: IpAddr) -> Frame {
    let kind = if net.v6() { 128 } else { 8 };
    Frame::new(Transport::Icmp(kind, 0, WORDS), (net.client, 0), (to, 0))
}

/// The answer to a request that has the same payload and tags.
fn reply(net: Net, request: &Frame) -> Frame {
    let kind = if net.v6() { 129 } else { 0 };
    request.clone().with(|f| {
        f.transport = Transport::Icmp(kind, 0, WORDS);
        (f.source, f.destination) = (request.destination, request.source);
        f.macs = (request.macs.1, request.macs.0);
        f.time_to_live = 64;
    })
}

fn own(lab: &mut Lab, net: Net) {
    let flags = VipEntry::OWNED;
    lab.apply(Change::SetVip(net.nat_vip, VipEntry { flags }));
}

#[test]
fn an_own_address_answers() {
    type Look = fn(&mut Frame);
    let looks: [(&str, Look); 11] = [
        ("plain", |_| {}),
        ("empty", |f| f.payload.clear()),
        ("odd", |f| f.payload = vec![0xAB; 57]),
        ("even", |f| f.payload = vec![0xCD; 56]),
        ("ones", |f| f.payload = vec![0xFF; 64]),
        ("large", |f| f.payload = vec![1; 1400]),
        ("padded", |f| f.padding = 9),
        ("hop limit", |f| f.time_to_live = 1),
        ("type of service", |f| f.type_of_service = 0x2E),
        ("one tag", |f| f.tags = vec![(0x8100, 0xA00A)]),
        ("two tags", |f| f.tags = vec![(0x88A8, 7), (0x8100, 0xA00A)]),
    ];
    let mut lab = Lab::new();
    for net in NETS {
        own(&mut lab, net);
        for (what, look) in looks {
            let input = request(net, net.nat_vip).with(look);
            let output = reply(net, &input);
            let counts = Counts::reason(DropReason::EchoAnswered);
            let (hook, verdict) = (Hook::Eth0, Verdict::Transmit);
            lab.check(&rewritten(what, hook, &input, verdict, &output, counts));
        }
        let input = request(net, net.nat_vip).with(|f| {
            f.options = vec![1; 12];
            f.extensions = vec![options(HOP_BY_HOP, 1), options(DESTINATION_OPTIONS, 2)];
        });
        let output = reply(net, &input);
        let counts = Counts::reason(DropReason::EchoAnswered);
        let (hook, verdict) = (Hook::Eth0, Verdict::Transmit);
        lab.check(&rewritten(
            "options", hook, &input, verdict, &output, counts,
        ));
    }
}

/// The answer goes out of the device that the request came in by.
#[test]
fn as_the_interface_can() {
    let mut lab = Lab::new();
    let tag = VlanTag {
        protocol: 0x8100,
        id: 7,
    };
    for net in NETS {
        own(&mut lab, net);
        let plain = request(net, net.nat_vip);
        let tagged = plain.clone().with(|f| f.tags = vec![(0x8100, 7)]);
        let redirect = InterfaceEntry::REDIRECT;
        let cases = [
            ("redirect", redirect, &plain, Verdict::Redirect),
            ("neither", 0, &plain, Verdict::Handoff(lab.eth0, 0)),
            ("tagged", redirect, &tagged, Verdict::Redirect),
        ];
        for (what, flags, input, verdict) in cases {
            lab.interface(lab.eth0, flags, &[tag][..input.tags.len()]);
            let counts = Counts::reason(DropReason::EchoAnswered);
            let output = reply(net, input);
            lab.check(&rewritten(
                what,
                Hook::Eth0,
                input,
                verdict,
                &output,
                counts,
            ));
        }
    }
}

#[test]
fn elsewhere_nothing_is_answered() {
    let mut lab = Lab::new();
    for net in NETS {
        own(&mut lab, net);
        let to = |address| request(net, address);
        let vip = || to(net.nat_vip);
        let not_ours = DropReason::NotOurs;
        let cases = [
            ("a listener's, not owned", to(net.keep_vip), not_ours),
            ("an interface's", to(net.source), not_ours),
            ("nobody's", to(net.router), not_ours),
            (
                "a reply",
                reply(net, &vip()).with(|f| f.destination.0 = net.nat_vip),
                not_ours,
            ),
            (
                "another code",
                vip().with(|f| {
                    let Transport::Icmp(kind, _, words) = f.transport else {
                        unreachable!()
                    };
                    f.transport = Transport::Icmp(kind, 1, words);
                }),
                not_ours,
            ),
            (
                "the other family's type",
                vip().with(|f| {
                    let kind = if net.v6() { 8 } else { 128 };
                    f.transport = Transport::Icmp(kind, 0, WORDS);
                }),
                not_ours,
            ),
            (
                "the first fragment",
                vip().split(8)[0].clone(),
                DropReason::Fragment,
            ),
            (
                "a later fragment",
                vip().split(8)[1].clone(),
                DropReason::Fragment,
            ),
        ];
        for (what, frame, reason) in cases {
            let what = format!("{what}, {}", net.name);
            let counts = Counts::reason(reason);
            let bytes = frame.bytes();
            lab.check(&untouched(what, Hook::Eth0, bytes, Verdict::Pass, counts));
        }
        // Too short for an ICMP header.
        let short = vip().with(|f| {
            f.transport = Transport::Other(if net.v6() { 58 } else { 1 });
            f.payload = vec![if net.v6() { 128 } else { 8 }, 0, 0, 0, 0, 0, 0];
        });
        let counts = Counts::reason(DropReason::NotOurs);
        let (hook, bytes) = (Hook::Eth0, short.bytes());
        lab.check(&untouched("short", hook, bytes, Verdict::Pass, counts));
        // What this host itself asks.
        let (hook, bytes) = (Hook::Egress, vip().bytes());
        let counts = Counts::none();
        lab.check(&untouched("own", hook, bytes, Verdict::Pass, counts));
    }
}
