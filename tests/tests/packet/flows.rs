//! The life of flows: ports, promotion, endings.

use lb_common::{
    Be16,
    counters::DropReason,
    flow::{FlowEntry, FlowKey},
    target::TargetEntry,
    wire::wide,
};
use lb_user::{config::Capacity, reconcile::Change};
use xlb_tests::{clock, cpu};

use super::{
    builder::{ACK, End, FIN, Frame, RST, SYN, Transport},
    lab::{self, CAPACITY, Hook, Lab, Verdict},
    net::{Net, both},
    step::{Counts, rewritten, untouched},
};

pub fn tcp(flags: u8, from: End, to: End) -> Vec<u8> {
    Frame::new(Transport::Tcp(flags), from, to).bytes()
}

/// Of the listener behind source NAT, as are the next two.
pub fn client(net: Net, flags: u8, port: u16) -> Vec<u8> {
    tcp(flags, (net.client, port), (net.nat_vip, 80))
}

pub fn target(net: Net, flags: u8, port: u16) -> Vec<u8> {
    tcp(flags, (net.target, 8080), (net.source, port))
}

pub fn handshake(lab: &mut Lab, net: Net, client_port: u16) -> u16 {
    let (_, out) = lab.run(Hook::Eth0, &client(net, SYN, client_port));
    let port = source_port(&out);
    lab.run(Hook::Eth1, &target(net, SYN | ACK, port));
    lab.run(Hook::Eth0, &client(net, ACK, client_port));
    port
}

/// The source port that a rewritten frame left with.
pub fn source_port(out: &[u8]) -> u16 {
    word_of_transport(out, 0)
}

pub fn destination_port(out: &[u8]) -> u16 {
    word_of_transport(out, 2)
}

/// Of a frame without tags and options.
fn word_of_transport(out: &[u8], at: usize) -> u16 {
    let header = if out[12..14] == [0x86, 0xDD] { 40 } else { 20 };
    let at = 14 + header + at;
    u16::from_be_bytes([out[at], out[at + 1]])
}

#[test]
fn only_the_clients_answer_establishes() {
    for net in both() {
        let mut lab = Lab::new();
        lab.run(Hook::Eth0, &client(net, SYN, 4000));
        assert_eq!(lab.flows(net), (2, 0), "SYN");
        lab.run(Hook::Eth0, &client(net, SYN, 4000));
        assert_eq!(lab.flows(net), (2, 0), "SYN again");
        lab.run(Hook::Eth1, &target(net, SYN | ACK, 20_000));
        assert_eq!(lab.flows(net), (2, 0), "SYN-ACK");
        lab.run(Hook::Eth0, &client(net, ACK, 4000));
        assert_eq!(lab.flows(net), (0, 2), "ACK");

        let mut lab = Lab::new();
        for _ in 0..3 {
            lab.run(Hook::Eth0, &client(net, ACK, 4000));
        }
        assert_eq!(lab.flows(net), (2, 0), "ACKs alone");
        lab.run(Hook::Eth1, &target(net, RST, 20_000));
        lab.run(Hook::Eth0, &client(net, ACK, 4000));
        assert_eq!(lab.flows(net), (2, 0), "a refusal");
    }
}

#[test]
fn ports_are_claimed_kept_and_used_again() {
    for net in both() {
        let mut lab = Lab::new();
        lab.target(net.base + 2, |t| t.last_source_port = 20_003);
        let mut ports: Vec<u16> = (0..4).map(|n| handshake(&mut lab, net, 4000 + n)).collect();
        assert_eq!(
            source_port(&lab.run(Hook::Eth0, &client(net, ACK, 4000)).1),
            ports[0],
            "kept"
        );
        let first = ports[0];
        ports.sort_unstable();
        assert_eq!(ports, [20_000, 20_001, 20_002, 20_003], "each once");
        let full = client(net, SYN, 5000);
        let counts = Counts::reason(DropReason::PortAllocation);
        lab.check(&untouched(
            "none left",
            Hook::Eth0,
            full.clone(),
            Verdict::Drop,
            counts,
        ));
        lab.run(Hook::Eth0, &client(net, FIN | ACK, 4000));
        let counts = Counts::reason(DropReason::PortAllocation);
        lab.check(&untouched(
            "half closed",
            Hook::Eth0,
            full.clone(),
            Verdict::Drop,
            counts,
        ));
        lab.run(Hook::Eth1, &target(net, FIN | ACK, first));
        let (verdict, out) = lab.run(Hook::Eth0, &full);
        assert_eq!(
            (verdict, source_port(&out)),
            (Verdict::Redirect, first),
            "closed"
        );
        lab.run(Hook::Eth1, &target(net, RST, 20_001));
        assert_eq!(
            lab.run(Hook::Eth0, &client(net, SYN, 5001)).0,
            Verdict::Redirect,
            "reset"
        );
    }
}

