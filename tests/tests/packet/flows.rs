//! The life of flows: ports, promotion, endings.

use lb_common::{Be16, counters::DropReason, flow::FlowKey4, target::TargetEntry, wire::wide};
use lb_user::{config::Capacity, reconcile::Change};

use super::{
    builder::{ACK, End, FIN, Frame, RST, SYN, Transport},
    clock,
    lab::{
        self, CAPACITY, CLIENT, HOST, Hook, KEEP_VIP, Lab, NAT_VIP, SOURCE, TARGET, V4, Verdict,
    },
    step::{Counts, rewritten, untouched},
};

pub fn tcp(flags: u8, from: End, to: End) -> Vec<u8> {
    Frame::new(Transport::Tcp(flags), from, to).bytes()
}

pub fn client(flags: u8, port: u16) -> Vec<u8> {
    tcp(flags, (CLIENT, port), (NAT_VIP, 80))
}

pub fn target(flags: u8, port: u16) -> Vec<u8> {
    tcp(flags, (TARGET, 8080), (SOURCE, port))
}

fn flows(lab: &Lab) -> (usize, usize) {
    lab.flows(V4)
}

/// The source port that a rewritten TCP frame left with.
pub fn source_port(out: &[u8]) -> u16 {
    u16::from_be_bytes([out[34], out[35]])
}

pub fn handshake(lab: &mut Lab, client_port: u16) -> u16 {
    let (_, out) = lab.run(Hook::Eth0, &client(SYN, client_port));
    let port = source_port(&out);
    lab.run(Hook::Eth1, &target(SYN | ACK, port));
    lab.run(Hook::Eth0, &client(ACK, client_port));
    port
}

#[test]
fn only_the_clients_answer_establishes() {
    let mut lab = Lab::new();
    lab.run(Hook::Eth0, &client(SYN, 4000));
    assert_eq!(flows(&lab), (2, 0), "SYN");
    lab.run(Hook::Eth0, &client(SYN, 4000));
    assert_eq!(flows(&lab), (2, 0), "SYN again");
    lab.run(Hook::Eth1, &target(SYN | ACK, 20_000));
    assert_eq!(flows(&lab), (2, 0), "SYN-ACK");
    lab.run(Hook::Eth0, &client(ACK, 4000));
    assert_eq!(flows(&lab), (0, 2), "ACK");

    let mut lab = Lab::new();
    for _ in 0..3 {
        lab.run(Hook::Eth0, &client(ACK, 4000));
    }
    assert_eq!(flows(&lab), (2, 0), "ACKs alone");
    lab.run(Hook::Eth1, &target(RST, 20_000));
    lab.run(Hook::Eth0, &client(ACK, 4000));
    assert_eq!(flows(&lab), (2, 0), "a refusal");
}

#[test]
fn ports_are_claimed_kept_and_used_again() {
    let mut lab = Lab::new();
    lab.target(2, |t| t.last_source_port = 20_003);
    let mut ports: Vec<u16> = (0..4).map(|n| handshake(&mut lab, 4000 + n)).collect();
    assert_eq!(
        source_port(&lab.run(Hook::Eth0, &client(ACK, 4000)).1),
        ports[0],
        "kept"
    );
    let first = ports[0];
    ports.sort_unstable();
    assert_eq!(ports, [20_000, 20_001, 20_002, 20_003], "each once");
    let full = client(SYN, 5000);
    let counts = Counts::reason(DropReason::PortAllocation);
    lab.check(&untouched(
        "none left",
        Hook::Eth0,
        full.clone(),
        Verdict::Drop,
        counts,
    ));
    lab.run(Hook::Eth0, &client(FIN | ACK, 4000));
    let counts = Counts::reason(DropReason::PortAllocation);
    lab.check(&untouched(
        "half closed",
        Hook::Eth0,
        full.clone(),
        Verdict::Drop,
        counts,
    ));
    lab.run(Hook::Eth1, &target(FIN | ACK, first));
    let (verdict, out) = lab.run(Hook::Eth0, &full);
    assert_eq!(
        (verdict, source_port(&out)),
        (Verdict::Redirect, first),
        "closed"
    );
    lab.run(Hook::Eth1, &target(RST, 20_001));
    assert_eq!(
        lab.run(Hook::Eth0, &client(SYN, 5001)).0,
        Verdict::Redirect,
        "reset"
    );
}

