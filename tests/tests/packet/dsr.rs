//! Direct server return: in a frame to the target or inside an outer packet.

use std::collections::HashSet;

use lb_common::{
    counters::DropReason,
    target::{Encapsulation, TargetEntry},
    wire::wide,
};
use lb_user::reconcile::Change;

use super::{
    builder::{
        ACK, DESTINATION_OPTIONS, ETH1_MAC, Frame, HOP_BY_HOP, SYN, TARGET_MAC, mac, options,
    },
    icmp_errors,
    lab::{Hook, Lab, Verdict},
    step::{Counts, Step, rewritten, untouched},
    tunnel::{LEAST_MTU, Tunnel, Varying},
};

/// Checks that a request goes to the target; what varies in the outer header.
fn check(lab: &mut Lab, tunnel: &Tunnel, what: &str, input: &Frame, counts: Counts) -> Varying {
    let tags = input.tags.len();
    let verdict = if tags == 0 {
        Verdict::Redirect
    } else {
        Verdict::Handoff(lab.eth1, tags as u32)
    };
    let mut varying = None;
    let step = |output: &[u8]| -> Step {
        let seen = tunnel.varying(output, tags);
        varying = Some(seen);
        let expected = tunnel.sent(input, &seen);
        let what = format!("{what}, {}", tunnel.what());
        rewritten(what, Hook::Eth0, input, verdict, &expected, counts)
    };
    lab.check_by(Hook::Eth0, &input.bytes(), step);
    varying.unwrap()
}

type Look = (&'static str, fn(&mut Frame));

const LOOKS: [Look; 11] = [
    ("plain", |_| {}),
    ("empty", |f| f.payload.clear()),
    ("odd", |f| f.payload = vec![0xAB; 101]),
    ("full", |f| f.payload = vec![0x5A; 1400]),
    ("may be fragmented", |f| f.whole = false),
    ("type of service", |f| f.type_of_service = 0xB8),
    ("congestion experienced", |f| f.type_of_service = 0x03),
    ("all of the byte", |f| f.type_of_service = 0xFF),
    ("options", |f| {
        f.options = vec![1; 40];
        f.extensions = vec![options(HOP_BY_HOP, 1), options(DESTINATION_OPTIONS, 2)];
    }),
    ("one tag", |f| f.tags = vec![(0x8100, 0xA00A)]),
    ("two tags", |f| {
        f.tags = vec![(0x88A8, 0x2007), (0x8100, 0xA00A)];
        f.padding = 3;
    }),
];

#[test]
fn every_way_to_every_family() {
    let mut lab = Lab::new();
    let mut cases = 0;
    for tunnel in Tunnel::all() {
        tunnel.set(&mut lab, |_| {});
        // Flows of an encapsulation have ports of their own.
        let base = 100 * (tunnel.encapsulation as u16 * 2 + u16::from(tunnel.outer.v6()));
        for (n, (what, look)) in (base..).zip(LOOKS) {
            let input = tunnel.request(n, SYN).with(look);
            let counts = Counts::new_flow(tunnel.ids(), &input);
            let first = check(&mut lab, &tunnel, what, &input, counts);
            assert!(first.port == 0 || first.port >= 0xC000, "{first:?}");
            for _ in 0..3 {
                let input = tunnel.request(n, ACK).with(look);
                let counts = Counts::forward(tunnel.ids(), &input);
                let varying = check(&mut lab, &tunnel, what, &input, counts);
                let same = (varying.of_flow(), first.of_flow());
                assert_eq!(same.0, same.1, "{what}, {}", tunnel.what());
            }
            cases += 1;
        }
    }
    println!("{cases} cases of 4 packets");
}

#[test]
fn flows_are_told_apart_outside() {
    let mut lab = Lab::new();
    for tunnel in Tunnel::all() {
        if tunnel.encapsulation == Encapsulation::None {
            continue;
        }
        for bits in [0, 1, 8, 12, 32] {
            tunnel.set(&mut lab, |t| t.source_bits = bits);
            let mut all = HashSet::new();
            for n in 0..64 {
                let mut varying = HashSet::new();
                for flags in [SYN, ACK] {
                    let (_, out) = lab.run(Hook::Eth0, &tunnel.request(n, flags).bytes());
                    varying.insert(tunnel.varying(&out, 0).of_flow());
                }
                assert_eq!(varying.len(), 1, "{}, flow {n}", tunnel.what());
                all.extend(varying);
            }
            spread(&tunnel, bits, &all);
        }
    }
}

/// What should vary does, and nothing else.
fn spread(tunnel: &Tunnel, bits: u8, all: &HashSet<Varying>) {
    let what = format!("{}, {bits} bits", tunnel.what());
    let last = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(v4) => u128::from(v4.to_bits()),
        std::net::IpAddr::V6(v6) => v6.to_bits(),
    };
    let fixed: HashSet<u128> = all.iter().map(|v| last(v.source) >> bits).collect();
    assert_eq!(fixed, [last(tunnel.outer.source) >> bits].into(), "{what}");
    let sources: HashSet<u128> = all.iter().map(|v| last(v.source)).collect();
    let expected = match bits {
        0 => 1..=1,
        1 => 2..=2,
        8 => 40..=64,
        _ => 60..=64,
    };
    assert!(expected.contains(&sources.len()), "{what}: {sources:x?}");
    let ports: HashSet<u16> = all.iter().map(|v| v.port).collect();
    let labels: HashSet<u32> = all.iter().map(|v| v.label).collect();
    let udp = tunnel.encapsulation != Encapsulation::Ipip;
    assert_eq!(ports.len() > 60, udp, "{what}: {ports:x?}");
    assert_eq!(labels.len() > 60, tunnel.outer.v6(), "{what}: {labels:x?}");
}