/// Whose port is used again soon may have to send its SYN again: the target
/// still has the port in TIME-WAIT.
#[test]
fn a_free_port_is_found_among_closed_flows() {
    for net in both() {
        for client_port in 5000..5005 {
            let mut lab = Lab::new();
            lab.target(net.base + 2, |t| t.last_source_port = 20_015);
            let mut free: Vec<u16> = (20_000..20_016).collect();
            for n in 0..15 {
                let port = handshake(&mut lab, net, 4000 + n);
                free.retain(|other| *other != port);
                lab.run(Hook::Eth1, &target(net, FIN | ACK, port));
                lab.run(Hook::Eth0, &client(net, FIN | ACK, 4000 + n));
            }
            let (verdict, out) = lab.run(Hook::Eth0, &client(net, SYN, client_port));
            assert_eq!(
                (verdict, vec![source_port(&out)]),
                (Verdict::Redirect, free),
                "client {client_port}"
            );
        }
    }
}

/// The target has answered a SYN, and then others took the flow's port: the
/// client's answer must come from where the SYN came from.
#[test]
fn a_handshake_whose_port_a_flood_took_goes_on_at_the_same_port() {
    for net in both() {
        let mut lab = Lab::new();
        lab.target(net.base + 2, |t| t.last_source_port = 20_063);
        let established = handshake(&mut lab, net, 3999);
        let flood = |lab: &mut Lab, from: u16| {
            for port in from..from + 400 {
                let (verdict, _) = lab.run(Hook::Eth0, &client(net, SYN, port));
                assert_eq!(verdict, Verdict::Redirect);
            }
        };
        for n in 0..50 {
            flood(&mut lab, 10_000 + 800 * n);
            let (_, out) = lab.run(Hook::Eth0, &client(net, SYN, 4000 + n));
            flood(&mut lab, 10_400 + 800 * n);
            // What has become free since is not what the target knows.
            for port in (20_000..20_064).step_by(3) {
                lab.run(Hook::Eth1, &target(net, RST, port));
            }
            let (verdict, answer) = lab.run(Hook::Eth0, &client(net, ACK, 4000 + n));
            let ports = (source_port(&out), source_port(&answer));
            assert_eq!(
                (verdict, ports.1),
                (Verdict::Redirect, ports.0),
                "client {n}"
            );
            assert_ne!(ports.0, established, "nobody takes an established flow's");
        }
        assert_eq!(
            source_port(&lab.run(Hook::Eth0, &client(net, ACK, 3999)).1),
            established
        );
    }
}

