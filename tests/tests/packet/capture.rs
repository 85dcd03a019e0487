//! Programs that capture do what the usual ones do, and tell of it.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use lb_common::{
    capture::{self, Head, NONE},
    counters::DropReason,
    flow::{self, FlowEntry},
    listener::VipEntry,
};
use lb_user::{
    address::Prefix,
    api::Names,
    capture::{CaptureNames, Filter, Writer},
    config::Rule,
    dataplane::Captures,
    reconcile::{Change, Place, TargetKey},
};
use xlb_tests::pcapng;

use super::{
    builder::{ACK, Frame, SYN, Transport},
    ends::{Ends, Mode},
    lab::{CLIENT, Hook, IDS, Lab, V4, Verdict},
    net::{NETS, Net},
};

/// What a filter may name: a listener `l3` and a target `10.99.0.3:1` for id 3.
fn names() -> Names {
    let target = |id: u32| TargetKey {
        group: "group".to_owned(),
        address: Some(IpAddr::from([10, 99, 0, id as u8])),
        port: 1,
    };
    Names {
        listeners: (0..IDS).map(|id| (id, format!("l{id}"))).collect(),
        targets: (0..IDS).map(|id| ((id, 1), target(id))).collect(),
    }
}

/// A capture under way in a lab.
struct Tap {
    captures: Captures,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Taken {
    head: Head,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Tap {
    fn new(lab: &mut Lab, filter: &str, snap: u32) -> Self {
        let filter = Filter::parse(filter).unwrap();
        let settings = filter.resolve(&names(), snap).unwrap();
        let model = lab.dataplane.capturing_model().unwrap();
        let (capturing, captures) = model.load(&settings).unwrap();
        lab.dataplane.begin_capture(capturing).unwrap();
        Self { captures }
    }

    fn taken(&mut self) -> Vec<Taken> {
        let mut taken = Vec::new();
        for buffer in &mut self.captures.buffers {
            buffer.read(|it| {
                taken.push(Taken {
                    head: it.head,
                    before: it.before.to_vec(),
                    after: it.after.to_vec(),
                });
            });
        }
        taken
    }

    /// The one packet that was captured.
    fn one(&mut self, what: &str) -> Taken {
        let taken = self.taken();
        assert_eq!(taken.len(), 1, "{what}: {taken:?}");
        taken.into_iter().next().unwrap()
    }
}

/// What a verdict is in a record, and where the packet leaves.
fn told(verdict: Verdict, hook: Hook, lab: &Lab) -> (capture::Verdict, u32) {
    let interface = interface(hook, lab);
    match verdict {
        Verdict::Pass if hook == Hook::Egress => (capture::Verdict::Pass, interface),
        Verdict::Pass => (capture::Verdict::Pass, 0),
        Verdict::Drop => (capture::Verdict::Drop, 0),
        Verdict::Transmit => (capture::Verdict::Transmit, interface),
        // There are two ends.
        Verdict::Redirect => (capture::Verdict::Redirect, lab.eth0 + lab.eth1 - interface),
        Verdict::Handoff(to, _) => (capture::Verdict::Handoff, to),
    }
}

fn interface(hook: Hook, lab: &Lab) -> u32 {
    match hook {
        Hook::Eth0 => lab.eth0,
        Hook::Eth1 => lab.eth1,
        // Where a test run puts packets: the loopback device.
        Hook::Egress => 1,
    }
}

/// Runs a frame and compares what the capture says of it with what became of it.
fn follow(lab: &mut Lab, tap: &mut Tap, what: &str, hook: Hook, frame: &Frame) -> Taken {
    let input = frame.bytes();
    let (verdict, output) = lab.run(hook, &input);
    let taken = tap.one(what);
    let head = taken.head;
    assert_eq!(taken.before, input, "{what}");
    let (verdict, out) = told(verdict, hook, lab);
    let told = (head.verdict, head.out, head.interface);
    assert_eq!(told, (verdict as u32, out, interface(hook, lab)), "{what}");
    match verdict {
        capture::Verdict::Drop => assert_eq!((head.after, taken.after.len()), (0, 0), "{what}"),
        _ => assert_eq!(taken.after, output, "{what}"),
    }
    let lengths = (head.before as usize, head.after as usize);
    assert_eq!(lengths, (taken.before.len(), taken.after.len()), "{what}");
    taken
}

#[test]
fn every_way_is_told_and_is_as_it_was() {
    let mut lab = Lab::new();
    let mut tap = Tap::new(&mut lab, "", capture::MAX_SNAP);
    for ends in Ends::all(1) {
        // Bytes and counters are those of the usual programs.
        ends.open(&mut lab);
        assert_eq!(tap.taken().len(), 3, "{}", ends.what());
        for (hook, frame, flags) in [
            (Hook::Eth0, ends.request(ends.transport(ACK)), 0),
            (
                ends.reply_hook(),
                ends.reply(ends.transport(ACK)),
                FlowEntry::<lb_common::Ipv4>::REPLY,
            ),
        ] {
            let what = format!("{}, {hook:?}", ends.what());
            let Taken { head, .. } = follow(&mut lab, &mut tap, &what, hook, &frame);
            let whose = (head.listener, head.target, head.generation, head.reason);
            assert_eq!(whose, (ends.id, ends.id, 1, NONE), "{what}");
            assert_eq!(head.flags as u8 & flags, flags, "{what}");
            let is_egress = u32::from(hook == Hook::Egress);
            assert_eq!(head.hook, is_egress, "{what}");
            let ports = head
                .ends
                .map(|it| (it.source_port.get(), it.destination_port.get()));
            let to = match flags {
                0 => (ends.seen.1, ends.target.1),
                _ => (ends.vip.1, ends.client.1),
            };
            assert_eq!(ports, [(frame.source.1, frame.destination.1), to], "{what}");
        }
    }
    assert_eq!(tap.captures.lost.count().unwrap(), 0);
}

/// Frames that differ in all that a filter can ask for.
fn frames(lab: &mut Lab, net: Net) -> Vec<(&'static str, Hook, Frame)> {
    let nat = Ends::new(net, Mode::SourceNat, false, 5);
    let local = Ends::new(net, Mode::Local, true, 6);
    nat.claim(lab);
    let guarded = (net.host, 81);
    lab.apply(Change::SetRules {
        id: 3,
        rules: vec![(Prefix::around(net.client, 0).unwrap(), Rule::Deny)].into(),
        set: vec![(Prefix::around(net.client, 0).unwrap(), Rule::Deny)],
        gone: vec![],
    });
    let place = Place::port(guarded.0, guarded.1, flow::TCP);
    lab.listener(place, 20, net.base, |entry| entry.security_group = 3);
    lab.apply(Change::SetVip(
        net.keep_vip,
        VipEntry {
            flags: VipEntry::OWNED,
        },
    ));
    let echo = Transport::Icmp(if net.v6() { 128 } else { 8 }, 0, [0; 4]);
    vec![
        ("nat", Hook::Eth0, nat.request(Transport::Tcp(SYN))),
        ("answer", Hook::Eth1, nat.reply(Transport::Tcp(SYN | ACK))),
        ("local", Hook::Eth0, local.request(Transport::Udp)),
        (
            "denied",
            Hook::Eth0,
            Frame::new(Transport::Tcp(SYN), (net.client, 50_000), guarded),
        ),
        (
            "echo",
            Hook::Eth0,
            Frame::new(echo, (net.client, 0), (net.keep_vip, 0)),
        ),
        (
            "other",
            Hook::Eth0,
            Frame::new(Transport::Tcp(SYN), (net.client, 50_000), (net.host, 22)),
        ),
    ]
}

/// Which of those a filter admits.
#[test]
fn the_kernel_filters() {
    let cases = |net: Net| {
        let (client, target, far) = (net.client, net.target, net.far);
        let id = net.base + Mode::SourceNat as u32 * 2;
        vec![
            (String::new(), "nat answer local denied echo"),
            ("all".into(), "nat answer local denied echo other"),
            ("tcp".into(), "nat answer denied"),
            ("tcp and all".into(), "nat answer denied other"),
            ("icmp".into(), "echo"),
            ("udp and port 53".into(), "local"),
            ("port 5353".into(), "local"),
            ("src port 80".into(), "answer"),
            ("dst port 80 and tcp".into(), "nat"),
            // By source NAT the answer has the client's address only afterwards.
            (format!("host {client}"), "nat answer local denied echo"),
            (format!("dst host {client}"), "answer"),
            (format!("host {client} and host {target}"), "nat answer"),
            (format!("host {far}"), ""),
            ("host 0.0.0.0/0 and host ::/0".into(), ""),
            (format!("listener l{id}"), "nat answer"),
            ("listener l20".into(), "denied"),
            (format!("target 10.99.0.{id}:1"), "nat answer"),
            ("dropped".into(), "denied"),
            ("verdict redirect".into(), ""),
            ("verdict pass".into(), "local"),
            ("reason denied".into(), "denied"),
            ("reason not_ours".into(), "other"),
            ("reason echo_answered".into(), "echo"),
        ]
    };
    let mut lab = Lab::new();
    let transmit = lb_common::settings::InterfaceEntry::TRANSMIT;
    let eth0 = lab.eth0;
    let eth1 = lab.eth1;
    // Nothing is redirected here, but handed off.
    lab.interface(eth0, transmit, &[]);
    lab.interface(eth1, transmit, &[]);
    for net in NETS {
        let frames = frames(&mut lab, net);
        for (filter, expected) in cases(net) {
            let mut tap = Tap::new(&mut lab, &filter, 64);
            let mut admitted = Vec::new();
            for (name, hook, frame) in &frames {
                let bytes = frame.bytes();
                lab.run(*hook, &bytes);
                let taken = tap.taken();
                assert!(taken.len() <= 1, "{filter}: {name} {taken:?}");
                admitted.extend(taken.iter().map(|it| {
                    assert_eq!(it.before, bytes[..bytes.len().min(64)], "{name}");
                    *name
                }));
            }
            assert_eq!(admitted.join(" "), expected, "{}: {filter:?}", net.name);
            lab.dataplane.end_capture().unwrap();
        }
    }
}

/// A packet of which nothing is known comes behind one of which all is.
#[test]
fn nothing_is_said_of_one_packet_that_comes_from_another() {
    let mut lab = Lab::new();
    let mut tap = Tap::new(&mut lab, "all", capture::MAX_SNAP);
    let ends = Ends::new(V4, Mode::SourceNat, false, 1);
    ends.open(&mut lab);
    tap.taken();
    for (what, bytes, reason) in [
        (
            "ARP",
            [&[0xFF; 12][..], &[8, 6], &[0; 46]].concat(),
            DropReason::NotIp,
        ),
        (
            "cut off",
            ends.request(Transport::Tcp(ACK)).bytes()[..20].to_vec(),
            DropReason::Truncated,
        ),
        (
            "no header",
            [&[0xFF; 12][..], &[8, 0], &[0; 46]].concat(),
            DropReason::BadIpHeader,
        ),
    ] {
        let (verdict, _) = lab.run(Hook::Eth0, &bytes);
        assert_eq!(verdict, Verdict::Pass, "{what}");
        let Taken {
            head,
            before,
            after,
        } = tap.one(what);
        assert_eq!((before, after), (bytes, vec![]), "{what}");
        let known = (head.listener, head.generation, head.protocol, head.reason);
        assert_eq!(known, (NONE, 0, 0, reason as u32), "{what}");
        assert_eq!(head.ends.map(|it| it.family), [0, 0], "{what}");
    }
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut lab = Lab::new();
    let ends = Ends::new(V4, Mode::Local, true, 1);
    let mut tap = Tap::new(&mut lab, "", capture::MAX_SNAP);
    let frame = ends
        .request(Transport::Udp)
        .with(|f| f.payload = vec![7; 1_400]);
    let frame = frame.bytes();
    for _ in 0..400 {
        lab.run(Hook::Eth0, &frame);
    }
    let (taken, lost) = (tap.taken().len() as u64, tap.captures.lost.count().unwrap());
    assert!(lost > 0 && taken > 20, "{taken} taken, {lost} lost");
    assert_eq!(taken + lost, 400);
    // And goes on.
    lab.run(Hook::Eth0, &frame);
    assert_eq!(tap.taken().len(), 1);
}

#[test]
fn the_usual_programs_are_back_at_the_end() {
    let mut lab = Lab::new();
    let id = |lab: &mut Lab| lab.dataplane.ingress().unwrap().info().unwrap().id();
    let before = id(&mut lab);
    let mut tap = Tap::new(&mut lab, "", 100);
    assert_ne!(id(&mut lab), before);
    let ends = Ends::new(V4, Mode::Local, false, 1);
    ends.open(&mut lab);
    assert_eq!(tap.taken().len(), 3);
    lab.dataplane.end_capture().unwrap();
    assert_eq!(id(&mut lab), before);
    // The flow is known to them too.
    let (verdict, _) = lab.run(Hook::Eth0, &ends.request(Transport::Tcp(ACK)).bytes());
    assert_eq!((verdict, tap.taken().len()), (Verdict::Pass, 0));
}

/// The file, read by another reader.
#[test]
fn a_capture_is_written_as_pcapng() {
    let mut lab = Lab::new();
    let mut tap = Tap::new(&mut lab, "", 60);
    let ends = Ends::new(V4, Mode::SourceNat, false, 1);
    let names = CaptureNames {
        names: names(),
        interfaces: HashMap::from([(lab.eth0, "eth0".to_owned()), (lab.eth1, "eth1".to_owned())]),
    };
    let monotonic = Duration::from_nanos(monotonic_nanoseconds());
    let began = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut writer = Writer::new(names, 60, monotonic);
    let mut bytes = Vec::new();
    writer.begin([lab.eth0], &mut bytes);
    let empty = bytes.clone();
    ends.claim(&mut lab);
    let input = ends.request(Transport::Tcp(SYN)).bytes();
    let (_, output) = lab.run(Hook::Eth0, &input);
    for buffer in &mut tap.captures.buffers {
        buffer.read(|captured| writer.packet(captured, &mut bytes));
    }
    writer.end(1, 2, &mut bytes);

    let file = pcapng::read(&bytes).unwrap();
    assert!(file.application.starts_with("xlb "), "{}", file.application);
    assert_eq!(file.interfaces, ["eth0 before", "eth0 after", "eth1 after"]);
    assert_eq!(file.statistics, Some((3, 2)));
    let [before, after] = &file.frames[..] else {
        panic!("{file:?}");
    };
    assert_eq!(
        (&before.bytes[..], &after.bytes[..]),
        (&input[..60], &output[..60])
    );
    assert_eq!(
        (before.length, after.length),
        (input.len() as u32, output.len() as u32)
    );
    assert_eq!(
        (before.interface.as_str(), before.direction),
        ("eth0 before", 1)
    );
    assert_eq!(
        (after.interface.as_str(), after.direction),
        ("eth1 after", 2)
    );
    assert_eq!(
        after.comment,
        "after; ingress eth0; redirect by eth1; listener l2; target 10.99.0.2:1 of group; to the \
         target"
    );
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    assert!(
        before.time == after.time && began <= before.time && before.time <= now,
        "{file:?}"
    );
    assert_eq!(
        before.bytes[26..30],
        match CLIENT {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(_) => unreachable!("the lab's client"),
        }
    );
    assert_eq!(pcapng::read(&empty).unwrap().frames.len(), 0);
    // The reader notices.
    assert!(pcapng::read(&bytes[..bytes.len() - 4]).is_err());
}

fn monotonic_nanoseconds() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
