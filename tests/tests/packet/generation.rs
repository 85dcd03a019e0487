//! A target's id that gets another meaning: no packet of an old flow ever goes
//! to the new target, nor one of the new target's to an old client.

use lb_common::{Be16, counters::DropReason, target::TargetEntry};
use lb_user::reconcile::Change;

use super::{
    builder::{ACK, Frame, SYN, Transport},
    ends::{Ends, Mode},
    lab::{Hook, Lab, Verdict, target},
    step::{Counts, untouched},
    tunnel::Tunnel,
};

/// The id is taken away and given to another port of the same address: what
/// differs is the generation, and where packets go.
fn reuse(lab: &mut Lab, ends: &Ends) {
    lab.apply(Change::ClearTarget(ends.id));
    let entry = target(ends.id);
    lab.apply(Change::SetTarget(
        ends.id,
        TargetEntry {
            generation: entry.generation + 1,
            port: Be16::new(9_999),
            last_source_port: 30_000,
            ..entry
        },
    ));
}

fn reasons(lab: &Lab) -> u64 {
    let drops = lab.dataplane.drops().unwrap();
    let reset = |(reason, _): &&(DropReason, u64)| *reason == DropReason::FlowReset;
    drops.iter().find(reset).unwrap().1
}

fn new_flows(lab: &Lab, id: u32) -> u64 {
    lab.dataplane.target_traffic(id).unwrap().new_flows
}

/// Runs a test with every flow whose target's id has been given away, whether
/// it was established by then or had only begun.
fn each(mut test: impl FnMut(&mut Lab, &Ends, String)) {
    let mut lab = Lab::new();
    for (n, established) in [(0, false), (1, true)] {
        for ends in Ends::all(n) {
            if established {
                ends.open(&mut lab);
            } else {
                ends.claim(&mut lab);
                let first = ends.request(ends.transport(SYN));
                lab.run(Hook::Eth0, &first.bytes());
            }
            reuse(&mut lab, &ends);
            let what = format!("established: {established}, {}", ends.what());
            test(&mut lab, &ends, what);
        }
    }
}

#[test]
fn a_client_of_the_old_target() {
    each(|lab, ends, what| {
        let before = (reasons(lab), new_flows(lab, ends.id));
        let input = ends.request(ends.transport(ACK)).bytes();
        let (verdict, _) = lab.run(Hook::Eth0, &input);
        let after = (reasons(lab), new_flows(lab, ends.id));
        if ends.udp {
            // UDP moves: a new flow.
            assert_eq!(verdict, ends.verdict(), "{what}");
            assert_eq!(after, (before.0, before.1 + 1), "{what}");
        } else {
            assert_eq!(verdict, Verdict::Transmit, "{what}");
            assert_eq!(after, (before.0 + 1, before.1), "{what}");
        }
    });
}

#[test]
fn a_packet_of_the_old_target() {
    each(|lab, ends, what| {
        let input = ends.reply(ends.transport(ACK)).bytes();
        if ends.udp || ends.mode == Mode::Local {
            let (verdict, counts) = match (ends.mode, ends.udp) {
                (Mode::Local, true) => (Verdict::Pass, Counts::none()),
                (Mode::Local, false) => (Verdict::Drop, Counts::reason(DropReason::FlowReset)),
                _ => (Verdict::Pass, Counts::reason(DropReason::NotOurs)),
            };
            let hook = ends.reply_hook();
            lab.check(&untouched(what, hook, input, verdict, counts));
        } else {
            let before = reasons(lab);
            let (verdict, _) = lab.run(ends.reply_hook(), &input);
            assert_eq!(verdict, Verdict::Transmit, "{what}");
            assert_eq!(reasons(lab), before + 1, "{what}");
        }
    });
}

/// Nor does the new target hear of errors, or the old client.
#[test]
fn an_error_about_the_old_flow() {
    let mut lab = Lab::new();
    for ends in Ends::all(0) {
        ends.open(&mut lab);
        reuse(&mut lab, &ends);
        let kind = if ends.net.v6() { (1, 0) } else { (3, 1) };
        let kind = Transport::Icmp(kind.0, kind.1, [0; 4]);
        let router = (ends.net.router, 0);
        let quoting = |like: Frame, quoted: Frame| {
            like.with(|f| {
                f.source = router;
                f.payload = quoted.packet();
            })
        };
        let sent = ends.sent(&ends.request(ends.transport(ACK)));
        let restored = ends.restored(&ends.reply(ends.transport(ACK)));
        let cases = [
            (ends.reply_hook(), quoting(ends.reply(kind), sent)),
            (Hook::Eth0, quoting(ends.request(kind), restored)),
        ];
        for (hook, error) in cases {
            let counts = match hook {
                Hook::Egress => Counts::none(),
                _ => Counts::reason(DropReason::NotOurs),
            };
            let bytes = error.bytes();
            lab.check(&untouched(ends.what(), hook, bytes, Verdict::Pass, counts));
        }
    }
}

#[test]
fn a_client_of_an_old_tunnel() {
    let mut lab = Lab::new();
    for tunnel in Tunnel::all() {
        tunnel.set(&mut lab, |_| {});
        let n = 10 * tunnel.encapsulation as u16 + u16::from(tunnel.outer.v6());
        for flags in [SYN, ACK, ACK] {
            lab.run(Hook::Eth0, &tunnel.request(n, flags).bytes());
        }
        tunnel.set(&mut lab, |t| t.generation = 2);
        let before = (reasons(&lab), new_flows(&lab, tunnel.id));
        let (verdict, _) = lab.run(Hook::Eth0, &tunnel.request(n, ACK).bytes());
        let after = (reasons(&lab), new_flows(&lab, tunnel.id));
        let what = tunnel.what();
        if tunnel.udp {
            assert_eq!(verdict, Verdict::Redirect, "{what}");
            assert_eq!(after, (before.0, before.1 + 1), "{what}");
        } else {
            assert_eq!(verdict, Verdict::Transmit, "{what}");
            assert_eq!(after, (before.0 + 1, before.1), "{what}");
        }
    }
}
