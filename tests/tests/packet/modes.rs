//! Every mode in both directions, for TCP and UDP, with what may vary in a
//! frame: tags, options, payload, padding, type of service.

use super::{
    builder::{
        ACK, CLIENT_MAC, ETH0_MAC, ETH1_MAC, FIN, Frame, RST, SYN, TARGET_MAC, Tag, Transport,
    },
    lab::{
        CLIENT, Counts, HOST, Hook, KEEP_VIP, Lab, NAT_VIP, SOURCE, TARGET, Verdict, rewritten,
        transport,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Local,
    SourceNat,
    KeepClient,
}

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
        change: |f| f.options = vec![1; 4],
        tags: 0,
    },
    Look {
        name: "all options",
        change: |f| f.options = vec![1; 40],
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
];

const TAG: Tag = (0x8100, 0xA00A);

/// The four frames of a flow's packet: forward in and out, reply in and out.
struct Frames {
    ids: (u32, u32),
    forward: (Frame, Frame),
    reply: (Frame, Frame),
}

fn frames(mode: Mode, udp: bool, forward: Transport, reply: Transport, look: &Look) -> Frames {
    let service = if udp { 53 } else { 80 };
    let (vip, target, local_port) = match mode {
        Mode::Local => (HOST, HOST, if udp { 5353 } else { 8081 }),
        Mode::SourceNat => (NAT_VIP, TARGET, if udp { 5300 } else { 8080 }),
        Mode::KeepClient => (KEEP_VIP, TARGET, if udp { 5300 } else { 8080 }),
    };
    let client = (CLIENT, 40_000);
    let seen = if mode == Mode::SourceNat {
        (SOURCE, 20_000)
    } else {
        client
    };
    let base = |transport, from, to| Frame::new(transport, from, to).with(look.change);
    let hop = u8::from(mode != Mode::Local);
    let sent = |frame: Frame, macs| {
        frame.with(|f| {
            f.time_to_live -= hop;
            if mode != Mode::Local && look.tags == 0 {
                f.macs = macs;
            }
        })
    };
    let from_target = |frame: Frame| {
        frame.with(|f| {
            if mode != Mode::Local {
                f.macs = (TARGET_MAC, ETH1_MAC);
            }
        })
    };
    let id = match mode {
        Mode::Local => 0,
        Mode::SourceNat => 2,
        Mode::KeepClient => 4,
    } + u32::from(udp);
    Frames {
        ids: (id, id),
        forward: (
            base(forward, client, (vip, service)),
            sent(
                base(forward, seen, (target, local_port)),
                (ETH1_MAC, TARGET_MAC),
            ),
        ),
        reply: (
            from_target(base(reply, (target, local_port), seen)),
            sent(
                from_target(base(reply, (vip, service), client)),
                (ETH0_MAC, CLIENT_MAC),
            ),
        ),
    }
}

fn verdicts(lab: &Lab, mode: Mode, look: &Look) -> (Hook, Verdict, Verdict) {
    match (mode, look.tags) {
        (Mode::Local, _) => (Hook::Egress, Verdict::Pass, Verdict::Pass),
        (_, 0) => (Hook::Eth1, Verdict::Redirect, Verdict::Redirect),
        (_, tags) => (
            Hook::Eth1,
            Verdict::Handoff(lab.eth1, tags),
            Verdict::Handoff(lab.eth0, tags),
        ),
    }
}