#[test]
fn a_full_table_is_counted_and_the_flow_goes_on() {
    for net in both() {
        let mut lab = Lab::with_capacity(Capacity {
            flows: 1,
            ..CAPACITY
        });
        let full = |lab: &Lab| {
            let drops = lab.dataplane.drops().unwrap();
            let is = |(reason, _): &&(DropReason, u64)| *reason == DropReason::FlowTableFull;
            drops.iter().find(is).unwrap().1
        };
        lab.target(net.base + 2, |t| t.last_source_port = 20_003);
        handshake(&mut lab, net, 4000);
        assert_eq!(lab.flows(net), (0, 2));
        let port = handshake(&mut lab, net, 4001);
        assert_eq!(lab.flows(net), (2, 2));
        assert_eq!(full(&lab), 1);
        for _ in 0..50 {
            let (verdict, out) = lab.run(Hook::Eth0, &client(net, ACK, 4001));
            assert_eq!((verdict, source_port(&out)), (Verdict::Redirect, port));
        }
        assert!(full(&lab) < 10, "tried once a second");
        // The first flow ends, and makes room.
        lab.run(Hook::Eth0, &client(net, RST, 4000));
        lab.run(Hook::Eth0, &client(net, SYN, 4000));
        assert_eq!(lab.flows(net), (4, 0));
        clock::ticks(1);
        lab.run(Hook::Eth0, &client(net, ACK, 4001));
        assert_eq!(lab.flows(net), (2, 2));
    }
}

#[test]
fn a_syn_after_the_end_is_a_new_flow_and_before_it_is_not() {
    for net in both() {
        let new_flows = |lab: &Lab| {
            let traffic = lab.dataplane.target_traffic(net.base + 2);
            traffic.unwrap().new_flows
        };
        let mut lab = Lab::new();
        let port = handshake(&mut lab, net, 4000);
        lab.run(Hook::Eth0, &client(net, SYN, 4000));
        assert_eq!(new_flows(&lab), 1, "a stray SYN");
        lab.run(Hook::Eth1, &target(net, FIN | ACK, port));
        lab.run(Hook::Eth0, &client(net, FIN | ACK, 4000));
        lab.run(Hook::Eth0, &client(net, ACK, 4000));
        assert_eq!(new_flows(&lab), 1, "the last ACK");
        let (verdict, _) = lab.run(Hook::Eth1, &target(net, SYN, port));
        assert_eq!(verdict, Verdict::Redirect, "a SYN from the target");
        lab.run(Hook::Eth0, &client(net, SYN, 4000));
        assert_eq!((new_flows(&lab), lab.flows(net)), (2, (2, 0)));
        // One side's end is enough: the other's may have been lost.
        handshake(&mut lab, net, 4000);
        lab.run(Hook::Eth0, &client(net, FIN | ACK, 4000));
        lab.run(Hook::Eth0, &client(net, SYN, 4000));
        assert_eq!((new_flows(&lab), lab.flows(net)), (3, (2, 0)));
    }
}

#[test]
fn a_flow_ends_with_its_target() {
    for net in both() {
        ends_with("generation", net, |t| t.generation = 2);
        let dead = !(TargetEntry::KEEPS | TargetEntry::ACCEPTS);
        ends_with("unhealthy", net, |t| t.flags &= dead);

        let mut lab = Lab::new();
        handshake(&mut lab, net, 4000);
        lab.target(net.base + 2, |t| t.flags &= !TargetEntry::ACCEPTS);
        assert_eq!(
            lab.run(Hook::Eth0, &client(net, ACK, 4000)).0,
            Verdict::Redirect,
            "kept"
        );
        let counts = Counts::reason(DropReason::NoTarget);
        let new = client(net, SYN, 4001);
        lab.check(&untouched("new", Hook::Eth0, new, Verdict::Drop, counts));
    }
}

fn ends_with(what: &str, net: Net, change: impl FnOnce(&mut TargetEntry)) {
    let mut lab = Lab::new();
    lab.target(net.base + 2, |t| t.last_source_port = 30_000);
    let port = handshake(&mut lab, net, 4000);
    handshake(&mut lab, net, 4001);
    // Its place in the table is taken by another target.
    let other = TargetEntry {
        port: Be16::new(9999),
        ..lab::target(net.base + 4)
    };
    lab.apply(Change::SetTarget(net.base + 6, other));
    lab.table(net.base + 2, net.base + 6);
    let (_, out) = lab.run(Hook::Eth0, &client(net, ACK, 4000));
    assert_eq!(destination_port(&out), 8080, "{what}");
    lab.target(net.base + 2, change);
    // The target is told and the client, whoever goes on first, and as often
    // as it goes on: neither meets another.
    for (hook, packet) in [
        (Hook::Eth1, target(net, ACK, port)),
        (Hook::Eth0, client(net, ACK, 4000)),
        (Hook::Eth0, client(net, ACK, 4001)),
        (Hook::Eth0, client(net, ACK, 4001)),
        (Hook::Eth1, target(net, SYN | ACK, port)),
    ] {
        let (verdict, _) = lab.run(hook, &packet);
        assert_eq!(verdict, Verdict::Transmit, "{what}: RST");
    }
    let counts = Counts::reason(DropReason::FlowReset);
    let reset = client(net, RST, 4001);
    lab.check(&untouched(what, Hook::Eth0, reset, Verdict::Drop, counts));
    let (_, out) = lab.run(Hook::Eth0, &client(net, SYN, 4000));
    assert_eq!(destination_port(&out), 9999, "{what}: balanced anew");
}

