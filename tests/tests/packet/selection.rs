//! Which target a new flow goes to, by the group's table and what is free.

use lb_common::{Be16, counters::DropReason, flow, limits::NO_TARGET, target::TargetEntry};
use lb_user::reconcile::Change;

use super::{
    builder::{ACK, SYN},
    flows::{client, handshake, tcp},
    lab::{self, CLIENT, HOST, Hook, KEEP_VIP, Lab, TABLE_SIZE, Verdict},
    step::{Counts, untouched},
};

/// Gives every third slot of group 0 to another target, 6.
fn share(lab: &mut Lab) {
    let six = TargetEntry {
        port: Be16::new(8086),
        ..lab::target(0)
    };
    lab.apply(Change::SetTarget(6, six));
    let slots = (0..TABLE_SIZE)
        .map(|slot| if slot % 3 == 0 { 6 } else { 0 })
        .collect();
    lab.apply(Change::CreateTable { group: 0, slots });
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

    share(&mut lab);
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
    share(&mut other);
    for port in 1..=200u16 {
        let (_, out) = other.run(Hook::Eth0, &tcp(ACK, (CLIENT, port), (HOST, 80)));
        assert_eq!(
            out[36..38],
            chosen[usize::from(port) - 1],
            "client port {port}"
        );
    }
}

/// The first half of the slots is target 2's, the other one target 6's.
fn halve(lab: &mut Lab) {
    let six = TargetEntry {
        port: Be16::new(9999),
        last_source_port: 30_000,
        ..lab::target(2)
    };
    lab.apply(Change::SetTarget(6, six));
    let slots = (0..TABLE_SIZE)
        .map(|slot| if slot < TABLE_SIZE / 2 { 2 } else { 6 })
        .collect();
    lab.apply(Change::CreateTable { group: 2, slots });
}

#[test]
fn a_target_that_cant_be_had_is_left_for_the_next() {
    type Edit = fn(&mut TargetEntry);
    let cases: [(&str, Edit, &[u16]); 3] = [
        ("both", |t| t.last_source_port = 30_000, &[8080, 9999]),
        ("not accepting", |t| t.flags = TargetEntry::KEEPS, &[9999]),
        // Its one port is the first flow's.
        ("without a port", |_| {}, &[9999]),
    ];
    for (what, edit, chosen) in cases {
        let mut lab = Lab::new();
        handshake(&mut lab, 3999);
        lab.target(2, edit);
        halve(&mut lab);
        let mut ports = Vec::new();
        for n in 0..64 {
            let (verdict, out) = lab.run(Hook::Eth0, &client(SYN, 4000 + n));
            assert_eq!(verdict, Verdict::Redirect, "{what}");
            ports.push(u16::from_be_bytes([out[36], out[37]]));
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports, chosen, "{what}");
    }
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
