//! The RST that TCP gets whose flow is over.

use lb_common::{
    counters::DropReason,
    settings::Settings,
    target::{Encapsulation, TargetEntry},
};
use lb_user::reconcile::Change;

use xlb_tests::clock;

use super::{
    builder::{ACK, DESTINATION_OPTIONS, FIN, Frame, HOP_BY_HOP, RST, SYN, Transport, options},
    ends::{Ends, Mode},
    lab::{Hook, Lab, SETTINGS, Verdict},
    step::{Counts, rewritten, untouched},
    tunnel::Tunnel,
};

/// What a host without the connection answers (RFC 9293, section 3.10.7.1).
fn answer(segment: &Frame) -> Frame {
    let Transport::Tcp(flags) = segment.transport else {
        panic!("{segment:?}")
    };
    let (sequence, acknowledgment, _) = segment.numbers;
    let length = segment.payload.len() as u32 + u32::from(flags & FIN != 0);
    let (flags, numbers) = if flags & ACK != 0 {
        (RST, (acknowledgment, 0, 0))
    } else {
        (RST | ACK, (0, sequence.wrapping_add(length), 0))
    };
    Frame::new(Transport::Tcp(flags), segment.destination, segment.source).with(|f| {
        f.macs = (segment.macs.1, segment.macs.0);
        f.tags.clone_from(&segment.tags);
        f.identification = 0;
        f.numbers = numbers;
        f.payload.clear();
    })
}

