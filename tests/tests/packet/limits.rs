//! How many new flows a listener takes, and how many flows a target.

use std::net::IpAddr;

use lb_common::{
    counters::DropReason,
    flow,
    listener::{ListenerEntry, ListenerLimits},
    settings::Settings,
};
use lb_user::reconcile::{Change, Place};

use xlb_tests::clock;

use super::{
    builder::{ACK, RST, SYN, Transport},
    ends::{Ends, Mode},
    lab::{Hook, Lab, SETTINGS, Verdict},
    net::{NETS, Net},
};

/// Sets the limits of the local listener.
fn limit(lab: &mut Lab, net: Net, limits: ListenerLimits) {
    let (place, id) = (Place::port(net.host, 80, flow::TCP), net.base);
    lab.listener(place, id, id, |entry| entry.flags = ListenerEntry::LIMITED);
    lab.apply(Change::SetLimits(id, limits));
}

fn dropped(lab: &Lab, reason: DropReason) -> u64 {
    let drops = lab.dataplane.drops().unwrap();
    drops.iter().find(|(of, _)| *of == reason).unwrap().1
}

/// SYNs from these sources, each with a port of its own: how many begin a flow,
/// and how many each limit forbids.
fn syns(
    lab: &mut Lab,
    net: Net,
    port: &mut u16,
    sources: impl IntoIterator<Item = IpAddr>,
) -> (u64, u64, u64) {
    let reasons = [DropReason::NewFlowLimit, DropReason::SourceLimit];
    let before = reasons.map(|reason| dropped(lab, reason));
    let mut begun = 0;
    for source in sources {
        *port += 1;
        let ends = Ends::new(net, Mode::Local, false, *port);
        let frame = ends.request(Transport::Tcp(SYN));
        let input = frame.with(|f| f.source.0 = source).bytes();
        let (verdict, output) = lab.run(Hook::Eth0, &input);
        if verdict == Verdict::Pass {
            begun += 1;
        } else {
            assert_eq!((verdict, output), (Verdict::Drop, input));
        }
    }
    let after = reasons.map(|reason| dropped(lab, reason));
    (begun, after[0] - before[0], after[1] - before[1])
}

#[test]
fn of_a_listener() {
    let mut lab = Lab::new();
    for net in NETS {
        let mut port = 0;
        let limits = ListenerLimits {
            new_flows: 5,
            ..ListenerLimits::default()
        };
        limit(&mut lab, net, limits);
        let seen = clock::within_a_second(|| {
            let clients = (0..8).map(|_| net.client);
            let seen = syns(&mut lab, net, &mut port, clients);
            // A known flow goes on.
            let known = Ends::new(net, Mode::Local, false, port - 7);
            let ack = known.request(Transport::Tcp(ACK)).bytes();
            assert_eq!(lab.run(Hook::Eth0, &ack).0, Verdict::Pass);
            seen
        });
        assert_eq!(seen, (5, 3, 0), "{}", net.name);
        clock::ticks(1);
        let next = syns(&mut lab, net, &mut port, [net.client]);
        assert_eq!(next, (1, 0, 0), "the next second");
    }
}

#[test]
fn of_a_source_prefix() {
    let mut lab = Lab::new();
    for net in NETS {
        let mut port = 0;
        let limits = ListenerLimits {
            new_flows: 7,
            new_flows_per_source: 3,
            prefix_v4: 23,
            prefix_v6: 47,
        };
        limit(&mut lab, net, limits);
        let seen = clock::within_a_second(|| {
            let mut from = |network: &[u8]| {
                let sources = network
                    .iter()
                    .zip(1..)
                    .map(|(&n, host)| net.address(n, host));
                syns(&mut lab, net, &mut port, sources)
            };
            [
                // One prefix, which doesn't use up the listener's own limit.
                from(&[4, 5, 4, 5, 4, 5, 4, 5, 4, 5]),
                from(&[6, 7, 6, 7]),
                from(&[8, 9]),
            ]
        });
        let expected = [(3, 0, 7), (3, 0, 1), (1, 1, 0)];
        assert_eq!(seen, expected, "{}", net.name);
    }
}