/// Source and destination ports of the half-open flows.
fn half_open_ports(lab: &Lab, net: Net) -> Vec<(u16, u16)> {
    fn ports<A>(entries: Vec<(FlowKey<A>, FlowEntry<A>)>) -> Vec<(u16, u16)> {
        let ends = entries.into_iter().map(|(key, _)| key.endpoints);
        ends.map(|ends| (ends.source_port.get(), ends.destination_port.get()))
            .collect()
    }
    let flows = lab.dataplane.flows().unwrap();
    if net.v6() {
        ports(flows.v6.half_open().unwrap())
    } else {
        ports(flows.v4.half_open().unwrap())
    }
}

/// As long as the target repeats its answer, it is the client's entry that other
/// answered flows evict. Of an LRU so small a CPU takes nothing from the others
/// while it finds anything of its own (Linux 6.1), so this runs on one.
#[test]
fn a_flow_whose_forward_entry_was_evicted_goes_on() {
    cpu::stay().unwrap();
    for net in both() {
        let mut lab = Lab::with_capacity(Capacity {
            half_open_flows: 200,
            ..CAPACITY
        });
        let syn = |port| tcp(SYN, (net.client, port), (net.keep_vip, 80));
        let answer = |port| tcp(SYN | ACK, (net.target, 8080), (net.client, port));
        let has = |lab: &Lab, reply: bool| {
            let is = |(source, destination): &(u16, u16)| {
                *source == 4000 && !reply || *destination == 4000 && reply
            };
            half_open_ports(lab, net).iter().any(is)
        };
        lab.run(Hook::Eth0, &syn(4000));
        let mut port = 5000;
        while has(&lab, false) {
            assert!(port < 50_000, "nothing is evicted");
            lab.run(Hook::Eth1, &answer(4000));
            for _ in 0..5 {
                port += 1;
                lab.run(Hook::Eth0, &syn(port));
                lab.run(Hook::Eth1, &answer(port));
            }
        }
        assert!(has(&lab, true));
        assert_eq!(lab.run(Hook::Eth0, &syn(4000)).0, Verdict::Redirect);
    }
}

/// A target with another address of this host: both are restored on egress.
#[test]
fn a_local_target_with_an_address_of_its_own() {
    for net in both() {
        let mut lab = Lab::new();
        lab.target(net.base, |t| t.address = wide(net.source));
        let frame = |flags, from, to| Frame::new(Transport::Tcp(flags), from, to);
        let input = frame(SYN, (net.client, 4000), (net.host, 80));
        let output = frame(SYN, (net.client, 4000), (net.source, 8081));
        let counts = Counts::new_flow((net.base, net.base), &input);
        lab.check(&rewritten(
            "in",
            Hook::Eth0,
            &input,
            Verdict::Pass,
            &output,
            counts,
        ));
        let input = frame(SYN | ACK, (net.source, 8081), (net.client, 4000));
        let output = frame(SYN | ACK, (net.host, 80), (net.client, 4000));
        let counts = Counts::reply((net.base, net.base), &input);
        lab.check(&rewritten(
            "out",
            Hook::Egress,
            &input,
            Verdict::Pass,
            &output,
            counts,
        ));
    }
}