/// One entry a flow, established by two packets behind the SYN.
#[test]
fn going_on_confirms_a_flow() {
    for tunnel in Tunnel::all() {
        if tunnel.encapsulation != Encapsulation::Ipip || tunnel.inner != tunnel.outer {
            continue;
        }
        let mut lab = Lab::new();
        tunnel.set(&mut lab, |_| {});
        let net = tunnel.inner;
        let mut after = |n, flags, flows, what: &str| {
            lab.run(Hook::Eth0, &tunnel.request(n, flags).bytes());
            assert_eq!(lab.flows(net), flows, "{what}, {}", tunnel.what());
        };
        if tunnel.udp {
            after(0, 0, (1, 0), "one");
            after(0, 0, (0, 1), "two");
            continue;
        }
        after(0, SYN, (1, 0), "SYN");
        after(0, SYN, (1, 0), "SYN again");
        after(0, ACK, (1, 0), "ACK");
        after(0, ACK, (0, 1), "data");
        after(0, SYN, (0, 1), "a stray SYN");
        after(1, ACK, (1, 1), "in mid-stream");
        after(1, ACK, (0, 2), "and on");
    }
}

#[test]
fn later_fragments_follow() {
    let mut lab = Lab::new();
    for tunnel in Tunnel::all() {
        tunnel.set(&mut lab, |_| {});
        let n = 10 * tunnel.encapsulation as u16 + u16::from(tunnel.outer.v6());
        let whole = tunnel.request(n, SYN).with(|f| {
            f.payload = (0..90).collect();
            f.identification = 500 + u32::from(n) + 100 * u32::from(tunnel.udp);
        });
        let [first, last] = whole.split(40);
        let counts = Counts::new_flow(tunnel.ids(), &first);
        let varying = check(&mut lab, &tunnel, "first", &first, counts);
        let counts = Counts::forward(tunnel.ids(), &last);
        let later = check(&mut lab, &tunnel, "last", &last, counts);
        assert_eq!(varying.of_flow(), later.of_flow());
        // A router may fragment them again.
        let v4 = tunnel.encapsulation != Encapsulation::None && !tunnel.outer.v6();
        assert_eq!(varying != later, v4, "{}", tunnel.what());
    }
}

