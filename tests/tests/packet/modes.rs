//! Every mode in both directions, for TCP and UDP, with what may vary in a
//! frame: tags, options, payload, padding, type of service.

use super::{
    builder::{
        ACK, DESTINATION_OPTIONS, FIN, Frame, HOP_BY_HOP, RST, SYN, Tag, Transport, options,
        transport,
    },
    ends::{Ends, Mode},
    lab::{Hook, Lab, Verdict},
    net::NETS,
    step::{Counts, rewritten},
};

/// What a frame looks like beside its addresses.
#[derive(Clone)]
struct Look {
    name: &'static str,
    change: fn(&mut Frame),
    /// Tags don't fit the untagged way out, so the kernel sends.
    tags: u32,
}

const LOOKS: &[Look] = &[
    Look {
        name: "plain",
        change: |_| {},
        tags: 0,
    },
    Look {
        name: "no payload",
        change: |f| f.payload.clear(),
        tags: 0,
    },
    Look {
        name: "odd payload",
        change: |f| f.payload = vec![0xAB; 101],
        tags: 0,
    },
    Look {
        name: "full payload",
        change: |f| f.payload = vec![0x5A; 1400],
        tags: 0,
    },
    Look {
        name: "all ones",
        change: |f| f.payload = vec![0xFF; 64],
        tags: 0,
    },
    Look {
        name: "padded",
        change: |f| f.padding = 6,
        tags: 0,
    },
    Look {
        name: "type of service",
        change: |f| f.type_of_service = 0xB9,
        tags: 0,
    },
    Look {
        name: "one option word",
        change: |f| {
            f.options = vec![1; 4];
            f.extensions = vec![options(DESTINATION_OPTIONS, 1)];
        },
        tags: 0,
    },
    Look {
        name: "all options",
        change: all_options,
        tags: 0,
    },
    Look {
        name: "one tag",
        change: |f| f.tags = vec![TAG],
        tags: 1,
    },
    Look {
        name: "service tag",
        change: |f| f.tags = vec![(0x88A8, 0x2007)],
        tags: 1,
    },
    Look {
        name: "two tags",
        change: |f| f.tags = vec![(0x88A8, 0x0007), TAG],
        tags: 2,
    },
    Look {
        name: "two tags and all options",
        change: |f| {
            f.tags = vec![(0x88A8, 0x0007), TAG];
            all_options(f);
        },
        tags: 2,
    },
];

const TAG: Tag = (0x8100, 0xA00A);

/// As many as there may be.
fn all_options(frame: &mut Frame) {
    frame.options = vec![1; 40];
    frame.extensions = vec![options(HOP_BY_HOP, 16), options(DESTINATION_OPTIONS, 16)];
}

/// The verdicts of requests and of replies.
fn verdicts(lab: &Lab, ends: &Ends, look: &Look) -> (Verdict, Verdict) {
    match (ends.mode, look.tags) {
        (Mode::Local, _) | (_, 0) => (ends.verdict(), ends.verdict()),
        (_, tags) => (
            Verdict::Handoff(lab.eth1, tags),
            Verdict::Handoff(lab.eth0, tags),
        ),
    }
}

/// A handshake, data and the end.
fn conversation(udp: bool) -> [(Transport, bool); 6] {
    [
        (transport(udp, SYN), true),
        (transport(udp, SYN | ACK), false),
        (transport(udp, ACK), true),
        (transport(udp, ACK), false),
        (transport(udp, FIN | ACK), true),
        (transport(udp, RST), false),
    ]
}

#[test]
fn every_mode_rewrites_every_kind_of_frame_both_ways() {
    let mut cases = 0;
    let mut lab = Lab::new();
    for (n, look) in (0..).zip(LOOKS) {
        for ends in Ends::all(n) {
            converse(&mut lab, &ends, look);
            cases += 1;
        }
    }
    println!("{cases} cases of 6 packets");
    assert_eq!(cases, 156);
}

/// A whole flow, each packet checked to the byte.
fn converse(lab: &mut Lab, ends: &Ends, look: &Look) {
    ends.claim(lab);
    let (forward_verdict, reply_verdict) = verdicts(lab, ends, look);
    let ids = ends.ids();
    for (step, (transport, forward)) in conversation(ends.udp).into_iter().enumerate() {
        let what = format!("{}, {}, step {step}", ends.what(), look.name);
        lab.check(&if forward {
            let input = ends.request(transport).with(look.change);
            let output = ends.sent(&input);
            let counts = if step == 0 {
                Counts::new_flow(ids, &input)
            } else {
                Counts::forward(ids, &input)
            };
            let hook = Hook::Eth0;
            rewritten(what, hook, &input, forward_verdict, &output, counts)
        } else {
            let input = ends.reply(transport).with(look.change);
            let output = ends.restored(&input);
            let mut counts = Counts::reply(ids, &input);
            if ends.mode == Mode::Local {
                // Egress counts what the skb holds, padding too.
                let padding = input.padding as u64;
                counts.listeners.get_mut(&ids.0).unwrap()[3] += padding;
                counts.targets.get_mut(&ids.1).unwrap()[3] += padding;
            }
            let hook = ends.reply_hook();
            rewritten(what, hook, &input, reply_verdict, &output, counts)
        });
    }
}

#[test]
fn a_forwarded_reply_is_restored_on_egress() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| ends.mode == Mode::KeepClient) {
        ends.open(&mut lab);
        let input = ends.reply(ends.transport(ACK));
        // The kernel has routed it: its own addresses, and the hop is counted.
        let output = input.clone().with(|f| f.source = ends.vip);
        let counts = Counts::reply(ends.ids(), &input);
        let (what, hook, verdict) = (ends.what(), Hook::Egress, Verdict::Pass);
        lab.check(&rewritten(what, hook, &input, verdict, &output, counts));
    }
}

#[test]
fn udp_without_checksum_stays_so() {
    let mut lab = Lab::new();
    for net in NETS {
        let ends = Ends::new(net, Mode::Local, true, 0);
        let verdict = Verdict::Pass;
        let input = ends.request(Transport::UdpUnchecked);
        let counts = Counts::new_flow(ends.ids(), &input);
        let (hook, output) = (Hook::Eth0, ends.sent(&input));
        lab.check(&rewritten("in", hook, &input, verdict, &output, counts));
        let input = ends.reply(Transport::UdpUnchecked);
        let counts = Counts::reply(ends.ids(), &input);
        let (hook, output) = (Hook::Egress, ends.restored(&input));
        lab.check(&rewritten("reply", hook, &input, verdict, &output, counts));
    }
}

/// The payload whose rewritten checksum comes out as zero is found by trying.
#[test]
fn a_udp_checksum_of_zero_is_written_as_ones() {
    let mut lab = Lab::new();
    for net in NETS {
        let ends = Ends::new(net, Mode::SourceNat, true, 0);
        let with = |n: u16| {
            let payload = n.to_be_bytes().to_vec();
            ends.request(Transport::Udp).with(|f| f.payload = payload)
        };
        let is_ones = |n: &u16| {
            let bytes = ends.sent(&with(*n)).packet();
            bytes[net.header() + 6..net.header() + 8] == [0xFF; 2]
        };
        let input = with((0..=u16::MAX).find(is_ones).unwrap());
        let output = ends.sent(&input);
        let counts = Counts::new_flow(ends.ids(), &input);
        let (hook, verdict) = (Hook::Eth0, Verdict::Redirect);
        lab.check(&rewritten("ones", hook, &input, verdict, &output, counts));
    }
}