/// The target has answered a SYN, and then others took the flow's port: the
/// client's answer must come from where the SYN came from.
#[test]
fn a_handshake_whose_port_a_flood_took_goes_on_at_the_same_port() {
    let mut lab = Lab::new();
    lab.target(2, |t| t.last_source_port = 20_063);
    let established = handshake(&mut lab, 3999);
    let flood = |lab: &mut Lab, from: u16| {
        for port in from..from + 400 {
            let (verdict, _) = lab.run(Hook::Eth0, &client(SYN, port));
            assert_eq!(verdict, Verdict::Redirect);
        }
    };
    for n in 0..50 {
        flood(&mut lab, 10_000 + 800 * n);
        let (_, out) = lab.run(Hook::Eth0, &client(SYN, 4000 + n));
        flood(&mut lab, 10_400 + 800 * n);
        // What has become free since is not what the target knows.
        for port in (20_000..20_064).step_by(3) {
            lab.run(Hook::Eth1, &target(RST, port));
        }
        let (verdict, answer) = lab.run(Hook::Eth0, &client(ACK, 4000 + n));
        let ports = (source_port(&out), source_port(&answer));
        assert_eq!(
            (verdict, ports.1),
            (Verdict::Redirect, ports.0),
            "client {n}"
        );
        assert_ne!(ports.0, established, "nobody takes an established flow's");
    }
    assert_eq!(
        source_port(&lab.run(Hook::Eth0, &client(ACK, 3999)).1),
        established
    );
}

#[test]
fn a_full_table_is_counted_and_the_flow_goes_on() {
    let mut lab = Lab::with_capacity(Capacity {
        flows: 1,
        ..CAPACITY
    });
    let full = |lab: &Lab| {
        let drops = lab.dataplane.drops().unwrap();
        let is = |(reason, _): &&(DropReason, u64)| *reason == DropReason::FlowTableFull;
        drops.iter().find(is).unwrap().1
    };
    lab.target(2, |t| t.last_source_port = 20_003);
    handshake(&mut lab, 4000);
    assert_eq!(flows(&lab), (0, 2));
    let port = handshake(&mut lab, 4001);
    assert_eq!(flows(&lab), (2, 2));
    assert_eq!(full(&lab), 1);
    for _ in 0..50 {
        let (verdict, out) = lab.run(Hook::Eth0, &client(ACK, 4001));
        assert_eq!((verdict, source_port(&out)), (Verdict::Redirect, port));
    }
    assert!(full(&lab) < 10, "tried once a second");
    // The first flow ends, and makes room.
    lab.run(Hook::Eth0, &client(RST, 4000));
    lab.run(Hook::Eth0, &client(SYN, 4000));
    assert_eq!(flows(&lab), (4, 0));
    clock::ticks(1);
    lab.run(Hook::Eth0, &client(ACK, 4001));
    assert_eq!(flows(&lab), (2, 2));
}

#[test]
fn a_syn_after_the_end_is_a_new_flow_and_before_it_is_not() {
    let new_flows = |lab: &Lab| lab.dataplane.target_traffic(2).unwrap().new_flows;
    let mut lab = Lab::new();
    let port = handshake(&mut lab, 4000);
    lab.run(Hook::Eth0, &client(SYN, 4000));
    assert_eq!(new_flows(&lab), 1, "a stray SYN");
    lab.run(Hook::Eth1, &target(FIN | ACK, port));
    lab.run(Hook::Eth0, &client(FIN | ACK, 4000));
    lab.run(Hook::Eth0, &client(ACK, 4000));
    assert_eq!(new_flows(&lab), 1, "the last ACK");
    let (verdict, _) = lab.run(Hook::Eth1, &target(SYN, port));
    assert_eq!(verdict, Verdict::Redirect, "a SYN from the target");
    lab.run(Hook::Eth0, &client(SYN, 4000));
    assert_eq!((new_flows(&lab), flows(&lab)), (2, (2, 0)));
    // One side's end is enough: the other's may have been lost.
    handshake(&mut lab, 4000);
    lab.run(Hook::Eth0, &client(FIN | ACK, 4000));
    lab.run(Hook::Eth0, &client(SYN, 4000));
    assert_eq!((new_flows(&lab), flows(&lab)), (3, (2, 0)));
}