/// Of a packet that routers may fragment the identification says whose its
/// pieces are (RFC 6864). They may where they may the packet inside, or if that
/// is IPv6 and no larger than every path takes (RFC 4213, section 3.2).
#[test]
fn packets_that_may_be_fragmented_are_told_apart() {
    let mut lab = Lab::new();
    for tunnel in Tunnel::all() {
        if tunnel.encapsulation == Encapsulation::None || tunnel.outer.v6() {
            continue;
        }
        tunnel.set(&mut lab, |_| {});
        let v6 = tunnel.inner.v6();
        let mut of = |frame: Frame| {
            let (_, out) = lab.run(Hook::Eth0, &frame.bytes());
            (out[20] & 0x40 == 0, tunnel.varying(&out, 0).identification)
        };
        let base = 2_000 + 10 * tunnel.encapsulation as u16;
        let sized = |length: usize| {
            let frame = tunnel.request(base, SYN).with(|f| f.payload.clear());
            let surplus = length - frame.ip_length() as usize;
            frame.with(|f| f.payload = vec![7; surplus])
        };
        of(sized(100));
        let what = tunnel.what();
        assert_eq!(of(sized(LEAST_MTU)).0, v6, "{what}");
        assert_eq!(of(sized(LEAST_MTU + 1)), (false, 0), "{what}");
        let mut ids = HashSet::new();
        for n in 0..256 {
            let (may_be, id) = of(sized(200).with(|f| {
                f.whole = false;
                // What tells packets apart inside.
                if v6 {
                    f.payload[1] = n as u8;
                } else {
                    f.identification = n;
                }
            }));
            assert!(may_be, "{what}");
            ids.insert(id);
        }
        assert!(ids.len() > 250, "{what}: {} of 256", ids.len());
        let other = of(tunnel.request(base + 1, SYN).with(|f| f.whole = false));
        let same = of(tunnel.request(base + 2, SYN).with(|f| f.whole = false));
        assert_ne!(other, same, "of two flows, {what}");
    }
}

/// What is handed over to the kernel as it came is met again by the program on
/// egress, which leaves it and what ingress knows of it alone.
#[test]
fn later_fragments_are_handed_over_like_the_first() {
    let mut lab = Lab::new();
    lab.interface(lab.eth1, 0, &[]);
    let handoff = Verdict::Handoff(lab.eth1, 0);
    for tunnel in Tunnel::all() {
        if tunnel.encapsulation != Encapsulation::None {
            continue;
        }
        tunnel.set(&mut lab, |_| {});
        let whole = tunnel
            .request(0, SYN)
            .with(|f| f.payload = (0..90).collect());
        for (n, piece) in whole.split(40).into_iter().enumerate() {
            let counts = match n {
                0 => Counts::new_flow(tunnel.ids(), &piece),
                _ => Counts::forward(tunnel.ids(), &piece),
            };
            let varying = tunnel.varying(&piece.bytes(), 0);
            let sent = tunnel.sent_by(&piece, &varying, piece.macs);
            let (what, hook) = (tunnel.what(), Hook::Eth0);
            lab.check(&rewritten(what, hook, &piece, handoff, &sent, counts));
            let (what, bytes) = (tunnel.what(), sent.bytes());
            let counts = Counts::none();
            lab.check(&untouched(what, Hook::Egress, bytes, Verdict::Pass, counts));
        }
    }
}

/// About a packet from the target to a client: only the target knows it.
#[test]
fn icmp_errors_reach_the_target_as_they_came() {
    let mut lab = Lab::new();
    let mut cases = 0;
    for (tunnel, established) in Tunnel::all()
        .into_iter()
        .flat_map(|it| [(it, false), (it, true)])
    {
        tunnel.set(&mut lab, |_| {});
        let n = 10 * tunnel.encapsulation as u16 + u16::from(tunnel.outer.v6());
        let n = n + if established { 1_100 } else { 1_000 };
        let varying = begin(&mut lab, &tunnel, n, established);
        let request = tunnel.request(n, SYN);
        let answer = request.clone().with(|f| {
            (f.source, f.destination) = (request.destination, request.source);
            f.payload = vec![7; 300];
        });
        // Of a flow that isn't there.
        let other = answer.clone().with(|f| f.destination.1 ^= 0x8000).packet();
        let quoted = tunnel.inner.header() + 8;
        for (name, kind) in icmp_errors::kinds(tunnel.inner) {
            let router = (tunnel.inner.router, 0);
            let error = Frame::new(kind, router, (tunnel.inner.keep_vip, 0));
            for length in [quoted, answer.packet().len()] {
                let quote = answer.packet()[..length].to_vec();
                let error = error.clone().with(|f| f.payload = quote);
                let what = format!("{name}, established: {established}");
                let seen = check(&mut lab, &tunnel, &what, &error, Counts::none());
                assert_eq!(
                    seen.of_flow(),
                    varying.of_flow(),
                    "{what}, {}",
                    tunnel.what()
                );
                cases += 1;
            }
            let bytes = error.with(|f| f.payload.clone_from(&other)).bytes();
            let counts = Counts::reason(DropReason::NotOurs);
            lab.check(&untouched(name, Hook::Eth0, bytes, Verdict::Pass, counts));
        }
    }
    println!("{cases} errors");
}

