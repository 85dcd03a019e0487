//! What a listener is found by, and what picks its targets.

use std::collections::BTreeSet;

use lb_common::{
    Be16,
    counters::DropReason,
    flow,
    listener::{ListenerEntry, VipEntry},
    wire::wide,
};
use lb_user::reconcile::{Block, Change, Place, PlacePorts};

use super::{
    builder::{ACK, Frame, SYN, Transport, mac},
    ends::{Ends, Mode},
    lab::{Hook, Lab, TABLE_SIZE, Verdict, target},
    net::{NETS, Net},
    step::{Counts, rewritten, untouched},
};

fn block(net: Net, first: u16, open_bits: u8, protocol: u8) -> Place {
    Place {
        address: net.host,
        protocol,
        ports: PlacePorts::Block(Block { first, open_bits }),
    }
}

fn set_vip(lab: &mut Lab, net: Net, flags: u32) {
    lab.apply(Change::SetVip(net.host, VipEntry { flags }));
}

/// A target whose port is the one that the client has used.
fn any_port(lab: &mut Lab, net: Net, id: u32) {
    let mut entry = target(net.base);
    entry.port = Be16::new(0);
    lab.apply(Change::SetTarget(id, entry));
    lab.table(id, id);
}

/// Ports 8000 to 8063 (listener 16), all TCP ports (17), and port 80 as ever.
#[test]
fn ranges_and_all_ports() {
    let mut lab = Lab::new();
    for net in NETS {
        let (range, all) = (16, 17);
        for id in [range, all] {
            any_port(&mut lab, net, id);
        }
        let ends = Ends::new(net, Mode::Local, false, 0);
        let check = |lab: &mut Lab, transport, port: u16, id: Option<u32>| {
            let input = ends.request(transport).with(|f| f.destination.1 = port);
            let what = format!("{}, {transport:?}, port {port}", net.name);
            let (hook, verdict) = (Hook::Eth0, Verdict::Pass);
            lab.check(&match id {
                None => {
                    let counts = Counts::reason(DropReason::NotOurs);
                    untouched(what, hook, input.bytes(), verdict, counts)
                }
                Some(id) => {
                    let counts = Counts::new_flow((id, id), &input);
                    let output = input.clone().with(|f| {
                        if id == net.base {
                            f.destination.1 = 8081;
                        }
                    });
                    rewritten(what, hook, &input, verdict, &output, counts)
                }
            });
        };
        let syn = Transport::Tcp(SYN);
        lab.listener(block(net, 8_000, 6, flow::TCP), range, range, |_| {});
        set_vip(&mut lab, net, 0);
        check(&mut lab, syn, 8_000, None);
        set_vip(&mut lab, net, VipEntry::RANGES);
        for port in [8_000, 8_001, 8_063] {
            check(&mut lab, syn, port, Some(range));
        }
        for port in [7_999, 8_064, 0, 65_535] {
            check(&mut lab, syn, port, None);
        }
        check(&mut lab, Transport::Udp, 8_000, None);
        lab.listener(block(net, 0, 16, flow::TCP), all, all, |_| {});
        for port in [0, 1, 7_999, 8_064, 65_535] {
            check(&mut lab, syn, port, Some(all));
        }
        check(&mut lab, syn, 8_002, Some(range));
        check(&mut lab, syn, 80, Some(net.base));
        check(&mut lab, Transport::Udp, 8_000, None);
        // And what was there is gone with its place.
        lab.apply(Change::RemoveListener(block(net, 0, 16, flow::TCP)));
        check(&mut lab, syn, 9_000, None);
    }
}

/// The reply of a flow to any port.
#[test]
fn the_clients_port_stays_both_ways() {
    let mut lab = Lab::new();
    for ends in Ends::all(0) {
        let mut entry = target(ends.id);
        entry.port = Be16::new(0);
        lab.apply(Change::SetTarget(ends.id, entry));
        let ends = Ends {
            target: (ends.target.0, ends.vip.1),
            ..ends
        };
        let input = ends.request(ends.transport(SYN));
        let counts = Counts::new_flow(ends.ids(), &input);
        lab.check(&ends.step_forward(&input, counts));
        lab.check(&ends.step_back(&ends.reply(ends.transport(SYN | ACK))));
    }
}

