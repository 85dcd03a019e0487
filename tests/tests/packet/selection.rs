//! Which target a new flow goes to, by the group's table and what is free.

use lb_common::{Be16, counters::DropReason, flow, limits::NO_TARGET, target::TargetEntry};
use lb_user::{
    maglev::{self, Member},
    reconcile::Change,
};

use super::{
    builder::{ACK, SYN},
    ends::{Ends, Mode},
    flows::{client, destination_port, handshake, tcp},
    lab::{self, Hook, Lab, TABLE_SIZE, Verdict},
    net::{Net, both},
    step::{Counts, untouched},
};

/// Gives every third slot of the first group to another target, whose port is
/// 8086.
fn share(lab: &mut Lab, net: Net) {
    let another = TargetEntry {
        port: Be16::new(8086),
        ..lab::target(net.base)
    };
    let (group, id) = (net.base, net.base + 6);
    lab.apply(Change::SetTarget(id, another));
    let of = |slot| if slot % 3 == 0 { id } else { group };
    let slots = (0..TABLE_SIZE).map(|slot| of(slot) as u16).collect();
    lab.apply(Change::CreateTable { group, slots });
}

/// The `n`th client's first frame to the first listener, or one in mid-stream.
fn local(net: Net, flags: u8, n: u16) -> Vec<u8> {
    tcp(flags, (net.client, n), (net.host, 80))
}

#[test]
fn without_a_table_there_is_no_target() {
    for net in both() {
        let mut lab = Lab::new();
        let check = |lab: &mut Lab, what, packet| {
            let counts = Counts::reason(DropReason::NoTarget);
            lab.check(&untouched(what, Hook::Eth0, packet, Verdict::Drop, counts));
        };
        let group = net.base;
        lab.slots(group, vec![NO_TARGET; TABLE_SIZE as usize]);
        check(&mut lab, "empty", local(net, SYN, 4000));
        lab.apply(Change::RemoveTable { group });
        check(&mut lab, "removed", local(net, SYN, 4000));
        // There has never been one.
        lab.listen(net.host, 8000, flow::TCP, net.base + 6, net.base + 6);
        let packet = tcp(SYN, (net.client, 4000), (net.host, 8000));
        check(&mut lab, "never made", packet);
        lab.table(net.base + 6, net.base + 7);
        let packet = tcp(SYN, (net.client, 4000), (net.host, 8000));
        check(&mut lab, "of a target that isn't there", packet);
    }
}

#[test]
fn the_table_decides() {
    for net in both() {
        let mut lab = Lab::new();
        share(&mut lab, net);
        let mut chosen = Vec::new();
        for port in 1..=1_000 {
            let (_, out) = lab.run(Hook::Eth0, &local(net, SYN, port));
            chosen.push(destination_port(&out));
        }
        let others = chosen.iter().filter(|port| **port == 8086).count();
        let meant = 265..405;
        assert!(meant.contains(&others), "{others} of 1000, not a third");
        // Another node, or one that has lost its flows, picks the same in
        // mid-stream.
        let mut other = Lab::new();
        share(&mut other, net);
        for (port, chosen) in (1..=200).zip(chosen) {
            let (_, out) = other.run(Hook::Eth0, &local(net, ACK, port));
            assert_eq!(destination_port(&out), chosen, "client port {port}");
        }
    }
}

/// A flow that is known, whether it has only begun or is established, doesn't
/// ask the table.
#[test]
fn a_known_flow_keeps_its_target_when_the_table_changes() {
    let mut lab = Lab::new();
    for ends in Ends::all(0) {
        let begun = Ends {
            client: (ends.client.0, 50_000),
            seen: match ends.mode {
                Mode::SourceNat => (ends.seen.0, 30_000),
                _ => (ends.seen.0, 50_000),
            },
            ..ends
        };
        ends.open(&mut lab);
        begun.claim(&mut lab);
        let first = begun.request(begun.transport(SYN));
        let counts = Counts::new_flow(begun.ids(), &first);
        lab.check(&begun.step_forward(&first, counts));

        let other = ends.net.base + 6;
        let entry = TargetEntry {
            port: Be16::new(9999),
            first_source_port: 30_001,
            last_source_port: 30_001,
            ..lab::target(ends.id)
        };
        lab.apply(Change::SetTarget(other, entry));
        lab.table(ends.id, other);
        for known in [ends, begun] {
            for _ in 0..2 {
                let input = known.request(known.transport(ACK));
                let counts = Counts::forward(known.ids(), &input);
                lab.check(&known.step_forward(&input, counts));
                lab.check(&known.step_back(&known.reply(known.transport(ACK))));
            }
        }
        let new = ends
            .request(ends.transport(SYN))
            .with(|f| f.source.1 = 51_000);
        let (verdict, out) = lab.run(Hook::Eth0, &new.bytes());
        let to = (verdict, destination_port(&out));
        assert_eq!(to, (ends.verdict(), 9999), "{}, new", ends.what());
        lab.apply(Change::ClearTarget(other));
    }
}