/// A handshake, data and the end, each packet checked to the byte.
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
    for mode in [Mode::Local, Mode::SourceNat, Mode::KeepClient] {
        for udp in [false, true] {
            for look in LOOKS {
                let mut lab = Lab::new();
                let (reply_hook, forward_verdict, reply_verdict) = verdicts(&lab, mode, look);
                for (step, (transport, forward)) in conversation(udp).into_iter().enumerate() {
                    let f = frames(mode, udp, transport, transport, look);
                    let what = format!("{mode:?}, {transport:?}, {}, step {step}", look.name);
                    lab.check(&if forward {
                        let counts = if step == 0 {
                            Counts::new_flow(f.ids, &f.forward.0)
                        } else {
                            Counts::forward(f.ids, &f.forward.0)
                        };
                        let (input, output) = &f.forward;
                        rewritten(what, Hook::Eth0, input, forward_verdict, output, counts)
                    } else {
                        let (input, output) = &f.reply;
                        let counts = if mode == Mode::Local {
                            // Egress counts what the skb holds, padding too.
                            let padding = input.padding as u64;
                            let mut counts = Counts::reply(f.ids, input);
                            counts.listeners.get_mut(&f.ids.0).unwrap()[3] += padding;
                            counts.targets.get_mut(&f.ids.1).unwrap()[3] += padding;
                            counts
                        } else {
                            Counts::reply(f.ids, input)
                        };
                        rewritten(what, reply_hook, input, reply_verdict, output, counts)
                    });
                }
                cases += 1;
            }
        }
    }
    println!("{cases} cases of 6 packets");
    assert_eq!(cases, 72);
}

#[test]
fn a_forwarded_reply_is_restored_on_egress() {
    let look = &LOOKS[0];
    for udp in [false, true] {
        let mut lab = Lab::new();
        let f = frames(
            Mode::KeepClient,
            udp,
            transport(udp, SYN),
            transport(udp, SYN | ACK),
            look,
        );
        let counts = Counts::new_flow(f.ids, &f.forward.0);
        let (input, output) = &f.forward;
        lab.check(&rewritten(
            "SYN",
            Hook::Eth0,
            input,
            Verdict::Redirect,
            output,
            counts,
        ));
        // The kernel has routed it: its own addresses, and the hop is counted.
        let restored = f.reply.0.clone().with(|r| {
            r.source = f.reply.1.source;
        });
        let counts = Counts::reply(f.ids, &f.reply.0);
        let input = &f.reply.0;
        lab.check(&rewritten(
            "reply",
            Hook::Egress,
            input,
            Verdict::Pass,
            &restored,
            counts,
        ));
    }
}

#[test]
fn udp_without_checksum_stays_so_and_zero_is_written_as_ones() {
    let mut lab = Lab::new();
    let f = frames(
        Mode::Local,
        true,
        Transport::UdpUnchecked,
        Transport::UdpUnchecked,
        &LOOKS[0],
    );
    let (input, output) = &f.forward;
    let counts = Counts::new_flow(f.ids, input);
    lab.check(&rewritten(
        "unchecked",
        Hook::Eth0,
        input,
        Verdict::Pass,
        output,
        counts,
    ));
    let (input, output) = &f.reply;
    let counts = Counts::reply(f.ids, input);
    lab.check(&rewritten(
        "unchecked reply",
        Hook::Egress,
        input,
        Verdict::Pass,
        output,
        counts,
    ));

    // The payload whose rewritten checksum comes out as zero is found by trying.
    let at = |bytes: &[u8]| u16::from_be_bytes([bytes[40], bytes[41]]);
    let payload = (0..=u16::MAX)
        .map(|n| n.to_be_bytes().to_vec())
        .find(|payload| {
            let f = frames(
                Mode::SourceNat,
                true,
                Transport::Udp,
                Transport::Udp,
                &LOOKS[0],
            );
            at(&f.forward.1.with(|f| f.payload.clone_from(payload)).bytes()) == 0xFFFF
        })
        .unwrap();
    let f = frames(
        Mode::SourceNat,
        true,
        Transport::Udp,
        Transport::Udp,
        &LOOKS[0],
    );
    let with = |frame: Frame| frame.with(|f| f.payload.clone_from(&payload));
    let (input, output) = (with(f.forward.0), with(f.forward.1));
    let counts = Counts::new_flow(f.ids, &input);
    lab.check(&rewritten(
        "all ones",
        Hook::Eth0,
        &input,
        Verdict::Redirect,
        &output,
        counts,
    ));
}