#[test]
fn a_flow_ends_with_its_target() {
    type Edit = fn(&mut TargetEntry);
    let cases: [(&str, Edit); 2] = [
        ("generation", |t| t.generation = 2),
        ("unhealthy", |t| {
            t.flags &= !(TargetEntry::KEEPS | TargetEntry::ACCEPTS);
        }),
    ];
    for (what, change) in cases {
        let mut lab = Lab::new();
        lab.target(2, |t| t.last_source_port = 30_000);
        let port = handshake(&mut lab, 4000);
        handshake(&mut lab, 4001);
        // Its place in the table is taken by another target.
        lab.apply(Change::SetTarget(
            6,
            TargetEntry {
                port: Be16::new(9999),
                ..lab::target(4)
            },
        ));
        lab.table(2, 6);
        assert_eq!(
            lab.run(Hook::Eth0, &client(ACK, 4000)).1[36..38],
            8080u16.to_be_bytes(),
            "{what}"
        );
        lab.target(2, change);
        // The target is told and the client, whoever goes on first, and as often
        // as it goes on: neither meets another.
        for (hook, packet) in [
            (Hook::Eth1, target(ACK, port)),
            (Hook::Eth0, client(ACK, 4000)),
            (Hook::Eth0, client(ACK, 4001)),
            (Hook::Eth0, client(ACK, 4001)),
            (Hook::Eth1, target(SYN | ACK, port)),
        ] {
            let (verdict, _) = lab.run(hook, &packet);
            assert_eq!(verdict, Verdict::Transmit, "{what}: RST");
        }
        let counts = Counts::reason(DropReason::FlowReset);
        let reset = client(RST, 4001);
        lab.check(&untouched(what, Hook::Eth0, reset, Verdict::Drop, counts));
        let (_, out) = lab.run(Hook::Eth0, &client(SYN, 4000));
        assert_eq!(out[36..38], 9999u16.to_be_bytes(), "{what}: balanced anew");
    }
    let mut lab = Lab::new();
    handshake(&mut lab, 4000);
    lab.target(2, |t| t.flags &= !TargetEntry::ACCEPTS);
    assert_eq!(
        lab.run(Hook::Eth0, &client(ACK, 4000)).0,
        Verdict::Redirect,
        "kept"
    );
    let counts = Counts::reason(DropReason::NoTarget);
    lab.check(&untouched(
        "new",
        Hook::Eth0,
        client(SYN, 4001),
        Verdict::Drop,
        counts,
    ));
}

/// As long as the target repeats its answer, it is the client's entry that other
/// answered flows evict.
#[test]
fn a_flow_whose_forward_entry_was_evicted_goes_on() {
    let mut lab = Lab::with_capacity(Capacity {
        half_open_flows: 200,
        ..CAPACITY
    });
    let syn = |port| tcp(SYN, (CLIENT, port), (KEEP_VIP, 80));
    let answer = |port| tcp(SYN | ACK, (TARGET, 8080), (CLIENT, port));
    let has = |lab: &Lab, reply: bool| {
        let entries = lab.dataplane.flows().unwrap().v4.half_open().unwrap();
        let is = |key: &FlowKey4| {
            let ports = (key.endpoints.source_port, key.endpoints.destination_port);
            ports.0.get() == 4000 && !reply || ports.1.get() == 4000 && reply
        };
        entries.iter().any(|(key, _)| is(key))
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

/// A target with another address of this host: both are restored on egress.
#[test]
fn a_local_target_with_an_address_of_its_own() {
    let mut lab = Lab::new();
    lab.target(0, |t| t.address = wide(SOURCE));
    let frame = |flags, from, to| Frame::new(Transport::Tcp(flags), from, to);
    let input = frame(SYN, (CLIENT, 4000), (HOST, 80));
    let output = frame(SYN, (CLIENT, 4000), (SOURCE, 8081));
    let counts = Counts::new_flow((0, 0), &input);
    lab.check(&rewritten(
        "in",
        Hook::Eth0,
        &input,
        Verdict::Pass,
        &output,
        counts,
    ));
    let input = frame(SYN | ACK, (SOURCE, 8081), (CLIENT, 4000));
    let output = frame(SYN | ACK, (HOST, 80), (CLIENT, 4000));
    let counts = Counts::reply((0, 0), &input);
    lab.check(&rewritten(
        "out",
        Hook::Egress,
        &input,
        Verdict::Pass,
        &output,
        counts,
    ));
}
