//! Flows that end because nothing comes any more.

use lb_common::{counters::DropReason, settings::Settings};
use lb_user::reconcile::Change;

use xlb_tests::clock;

use super::{
    builder::{ACK, FIN, Frame, RST, SYN, Transport},
    flows::{client, handshake, source_port, target},
    lab::{Hook, Lab, SETTINGS, Verdict},
    net::{NETS, Net, both},
};

const LONG: Settings = Settings {
    half_open_timeout: 600,
    established_timeout: 600,
    closing_timeout: 600,
    udp_timeout: 600,
    route_epoch: 0,
    paused_until: 0,
    ..SETTINGS
};

/// A packet from the client (true) or from the target.
type Packet = (Transport, bool);

const fn from_client(flags: u8) -> Packet {
    (Transport::Tcp(flags), true)
}

const fn from_target(flags: u8) -> Packet {
    (Transport::Tcp(flags), false)
}

const S: Packet = from_client(SYN);
const SA: Packet = from_target(SYN | ACK);
const A: Packet = from_client(ACK);
const F: Packet = from_client(FIN | ACK);
const FT: Packet = from_target(FIN | ACK);
const RT: Packet = from_target(RST);
const D: Packet = (Transport::Udp, true);
const DT: Packet = (Transport::Udp, false);

/// What has been seen of a flow, and the timeout that it goes by then.
const STATES: [(&str, &str, &[Packet]); 10] = [
    ("SYN", "half open", &[S]),
    ("SYN-ACK", "half open", &[S, SA]),
    ("reset at once", "closing", &[S, RT]),
    ("open", "established", &[S, SA, A]),
    ("half closed", "established", &[S, SA, A, F]),
    ("closed", "closing", &[S, SA, A, F, FT]),
    ("reset", "closing", &[S, SA, A, RT]),
    ("UDP", "UDP", &[D]),
    ("UDP with a reply", "UDP", &[D, DT]),
    ("answered UDP", "UDP", &[D, DT, D]),
];

type Edit = fn(&mut Settings);

const TIMEOUTS: [(&str, Edit); 4] = [
    ("half open", |s| s.half_open_timeout = 0),
    ("established", |s| s.established_timeout = 0),
    ("closing", |s| s.closing_timeout = 0),
    ("UDP", |s| s.udp_timeout = 0),
];

/// Runs a flow's packets; what they were rewritten to stays here.
fn converse(lab: &mut Lab, net: Net, packets: &[Packet], client_port: u16) {
    let mut seen = 0;
    for &(transport, forward) in packets {
        let udp = transport == Transport::Udp;
        let (service, port) = if udp { (53, 5300) } else { (80, 8080) };
        if forward {
            let frame = Frame::new(transport, (net.client, client_port), (net.nat_vip, service));
            seen = source_port(&lab.run(Hook::Eth0, &frame.bytes()).1);
        } else {
            let frame = Frame::new(transport, (net.target, port), (net.source, seen));
            lab.run(Hook::Eth1, &frame.bytes());
        }
    }
}

fn new_flows(lab: &Lab, net: Net) -> u64 {
    let of = |id| lab.dataplane.target_traffic(id).unwrap().new_flows;
    of(net.base + 2) + of(net.base + 3)
}

/// TCP's client is told that its flow is over, unless it had closed it.
fn resets(lab: &Lab) -> u64 {
    let drops = lab.dataplane.drops().unwrap();
    let reset = drops
        .iter()
        .find(|(reason, _)| *reason == DropReason::FlowReset);
    reset.unwrap().1
}

/// With all timeouts long but one, only the flows that go by it are over.
#[test]
fn each_state_has_its_timeout() {
    let mut lab = Lab::new();
    lab.apply(Change::SetSettings(LONG));
    let port = |turn: usize, state: usize| (4000 + 100 * turn + state) as u16;
    for net in NETS {
        for id in [2, 3] {
            lab.target(net.base + id, |t| t.last_source_port = 30_000);
        }
        for turn in 0..TIMEOUTS.len() {
            for (n, (_, _, packets)) in STATES.iter().enumerate() {
                converse(&mut lab, net, packets, port(turn, n));
            }
        }
    }
    clock::ticks(1);
    for (turn, (timeout, edit)) in TIMEOUTS.into_iter().enumerate() {
        let mut settings = LONG;
        edit(&mut settings);
        lab.apply(Change::SetSettings(settings));
        for net in NETS {
            for (n, (state, its, packets)) in STATES.iter().enumerate() {
                let before = new_flows(&lab, net) + resets(&lab);
                let next = if packets[0] == D { D } else { A };
                converse(&mut lab, net, &[next], port(turn, n));
                let over = new_flows(&lab, net) + resets(&lab) > before;
                let what = format!("{}, {state}, without {timeout} timeout", net.name);
                assert_eq!(over, *its == timeout, "{what}");
            }
        }
    }
}

/// A flow is idle when both of its directions are.
#[test]
fn a_flow_with_traffic_one_way_goes_on() {
    let mut lab = Lab::new();
    lab.apply(Change::SetSettings(Settings {
        established_timeout: 3,
        ..LONG
    }));
    let ports = NETS.map(|net| handshake(&mut lab, net, 4000));
    for _ in 0..2 {
        clock::ticks(2);
        for net in NETS {
            lab.run(Hook::Eth0, &client(net, ACK, 4000));
        }
    }
    for (net, port) in both().zip(ports) {
        let (verdict, _) = lab.run(Hook::Eth1, &target(net, ACK, port));
        assert_eq!((verdict, new_flows(&lab, net)), (Verdict::Redirect, 1));
    }
}

#[test]
fn an_idle_flow_is_over() {
    for net in both() {
        let mut lab = Lab::new();
        lab.apply(Change::SetSettings(LONG));
        handshake(&mut lab, net, 4000);
        lab.run(Hook::Eth0, &client(net, SYN, 5000));
        // The port range has one port, which 4000 has.
        lab.target(net.base + 2, |t| t.last_source_port = 20_001);
        lab.run(Hook::Eth0, &client(net, SYN, 5000));
        assert_eq!(new_flows(&lab, net), 2);
        clock::ticks(1);
        lab.apply(Change::SetSettings(Settings {
            half_open_timeout: 0,
            ..LONG
        }));
        let swept = lab.dataplane.sweep().unwrap().run().unwrap();
        let flows = swept.flows();
        assert_eq!(
            (flows.established, flows.half_open, swept.removed),
            (1, 0, 2)
        );
        let mut by_target = [0; 14];
        by_target[net.base as usize + 2] = 1;
        assert_eq!(swept.by_target[..14], by_target);
        lab.run(Hook::Eth0, &client(net, SYN, 5000));
        clock::ticks(1);
        lab.run(Hook::Eth0, &client(net, SYN, 5000));
        assert_eq!(new_flows(&lab, net), 4, "ended without the sweep");
    }
}