type Look = (&'static str, u8, fn(&mut Frame));

const LOOKS: [Look; 12] = [
    ("ACK", ACK, |f| f.payload.clear()),
    ("data", ACK, |_| {}),
    ("the end", FIN | ACK, |_| {}),
    ("no ACK", 0, |_| {}),
    ("no ACK, nothing", 0, |f| f.payload.clear()),
    ("FIN without ACK", FIN, |_| {}),
    ("numbers that wrap", FIN, |f| {
        f.numbers = (0xFFFF_FFFE, 0, 9);
        f.payload = vec![1; 100];
    }),
    ("large", ACK, |f| f.payload = vec![0xA5; 1_400]),
    ("TCP options", 0, |f| f.tcp_options = vec![1; 40]),
    ("IP options", FIN, |f| {
        f.options = vec![1; 40];
        f.extensions = vec![options(HOP_BY_HOP, 1), options(DESTINATION_OPTIONS, 2)];
    }),
    ("padded", ACK, |f| {
        f.payload.clear();
        f.padding = 6;
    }),
    ("tags and service", ACK, |f| {
        f.tags = vec![(0x88A8, 7), (0x8100, 0xA00A)];
        f.type_of_service = 0xFF;
        f.time_to_live = 1;
    }),
];

fn over(lab: &mut Lab, ends: &Ends) {
    lab.target(ends.id, |t| t.flags &= !TargetEntry::KEEPS);
}

/// As `over`, and nobody else takes what isn't answered.
fn gone(lab: &mut Lab, ends: &Ends) {
    let alive = TargetEntry::KEEPS | TargetEntry::ACCEPTS;
    lab.target(ends.id, |t| t.flags &= !alive);
}

fn step(what: String, hook: Hook, input: &Frame) -> super::step::Step {
    let counts = Counts::reason(DropReason::FlowReset);
    rewritten(what, hook, input, Verdict::Transmit, &answer(input), counts)
}

#[test]
fn whoever_goes_on_is_told() {
    let mut lab = Lab::new();
    for (n, (name, flags, look)) in (0..).zip(LOOKS) {
        // The client, and the target if replies come in by XDP.
        for (turn, reply) in [(0, false), (1, true)] {
            for ends in Ends::all(2 * n + turn).filter(|ends| !ends.udp) {
                if reply && ends.mode == Mode::Local {
                    continue;
                }
                ends.open(&mut lab);
                over(&mut lab, &ends);
                let transport = Transport::Tcp(flags);
                let (hook, input) = if reply {
                    (ends.reply_hook(), ends.reply(transport))
                } else {
                    (Hook::Eth0, ends.request(transport))
                };
                let what = format!("{name}, reply: {reply}, {}", ends.what());
                lab.check(&step(what, hook, &input.with(look)));
                lab.target(ends.id, |_| {});
            }
        }
    }
}

/// Such a flow has one direction only.
#[test]
fn an_idle_one_of_direct_server_return() {
    let mut lab = Lab::new();
    // Of each family of client one: the way to the target is nothing to this.
    let tunnels = || {
        let is_one = |it: &Tunnel| it.encapsulation == Encapsulation::Ipip && !it.udp;
        let all = Tunnel::all().into_iter().filter(is_one);
        all.filter(|tunnel| tunnel.inner == tunnel.outer)
    };
    let timeout = |established_timeout| {
        Change::SetSettings(Settings {
            established_timeout,
            ..SETTINGS
        })
    };
    for tunnel in tunnels() {
        tunnel.set(&mut lab, |_| {});
        for flags in [SYN, ACK, ACK] {
            lab.run(Hook::Eth0, &tunnel.request(0, flags).bytes());
        }
    }
    clock::ticks(1);
    for tunnel in tunnels() {
        let input = tunnel.request(0, ACK);
        lab.apply(timeout(600));
        let (verdict, _) = lab.run(Hook::Eth0, &input.bytes());
        assert_eq!(verdict, Verdict::Redirect, "{}", tunnel.what());
    }
    clock::ticks(1);
    for tunnel in tunnels() {
        let input = tunnel.request(0, ACK);
        lab.apply(timeout(0));
        for _ in 0..2 {
            lab.check(&step(tunnel.what(), Hook::Eth0, &input));
        }
    }
}

#[test]
fn for_each_of_the_reasons() {
    type Edit = fn(&mut Lab, &Ends);
    let idle: Edit = |lab, _| {
        lab.apply(Change::SetSettings(Settings {
            established_timeout: 0,
            ..SETTINGS
        }));
        clock::ticks(1);
    };
    let generation: Edit = |lab, ends| lab.target(ends.id, |t| t.generation = 2);
    let removed: Edit = |lab, ends| lab.apply(Change::ClearTarget(ends.id));
    let edits = [
        ("idle", idle),
        ("lost", over),
        ("generation", generation),
        ("removed", removed),
    ];
    for (n, (what, edit)) in (0..).zip(edits) {
        let mut lab = Lab::new();
        for ends in Ends::all(n).filter(|ends| !ends.udp) {
            ends.open(&mut lab);
            edit(&mut lab, &ends);
            let what = format!("{what}, {}", ends.what());
            let input = ends.request(Transport::Tcp(ACK));
            // As often as it goes on, until it begins anew.
            for _ in 0..2 {
                lab.check(&step(what.clone(), Hook::Eth0, &input));
            }
            assert_eq!(lab.flows(ends.net).1, 2, "{what}");
            lab.run(Hook::Eth0, &ends.request(Transport::Tcp(SYN)).bytes());
            assert_eq!(lab.flows(ends.net).1, 0, "{what}");
            lab.apply(Change::SetSettings(SETTINGS));
        }
    }
}

/// A flow that is over silently, or whose packet is one of no flow.
#[test]
fn nothing_else_is_answered() {
    let mut lab = Lab::new();
    for (n, flags, reason) in [
        (0, SYN, DropReason::NoTarget),
        (1, RST, DropReason::FlowReset),
        (2, RST | ACK, DropReason::FlowReset),
    ] {
        for ends in Ends::all(n).filter(|ends| !ends.udp) {
            ends.open(&mut lab);
            gone(&mut lab, &ends);
            let input = ends.request(Transport::Tcp(flags)).bytes();
            let what = format!("{flags:#x}, {}", ends.what());
            let counts = Counts::reason(reason);
            lab.check(&untouched(what, Hook::Eth0, input, Verdict::Drop, counts));
        }
    }
    for ends in Ends::all(4).filter(|ends| ends.udp) {
        ends.open(&mut lab);
        gone(&mut lab, &ends);
        let input = ends.request(Transport::Udp).bytes();
        let counts = Counts::reason(DropReason::NoTarget);
        let (hook, verdict) = (Hook::Eth0, Verdict::Drop);
        lab.check(&untouched(ends.what(), hook, input, verdict, counts));
    }
    // Closed by both sides, or reset: nobody goes on.
    for ends in Ends::all(5).filter(|ends| !ends.udp && ends.mode != Mode::Local) {
        ends.open(&mut lab);
        lab.run(ends.reply_hook(), &ends.reply(Transport::Tcp(RST)).bytes());
        gone(&mut lab, &ends);
        let input = ends.request(Transport::Tcp(FIN | ACK)).bytes();
        let counts = Counts::reason(DropReason::NoTarget);
        let (hook, verdict) = (Hook::Eth0, Verdict::Drop);
        lab.check(&untouched(ends.what(), hook, input, verdict, counts));
    }
}

/// A local target's segment is dropped, and its client told when it goes on.
#[test]
fn on_egress_it_is_dropped() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| ends.mode != Mode::SourceNat) {
        ends.open(&mut lab);
        over(&mut lab, &ends);
        let input = ends.reply(ends.transport(ACK)).bytes();
        let (verdict, counts) = if ends.udp {
            (Verdict::Pass, Counts::none())
        } else {
            (Verdict::Drop, Counts::reason(DropReason::FlowReset))
        };
        let hook = Hook::Egress;
        lab.check(&untouched(ends.what(), hook, input, verdict, counts));
    }
}