/// Begins a flow, and confirms it if it should be established.
fn begin(lab: &mut Lab, tunnel: &Tunnel, n: u16, established: bool) -> Varying {
    let (half_open, before) = lab.flows(tunnel.inner);
    let first = tunnel.request(n, SYN);
    let counts = Counts::new_flow(tunnel.ids(), &first);
    let varying = check(lab, tunnel, "SYN", &first, counts);
    if established {
        for _ in 0..2 {
            let next = tunnel.request(n, ACK);
            let counts = Counts::forward(tunnel.ids(), &next);
            check(lab, tunnel, "ACK", &next, counts);
        }
    }
    let now = if established {
        (half_open, before + 1)
    } else {
        (half_open + 1, before)
    };
    assert_eq!(lab.flows(tunnel.inner), now, "{}", tunnel.what());
    varying
}

/// The id of a target that tunnels don't have.
const OTHER: u32 = 20;

/// A flow that is known, whether it has only begun or is established, doesn't
/// ask the table.
#[test]
fn a_known_flow_keeps_its_target_when_the_table_changes() {
    let mut lab = Lab::new();
    for tunnel in Tunnel::all() {
        tunnel.set(&mut lab, |_| {});
        let n = 10 * tunnel.encapsulation as u16 + 5 * u16::from(tunnel.outer.v6());
        let known = [(n, false), (n + 1, true)];
        let varying = known.map(|(n, established)| begin(&mut lab, &tunnel, n, established));
        let other = TargetEntry {
            address: wide(tunnel.outer.far),
            source: wide(tunnel.outer.far_source),
            ..tunnel.entry()
        };
        lab.apply(Change::SetTarget(OTHER, other));
        lab.table(tunnel.id, OTHER);
        for ((n, _), varying) in known.into_iter().zip(varying) {
            for _ in 0..3 {
                let input = tunnel.request(n, ACK);
                let counts = Counts::forward(tunnel.ids(), &input);
                let seen = check(&mut lab, &tunnel, "known", &input, counts);
                assert_eq!(seen.of_flow(), varying.of_flow(), "{}", tunnel.what());
            }
        }
        let new = tunnel.request(n + 2, SYN);
        let (verdict, out) = lab.run(Hook::Eth0, &new.bytes());
        let to = (verdict, &out[..6]);
        assert_eq!(to, (Verdict::Redirect, &mac(3, 2)[..]), "{}", tunnel.what());
        lab.apply(Change::ClearTarget(OTHER));
    }
}

/// What comes back by here isn't ours, and goes on as it came.
#[test]
fn replies_are_not_looked_at() {
    let mut lab = Lab::new();
    for tunnel in Tunnel::all() {
        if tunnel.encapsulation != Encapsulation::None {
            continue;
        }
        tunnel.set(&mut lab, |_| {});
        let request = tunnel.request(0, SYN);
        lab.run(Hook::Eth0, &request.bytes());
        let reply = request.clone().with(|f| {
            (f.source, f.destination) = (request.destination, request.source);
            f.macs = (TARGET_MAC, ETH1_MAC);
        });
        let counts = Counts::reason(DropReason::NotOurs);
        let (hook, bytes) = (Hook::Eth1, reply.bytes());
        lab.check(&untouched("in", hook, bytes, Verdict::Pass, counts));
        let (hook, bytes) = (Hook::Egress, reply.bytes());
        let counts = Counts::none();
        lab.check(&untouched("out", hook, bytes, Verdict::Pass, counts));
    }
}

#[test]
fn the_packets_own_time_to_live_counts() {
    let mut lab = Lab::new();
    for tunnel in Tunnel::all() {
        tunnel.set(&mut lab, |_| {});
        let n = 10 * tunnel.encapsulation as u16 + u16::from(tunnel.outer.v6());
        let old = tunnel.request(n, SYN).with(|f| f.time_to_live = 1);
        let counts = Counts::new_flow(tunnel.ids(), &old).and(DropReason::TtlExpired);
        let (what, bytes) = (tunnel.what(), old.bytes());
        lab.check(&untouched(what, Hook::Eth0, bytes, Verdict::Drop, counts));
        let last = tunnel.request(n, SYN).with(|f| f.time_to_live = 2);
        let counts = Counts::forward(tunnel.ids(), &last);
        check(&mut lab, &tunnel, "2", &last, counts);
    }
}
