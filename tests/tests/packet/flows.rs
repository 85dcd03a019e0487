//! The life of flows: selection, ports, promotion, endings.

use std::{thread::sleep, time::Duration};

use lb_common::{Be16, counters::DropReason, flow, limits::NO_TARGET, target::TargetEntry};
use lb_user::{config::Capacity, reconcile::Change};

use super::{
    builder::{ACK, ETH1_MAC, FIN, Frame, RST, SYN, TARGET_MAC, Transport},
    lab::{
        CAPACITY, CLIENT, Counts, HOST, Hook, KEEP_VIP, Lab, NAT_VIP, SETTINGS, SOURCE, TABLE_SIZE,
        TARGET, Verdict, rewritten, targets, untouched,
    },
};

fn tcp(flags: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
    Frame::new(Transport::Tcp(flags), from, to).bytes()
}

fn client(flags: u8, port: u16) -> Vec<u8> {
    tcp(flags, (CLIENT, port), (NAT_VIP, 80))
}

fn target(flags: u8, port: u16) -> Vec<u8> {
    tcp(flags, (TARGET, 8080), (SOURCE, port))
}

fn flows(lab: &Lab) -> (usize, usize) {
    let flows = lab.dataplane.flows().unwrap();
    (
        flows.half_open().unwrap().len(),
        flows.established().unwrap().len(),
    )
}

/// The source port that a rewritten TCP frame left with.
fn source_port(out: &[u8]) -> u16 {
    u16::from_be_bytes([out[34], out[35]])
}