/// Targets' addresses that new flows from these hosts to these ports go to.
fn chosen(
    lab: &mut Lab,
    net: Net,
    network: u8,
    hosts: &[u8],
    sources: &[u16],
    ports: &[u16],
) -> BTreeSet<Vec<u8>> {
    let mut chosen = BTreeSet::new();
    for (&host, (&source, &port)) in hosts.iter().flat_map(|host| {
        sources
            .iter()
            .flat_map(move |source| ports.iter().map(move |port| (host, (source, port))))
    }) {
        let from = (net.address(network, host), source);
        let frame = Frame::new(Transport::Tcp(SYN), from, (net.host, port));
        let (verdict, out) = lab.run(Hook::Eth0, &frame.bytes());
        assert_eq!(verdict, Verdict::Pass);
        let end = 14 + net.header();
        let length = if net.v6() { 16 } else { 4 };
        chosen.insert(out[end - length..end].to_vec());
    }
    chosen
}

/// Two targets, one at another address of the host, that keep the port.
fn two_targets(lab: &mut Lab, net: Net) {
    any_port(lab, net, net.base);
    let mut other = target(net.base);
    other.address = wide(net.source);
    other.port = Be16::new(0);
    lab.apply(Change::SetTarget(16, other));
    let halves = (0..TABLE_SIZE).map(|slot| if slot % 2 == 0 { 16 } else { net.base as u16 });
    let (group, slots) = (net.base, halves.collect());
    lab.apply(Change::CreateTable { group, slots });
}

#[test]
fn what_sticks_to_a_target() {
    let mut lab = Lab::new();
    let many: Vec<u16> = (1_000..1_032).collect();
    for net in NETS {
        two_targets(&mut lab, net);
        set_vip(&mut lab, net, VipEntry::RANGES);
        let hosts: Vec<u8> = (1..33).collect();
        let ports: Vec<u16> = (8_000..8_032).collect();
        // From networks of their own: known flows stay where they are.
        for (network, flags, by_source, by_port) in [
            (4, 0, false, false),
            (5, ListenerEntry::HASH_SOURCE, true, false),
            (6, ListenerEntry::HASH_PORT, false, true),
        ] {
            let place = block(net, 8_000, 6, flow::TCP);
            lab.listener(place, net.base, net.base, |entry| entry.flags = flags);
            let mut chosen = |hosts: &[u8], sources: &[u16], ports: &[u16]| {
                chosen(&mut lab, net, network, hosts, sources, ports)
            };
            let what = format!("{}, {flags}", net.name);
            let one_source = chosen(&hosts[..1], &many, &ports);
            assert_eq!(one_source.len() == 1, by_source, "{what}: {one_source:?}");
            let one_port = chosen(&hosts, &many, &ports[..1]);
            assert_eq!(one_port.len() == 1, by_port, "{what}: {one_port:?}");
            let all = chosen(&hosts, &many[..2], &ports);
            assert_eq!(all.len(), 2, "{what}: {all:?}");
        }
    }
}

/// What the device sees of others' frames is theirs.
#[test]
fn a_frame_to_another_host_begins_no_flow() {
    let mut lab = Lab::new();
    for ends in Ends::all(0) {
        let request = |flags| ends.request(ends.transport(flags));
        for to in [mac(1, 77), mac(9, 1), [0xFF; 6], [0x33, 0x33, 0, 0, 0, 1]] {
            for flags in [SYN, ACK] {
                let input = request(flags).with(|f| f.macs.1 = to).bytes();
                let what = format!("{to:x?}, {}", ends.what());
                let counts = Counts::reason(DropReason::NotOurs);
                lab.check(&untouched(what, Hook::Eth0, input, Verdict::Pass, counts));
            }
        }
        ends.open(&mut lab);
    }
}
