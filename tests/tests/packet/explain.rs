//! The replica of the data path: it says what the real one then does, and
//! leaves no trace.

use lb_common::{
    Be16, Ipv4, Ipv6,
    counters::DropReason,
    flow::{FlowEntry, FlowKey},
    listener::{ListenerEntry, ListenerLimits, SourceRateKey},
    security_group::Rule,
    target::{Encapsulation, TargetEntry},
    wire::wide,
};
use lb_user::{
    address::Prefix,
    dataplane::{Action, Arrival, Outcome, Replica},
    reconcile::{Change, Place},
};

use xlb_tests::clock;

use super::{
    builder::{ACK, End, FIN, Frame, RST, SYN, Transport},
    flows::handshake,
    lab::{Hook, Lab, Verdict},
    net::{Net, both},
    step::{Counts, difference},
};

/// All that a packet may change.
type Everything = (
    Counts,
    Vec<(FlowKey<Ipv4>, FlowEntry<Ipv4>)>,
    Vec<(FlowKey<Ipv6>, FlowEntry<Ipv6>)>,
);

fn everything(lab: &Lab) -> Everything {
    let flows = lab.dataplane.flows().unwrap();
    let of_v4 = [flows.v4.established(), flows.v4.half_open()];
    let of_v6 = [flows.v6.established(), flows.v6.half_open()];
    (
        lab.counters(),
        of_v4.into_iter().flat_map(Result::unwrap).collect(),
        of_v6.into_iter().flat_map(Result::unwrap).collect(),
    )
}

struct Pair {
    lab: Lab,
    replica: Replica,
}

impl Pair {
    fn new() -> Self {
        let lab = Lab::new();
        let replica = lab.dataplane.model().unwrap().replicate().unwrap();
        Self { lab, replica }
    }

    fn predict(&mut self, hook: Hook, frame: &Frame, listener: u32) -> Outcome {
        let interface = match hook {
            Hook::Eth0 => self.lab.eth0,
            _ => self.lab.eth1,
        };
        let (source, destination) = (frame.source, frame.destination);
        let protocol = match frame.transport {
            Transport::Tcp(_) => 6,
            _ => 17,
        };
        let bytes = frame.bytes();
        let source_rate = SourceRateKey {
            prefix: wide(source.0),
            listener,
        };
        self.replica
            .run(&Arrival {
                protocol,
                source: source.into(),
                destination: destination.into(),
                frame: &bytes,
                interface,
                listener: Some(listener),
                source_rate: Some(source_rate),
            })
            .unwrap()
    }

    /// Predicts what becomes of a frame, then has it become so.
    fn agree(&mut self, what: &str, hook: Hook, frame: &Frame, listener: u32) -> Outcome {
        let before = everything(&self.lab);
        let outcome = self.predict(hook, frame, listener);
        assert_eq!(everything(&self.lab), before, "{what}: it left a trace");
        let (verdict, bytes) = self.lab.run(hook, &frame.bytes());
        let moved = difference(&before.0, &self.lab.counters());
        let expected = match outcome.action {
            Action::Pass => Verdict::Pass,
            Action::Drop => Verdict::Drop,
            Action::Transmit => Verdict::Transmit,
            Action::Redirect => Verdict::Redirect,
            Action::Handoff { interface, tags } => Verdict::Handoff(interface, tags),
        };
        assert_eq!(expected, verdict, "{what}");
        assert_eq!(outcome.frame, bytes, "{what}");
        let reasons = outcome.reasons.iter().map(|reason| (reason.name(), 1));
        assert_eq!(moved.drops, reasons.collect(), "{what}");
        let began = moved.listeners.values().any(|traffic| traffic[4] == 1);
        assert_eq!(outcome.began, began, "{what}");
        outcome
    }
}

/// Of the listener behind source NAT.
fn to_nat(net: Net, flags: u8, port: u16) -> Frame {
    Frame::new(Transport::Tcp(flags), (net.client, port), (net.nat_vip, 80))
}

fn from_target(net: Net, flags: u8, port: u16) -> Frame {
    Frame::new(
        Transport::Tcp(flags),
        (net.target, 8080),
        (net.source, port),
    )
}