#[test]
fn of_single_addresses() {
    let mut lab = Lab::new();
    for net in NETS {
        let mut port = 0;
        let limits = ListenerLimits {
            new_flows: 0,
            new_flows_per_source: 1,
            prefix_v4: 32,
            prefix_v6: 128,
        };
        limit(&mut lab, net, limits);
        let seen = clock::within_a_second(|| {
            let hosts = [1, 2, 3, 1, 2, 3].map(|host| net.address(4, host));
            syns(&mut lab, net, &mut port, hosts)
        });
        assert_eq!(seen, (3, 0, 3), "{}", net.name);
    }
}

/// Flows that are established count, until they end.
#[test]
fn of_a_target() {
    let mut lab = Lab::new();
    for net in NETS {
        let ends = |n| Ends::new(net, Mode::KeepClient, false, n);
        let id = ends(0).id;
        let syn = |lab: &mut Lab, n| {
            let before = dropped(lab, DropReason::TargetLimit);
            let (verdict, _) = lab.run(Hook::Eth0, &ends(n).request(Transport::Tcp(SYN)).bytes());
            let limited = dropped(lab, DropReason::TargetLimit) > before;
            assert_eq!(limited, verdict == Verdict::Drop);
            !limited
        };
        for n in 0..3 {
            ends(n).open(&mut lab);
        }
        let limited = |lab: &mut Lab, max| lab.target(id, |t| t.max_flows = max);
        limited(&mut lab, 3);
        assert!(!syn(&mut lab, 10), "three of three");
        let goes_on = ends(0).request(Transport::Tcp(ACK)).bytes();
        assert_eq!(lab.run(Hook::Eth0, &goes_on).0, Verdict::Redirect);

        // A reset flow whose client begins anew makes room; both ways.
        for (n, reply) in [(0, false), (1, true)] {
            let reset = Transport::Tcp(RST);
            if reply {
                lab.run(Hook::Eth1, &ends(n).reply(reset).bytes());
            } else {
                lab.run(Hook::Eth0, &ends(n).request(reset).bytes());
            }
            assert!(!syn(&mut lab, 11), "not before it is removed");
            assert!(syn(&mut lab, n), "the same client");
            assert!(syn(&mut lab, 12 + n), "and another");
            limited(&mut lab, 2 - u32::from(reply));
            assert!(!syn(&mut lab, 14), "one less");
        }

        // And one that was idle, which its client begins anew.
        lab.apply(Change::SetSettings(Settings {
            established_timeout: 0,
            ..SETTINGS
        }));
        clock::ticks(1);
        let idle = ends(2).reply(Transport::Tcp(ACK)).bytes();
        assert_eq!(lab.run(Hook::Eth1, &idle).0, Verdict::Transmit);
        assert!(!syn(&mut lab, 15), "not before it is removed");
        assert!(syn(&mut lab, 2), "the same client");
        assert!(syn(&mut lab, 15), "and another");
        lab.apply(Change::SetSettings(SETTINGS));
    }
}

/// While flows are moved to other maps none begins, and those that there are go
/// on; for a set time, even if nobody ends it.
#[test]
fn none_while_flows_move() {
    for net in NETS {
        let mut lab = Lab::new();
        let frame = |flags, port| {
            let ends = Ends::new(net, Mode::Local, false, port);
            ends.request(Transport::Tcp(flags)).bytes()
        };
        assert_eq!(lab.run(Hook::Eth0, &frame(SYN, 1)).0, Verdict::Pass);
        let paused_until = clock::now() as u32 + 2;
        lab.apply(Change::SetSettings(Settings {
            paused_until,
            ..SETTINGS
        }));
        for (flags, port, verdict) in [
            (SYN, 2, Verdict::Drop),
            (ACK, 2, Verdict::Drop),
            (ACK, 1, Verdict::Pass),
        ] {
            let input = frame(flags, port);
            let (seen, output) = lab.run(Hook::Eth0, &input);
            assert_eq!(seen, verdict, "{} {flags} {port}", net.name);
            assert_eq!(seen == Verdict::Drop, output == input);
        }
        assert_eq!(dropped(&lab, DropReason::Paused), 2, "{}", net.name);
        clock::ticks(2);
        assert_eq!(lab.run(Hook::Eth0, &frame(SYN, 2)).0, Verdict::Pass);
    }
}