/// The first half of the slots is the third target's, the other half another
/// one's.
fn halve(lab: &mut Lab, net: Net) {
    let (group, id) = (net.base + 2, net.base + 6);
    let another = TargetEntry {
        port: Be16::new(9999),
        last_source_port: 30_000,
        ..lab::target(group)
    };
    lab.apply(Change::SetTarget(id, another));
    let of = |slot| if slot < TABLE_SIZE / 2 { group } else { id };
    let slots = (0..TABLE_SIZE).map(|slot| of(slot) as u16).collect();
    lab.apply(Change::CreateTable { group, slots });
}

#[test]
fn a_target_that_cant_be_had_is_left_for_the_next() {
    type Edit = fn(&mut TargetEntry);
    let cases: [(&str, Edit, &[u16]); 3] = [
        ("both", |t| t.last_source_port = 30_000, &[8080, 9999]),
        (
            "not accepting",
            |t| t.flags &= !TargetEntry::ACCEPTS,
            &[9999],
        ),
        // Its one port is the first flow's.
        ("without a port", |_| {}, &[9999]),
    ];
    for (net, (what, edit, chosen)) in both().flat_map(|net| cases.map(|case| (net, case))) {
        let mut lab = Lab::new();
        handshake(&mut lab, net, 3999);
        lab.target(net.base + 2, edit);
        halve(&mut lab, net);
        let mut ports = Vec::new();
        for n in 0..64 {
            let (verdict, out) = lab.run(Hook::Eth0, &client(net, SYN, 4000 + n));
            assert_eq!(verdict, Verdict::Redirect, "{what}");
            ports.push(destination_port(&out));
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports, chosen, "{what}");
    }
}

/// Until the agent has written another table.
#[test]
fn no_flow_is_dropped_because_one_of_two_targets_is_lost() {
    for net in both() {
        let mut lab = Lab::new();
        let (group, id) = (net.base + 4, net.base + 6);
        lab.apply(Change::SetTarget(id, lab::target(group)));
        let members = [group, id].map(|id| Member {
            identity: id.into(),
            id: id as u16,
            weight: 1,
        });
        lab.slots(group, maglev::build(&members, TABLE_SIZE, 0));
        lab.target(group, |t| t.flags &= !TargetEntry::ACCEPTS);
        let mut lost = 0;
        for port in 1..=512 {
            let syn = tcp(SYN, (net.client, port), (net.keep_vip, 80));
            let (verdict, _) = lab.run(Hook::Eth0, &syn);
            lost += u32::from(verdict != Verdict::Redirect);
        }
        assert_eq!(lost, 0, "of 512");
    }
}

#[test]
fn two_flows_with_the_same_replies_collide() {
    for net in both() {
        let mut lab = Lab::new();
        lab.listen(net.keep_vip, 8000, flow::TCP, net.base + 6, net.base + 4);
        let to = |port, service| tcp(SYN, (net.client, port), (net.keep_vip, service));
        lab.run(Hook::Eth0, &to(4000, 80));
        let counts = Counts::reason(DropReason::FlowCollision);
        let (what, hook, second) = ("collision", Hook::Eth0, to(4000, 8000));
        lab.check(&untouched(what, hook, second, Verdict::Drop, counts));
        let (verdict, _) = lab.run(Hook::Eth0, &to(4001, 8000));
        assert_eq!(verdict, Verdict::Redirect);
    }
}