#[test]
fn a_flows_whole_life_is_foreseen() {
    for net in both() {
        let mut pair = Pair::new();
        let nat = net.base + 2;
        pair.lab.target(nat, |it| it.last_source_port = 20_003);
        let mut ports = Vec::new();
        for n in 0..4 {
            let outcome = pair.agree("SYN", Hook::Eth0, &to_nat(net, SYN, 4000 + n), nat);
            let flow = outcome.flow.unwrap();
            assert_eq!(
                (flow.client, flow.target),
                ((net.client, 4000 + n).into(), nat)
            );
            ports.push(flow.source.port());
            pair.agree(
                "SYN-ACK",
                Hook::Eth1,
                &from_target(net, SYN | ACK, ports[usize::from(n)]),
                nat,
            );
            pair.agree("ACK", Hook::Eth0, &to_nat(net, ACK, 4000 + n), nat);
        }
        ports.sort_unstable();
        assert_eq!(
            ports,
            [20_000, 20_001, 20_002, 20_003],
            "others' ports are seen"
        );
        let outcome = pair.agree("no port left", Hook::Eth0, &to_nat(net, SYN, 5000), nat);
        assert_eq!(outcome.reasons, [DropReason::PortAllocation]);

        pair.agree("FIN", Hook::Eth0, &to_nat(net, FIN | ACK, 4000), nat);
        pair.agree("again", Hook::Eth0, &to_nat(net, SYN, 4000), nat);
        pair.agree("in mid-stream", Hook::Eth0, &to_nat(net, ACK, 6000), nat);
        pair.agree("a reset", Hook::Eth0, &to_nat(net, RST, 4001), nat);
        pair.agree("of a reset one", Hook::Eth0, &to_nat(net, ACK, 4001), nat);
        pair.lab.target(nat, |it| it.flags &= !TargetEntry::KEEPS);
        let outcome = pair.agree("target lost", Hook::Eth0, &to_nat(net, ACK, 4002), nat);
        assert_eq!(outcome.reasons, [DropReason::FlowReset]);
    }
}

/// Half-open flows hold all ports: one of them gives its own up.
#[test]
fn a_port_that_is_taken_over_is_foreseen() {
    for net in both() {
        let mut pair = Pair::new();
        let nat = net.base + 2;
        pair.lab.target(nat, |it| it.last_source_port = 20_007);
        for n in 0..40 {
            let outcome = pair.agree("SYN", Hook::Eth0, &to_nat(net, SYN, 4000 + n), nat);
            assert!(outcome.began && outcome.reasons.is_empty());
        }
        pair.agree("goes on", Hook::Eth0, &to_nat(net, ACK, 4000), nat);
    }
}

#[test]
fn drops_and_their_reasons_are_foreseen() {
    for net in both() {
        let mut pair = Pair::new();
        let (local, nat) = (net.base, net.base + 2);
        let to = |transport, end: End| Frame::new(transport, (net.client, 4000), end);
        let syn = Transport::Tcp(SYN);

        pair.agree("local", Hook::Eth0, &to(syn, (net.host, 80)), local);
        pair.agree(
            "UDP",
            Hook::Eth0,
            &to(Transport::Udp, (net.host, 53)),
            local + 1,
        );
        pair.agree(
            "kept client",
            Hook::Eth0,
            &to(syn, (net.keep_vip, 80)),
            net.base + 4,
        );
        let outcome = pair.agree("no listener", Hook::Eth0, &to(syn, (net.host, 81)), local);
        assert_eq!(outcome.reasons, [DropReason::NotOurs]);
        let mut foreign = to(syn, (net.nat_vip, 80));
        foreign.macs.1 = [2, 9, 9, 9, 9, 9];
        pair.agree("another host's", Hook::Eth0, &foreign, nat);
        let mut last = to(syn, (net.nat_vip, 80));
        last.time_to_live = 1;
        let outcome = pair.agree("last hop", Hook::Eth0, &last, nat);
        assert_eq!(outcome.reasons, [DropReason::TtlExpired]);
        assert_eq!(
            outcome.flow.unwrap().target,
            nat,
            "and where it would have gone"
        );

        pair.lab.target(nat, |it| it.flags &= !TargetEntry::ACCEPTS);
        let outcome = pair.agree("no target", Hook::Eth0, &to_nat(net, SYN, 7000), nat);
        assert_eq!(outcome.reasons, [DropReason::NoTarget]);
        pair.lab
            .target(nat, |it| it.address = wide(net.address(21, 1)));
        let outcome = pair.agree("no route", Hook::Eth0, &to_nat(net, SYN, 7001), nat);
        assert_eq!(outcome.reasons, [DropReason::NoRoute]);
        pair.lab.target(nat, |it| {
            it.address = wide(net.far);
            it.source = wide(net.far_source);
        });
        let mut large = to_nat(net, SYN, 7002);
        large.payload = vec![7; 1_400];
        let outcome = pair.agree("too big", Hook::Eth0, &large, nat);
        assert_eq!(outcome.reasons, [DropReason::TooBig]);
        assert_eq!(outcome.action, Action::Transmit, "its sender is told");
    }
}