fn handshake(lab: &mut Lab, client_port: u16) -> u16 {
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

#[test]
fn a_full_table_is_counted_and_the_flow_goes_on() {
    let mut lab = Lab::with_capacity(Capacity {
        flows: 1,
        ..CAPACITY
    });
    lab.target(2, |t| t.last_source_port = 20_003);
    handshake(&mut lab, 4000);
    assert_eq!(flows(&lab), (0, 2));
    let port = handshake(&mut lab, 4001);
    assert_eq!(flows(&lab), (2, 2));
    let drops = lab.dataplane.drops().unwrap();
    let full = drops
        .iter()
        .find(|(reason, _)| *reason == DropReason::FlowTableFull)
        .unwrap();
    assert_eq!(full.1, 1);
    let (verdict, out) = lab.run(Hook::Eth0, &client(ACK, 4001));
    assert_eq!((verdict, source_port(&out)), (Verdict::Redirect, port));
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
    lab.run(Hook::Eth0, &client(SYN, 4000));
    assert_eq!((new_flows(&lab), flows(&lab)), (2, (2, 0)));
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
        let port = handshake(&mut lab, 4000);
        // Its place in the table is taken by another target.
        lab.apply(Change::SetTarget(
            6,
            TargetEntry {
                port: Be16::new(9999),
                ..targets()[4]
            },
        ));
        lab.apply(Change::CreateTable {
            group: 2,
            slots: vec![6; TABLE_SIZE as usize],
        });
        let reply = Counts::reply(
            (2, 2),
            &Frame::new(Transport::Tcp(ACK), (TARGET, 8080), (SOURCE, port)),
        );
        assert_eq!(reply.drops.len(), 0);
        assert_eq!(
            lab.run(Hook::Eth0, &client(ACK, 4000)).1[36..38],
            8080u16.to_be_bytes(),
            "{what}"
        );
        lab.target(2, change);
        let counts = Counts::reason(DropReason::NotOurs);
        lab.check(&untouched(
            what,
            Hook::Eth1,
            target(ACK, port),
            Verdict::Pass,
            counts,
        ));
        let (_, out) = lab.run(Hook::Eth0, &client(ACK, 4000));
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

#[test]
fn an_idle_flow_is_over() {
    let mut lab = Lab::new();
    lab.apply(Change::SetSettings(lb_common::settings::Settings {
        half_open_timeout: 0,
        established_timeout: 600,
        ..SETTINGS
    }));
    let new_flows = |lab: &Lab| lab.dataplane.target_traffic(2).unwrap().new_flows;
    handshake(&mut lab, 4000);
    lab.run(Hook::Eth0, &client(SYN, 5000));
    // The port range has one port, which 4000 has.
    lab.target(2, |t| t.last_source_port = 20_001);
    lab.run(Hook::Eth0, &client(SYN, 5000));
    assert_eq!(new_flows(&lab), 2);
    sleep(Duration::from_millis(1_200));
    let swept = lab.dataplane.sweep().unwrap().run().unwrap();
    assert_eq!(
        (swept.established, swept.half_open, swept.removed),
        (1, 0, 2)
    );
    assert_eq!(swept.by_target[..4], [0, 0, 1, 0]);
    lab.run(Hook::Eth0, &client(SYN, 5000));
    sleep(Duration::from_millis(1_200));
    lab.run(Hook::Eth0, &client(SYN, 5000));
    assert_eq!(new_flows(&lab), 4, "ended without the sweep");
}

#[test]
fn two_flows_with_the_same_replies_collide() {
    let mut lab = Lab::new();
    lab.listen(KEEP_VIP, 8000, flow::TCP, 6, 4);
    lab.run(Hook::Eth0, &tcp(SYN, (CLIENT, 4000), (KEEP_VIP, 80)));
    let second = tcp(SYN, (CLIENT, 4000), (KEEP_VIP, 8000));
    let counts = Counts::reason(DropReason::FlowCollision);
    lab.check(&untouched(
        "collision",
        Hook::Eth0,
        second,
        Verdict::Drop,
        counts,
    ));
    let (verdict, _) = lab.run(Hook::Eth0, &tcp(SYN, (CLIENT, 4001), (KEEP_VIP, 8000)));
    assert_eq!(verdict, Verdict::Redirect);
}

#[test]
fn the_table_decides() {
    let mut lab = Lab::new();
    lab.apply(Change::CreateTable {
        group: 0,
        slots: vec![NO_TARGET; TABLE_SIZE as usize],
    });
    let syn = tcp(SYN, (CLIENT, 4000), (HOST, 80));
    let counts = Counts::reason(DropReason::NoTarget);
    lab.check(&untouched(
        "empty",
        Hook::Eth0,
        syn.clone(),
        Verdict::Drop,
        counts,
    ));
    lab.apply(Change::RemoveTable { group: 0 });
    let counts = Counts::reason(DropReason::NoTarget);
    lab.check(&untouched(
        "removed",
        Hook::Eth0,
        syn,
        Verdict::Drop,
        counts,
    ));

    // Every third slot is target 6's.
    lab.apply(Change::SetTarget(
        6,
        TargetEntry {
            port: Be16::new(8086),
            ..targets()[0]
        },
    ));
    let slots = (0..TABLE_SIZE)
        .map(|slot| if slot % 3 == 0 { 6 } else { 0 })
        .collect();
    lab.apply(Change::CreateTable { group: 0, slots });
    let mut chosen = Vec::new();
    for port in 1..=1_000 {
        let (_, out) = lab.run(Hook::Eth0, &tcp(SYN, (CLIENT, port), (HOST, 80)));
        chosen.push(out[36..38].to_vec());
    }
    let six = chosen
        .iter()
        .filter(|port| **port == 8086u16.to_be_bytes())
        .count();
    assert!((265..405).contains(&six), "{six} of 1000, a third is meant");
    // Another node, or one that has lost its flows, picks the same in mid-stream.
    let mut other = Lab::new();
    other.apply(Change::SetTarget(
        6,
        TargetEntry {
            port: Be16::new(8086),
            ..targets()[0]
        },
    ));
    let slots = (0..TABLE_SIZE)
        .map(|slot| if slot % 3 == 0 { 6 } else { 0 })
        .collect();
    other.apply(Change::CreateTable { group: 0, slots });
    for port in 1..=200u16 {
        let (_, out) = other.run(Hook::Eth0, &tcp(ACK, (CLIENT, port), (HOST, 80)));
        assert_eq!(
            out[36..38],
            chosen[usize::from(port) - 1],
            "client port {port}"
        );
    }
}

/// A target with another address of this host: both are restored on egress.
#[test]
fn a_local_target_with_an_address_of_its_own() {
    let mut lab = Lab::new();
    lab.target(0, |t| t.address[..4].copy_from_slice(&SOURCE));
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
    assert_ne!(ETH1_MAC, TARGET_MAC);
}