#[test]
fn security_groups_and_limits_are_foreseen() {
    for net in both() {
        let mut pair = Pair::new();
        let local = net.base;
        let everybody = Prefix::around(net.client, 0).unwrap();
        let rules = [(everybody, Rule::Deny)];
        pair.lab.apply(Change::SetRules {
            id: 1,
            rules: rules.as_slice().into(),
            set: rules.to_vec(),
            gone: Vec::new(),
        });
        let place = Place::port(net.host, 80, 6);
        pair.lab
            .listener(place, local, local, |it| it.security_group = 1);
        let syn = |port| Frame::new(Transport::Tcp(SYN), (net.client, port), (net.host, 80));
        let outcome = pair.agree("denied", Hook::Eth0, &syn(4000), local);
        assert_eq!(outcome.reasons, [DropReason::Denied]);

        pair.lab
            .listener(place, local, local, |it| it.flags = ListenerEntry::LIMITED);
        let limits = |new_flows, new_flows_per_source| ListenerLimits {
            new_flows,
            new_flows_per_source,
            prefix_v4: 32,
            prefix_v6: 128,
        };
        for (limits, reason, port) in [
            (limits(1, 0), DropReason::NewFlowLimit, 5000),
            (limits(0, 1), DropReason::SourceLimit, 5010),
        ] {
            pair.lab.apply(Change::SetLimits(local, limits));
            // All of it in one second.
            clock::ticks(1);
            pair.lab.run(Hook::Eth0, &syn(port).bytes());
            let outcome = pair.agree("beyond the limit", Hook::Eth0, &syn(port + 1), local);
            assert_eq!(outcome.reasons, [reason]);
        }
        pair.lab.listener(place, local, local, |_| {});
        pair.lab.target(local, |it| it.max_flows = 1);
        for flags in [SYN, ACK] {
            pair.agree("the only one", Hook::Eth0, &tcp_to(net, flags, 6000), local);
        }
    }
}

fn tcp_to(net: Net, flags: u8, port: u16) -> Frame {
    Frame::new(Transport::Tcp(flags), (net.client, port), (net.host, 80))
}

#[test]
fn a_targets_limit_is_foreseen() {
    for net in both() {
        let mut pair = Pair::new();
        let nat = net.base + 2;
        pair.lab.target(nat, |it| {
            it.last_source_port = 20_003;
            it.max_flows = 1;
        });
        let port = handshake(&mut pair.lab, net, 4000);
        assert_eq!(pair.lab.flows(net), (0, 2), "{port}");
        let outcome = pair.agree("one more", Hook::Eth0, &to_nat(net, SYN, 4001), nat);
        assert_eq!(outcome.reasons, [DropReason::TargetLimit]);
    }
}

#[test]
fn encapsulation_is_foreseen() {
    for net in both() {
        let mut pair = Pair::new();
        let nat = net.base + 2;
        for encapsulation in [Encapsulation::None, Encapsulation::Ipip, Encapsulation::Gue] {
            pair.lab.target(nat, |it| {
                it.flags = it.flags & !TargetEntry::SOURCE_NAT | TargetEntry::DSR;
                it.encapsulation = encapsulation as u8;
                it.encapsulation_port = Be16::new(6080);
                it.port = Be16::new(0);
            });
            let port = 4000 + encapsulation as u16;
            let outcome = pair.agree("SYN", Hook::Eth0, &to_nat(net, SYN, port), nat);
            let flow = outcome.flow.unwrap();
            assert_eq!(flow.target_address, (net.target, 80).into());
            pair.agree("ACK", Hook::Eth0, &to_nat(net, ACK, port), nat);
            pair.agree("ACK", Hook::Eth0, &to_nat(net, ACK, port), nat);
        }
    }
}
