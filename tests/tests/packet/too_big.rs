//! A packet that doesn't fit: its sender is told how much does.

use lb_common::{counters::DropReason, limits::ICMP_ERRORS_PER_SECOND, wire::wide};
use xlb_tests::{clock, cpu};

use super::{
    builder::{ACK, Frame, SYN, Transport, mac},
    ends::{Ends, Mode},
    lab::{Hook, Lab, Verdict},
    net::{NETS, Net, SMALL_MTU},
    step::{Counts, Step, rewritten, untouched},
    tunnel::{LEAST_MTU, Tunnel},
};

/// Makes an IP packet of this length of a frame.
fn sized(frame: Frame, length: u16) -> Frame {
    let surplus = usize::from(length) - frame.with_payload(0).ip_length() as usize;
    frame.with_payload(surplus)
}

impl Frame {
    fn with_payload(&self, length: usize) -> Self {
        let payload = (0..length).map(|n| n as u8).collect();
        self.clone().with(|f| f.payload = payload)
    }
}

/// The error that answers a frame.
fn error(net: Net, frame: &Frame, mtu: u16) -> Frame {
    let [high, low] = mtu.to_be_bytes();
    let kind = if net.v6() { (2, 0) } else { (3, 4) };
    let kind = Transport::Icmp(kind.0, kind.1, [0, 0, high, low]);
    Frame::new(kind, (frame.destination.0, 0), (frame.source.0, 0)).with(|f| {
        f.macs = (frame.macs.1, frame.macs.0);
        f.tags.clone_from(&frame.tags);
        f.identification = 0;
        f.payload = frame.packet()[..512].to_vec();
    })
}

fn told(what: String, hook: Hook, frame: &Frame, net: Net, mtu: u16, counts: Counts) -> Step {
    let counts = counts.and(DropReason::TooBig);
    let error = error(net, frame, mtu);
    rewritten(what, hook, frame, Verdict::Transmit, &error, counts)
}

#[test]
fn by_source_nat_and_without() {
    let mut lab = Lab::new();
    for mut ends in Ends::all(0).filter(|ends| ends.mode != Mode::Local) {
        ends.target.0 = ends.net.far;
        lab.target(ends.id, |t| t.address = wide(ends.net.far));
        let what = ends.what();
        let first = ends.request(ends.transport(SYN));
        lab.run(Hook::Eth0, &first.bytes());
        for (length, tags) in [
            (SMALL_MTU + 1, vec![]),
            (1_499, vec![]),
            (9_000, vec![(0x8100, 7)]),
        ] {
            let large = sized(ends.request(ends.transport(ACK)), length);
            let large = large.with(|f| {
                f.padding = 5 * tags.len();
                f.tags = tags;
            });
            let counts = Counts::forward(ends.ids(), &large);
            let what = format!("{what}, {length}");
            let (hook, net) = (Hook::Eth0, ends.net);
            lab.check(&told(what, hook, &large, net, SMALL_MTU, counts));
        }
    }
}

#[test]
fn a_target_is_told_too() {
    let mut lab = Lab::new();
    for mut ends in Ends::all(0).filter(|ends| ends.mode != Mode::Local) {
        ends.client.0 = ends.net.far;
        if ends.mode == Mode::KeepClient {
            ends.seen = ends.client;
        }
        ends.claim(&mut lab);
        let first = ends.request(ends.transport(SYN));
        lab.run(Hook::Eth0, &first.bytes());
        let large = sized(ends.reply(ends.transport(ACK)), SMALL_MTU + 1);
        let counts = Counts::reply(ends.ids(), &large);
        let (hook, net) = (ends.reply_hook(), ends.net);
        lab.check(&told(ends.what(), hook, &large, net, SMALL_MTU, counts));
    }
}

/// What fits is the interface's MTU less what is put in front of the packet.
#[test]
fn by_what_an_outer_header_takes() {
    let mut lab = Lab::new();
    for tunnel in Tunnel::all() {
        tunnel.set(&mut lab, |t| {
            t.address = wide(tunnel.outer.far);
            t.source = wide(tunnel.outer.far_source);
        });
        let small = tunnel.request(0, SYN);
        let (_, out) = lab.run(Hook::Eth0, &small.bytes());
        let overhead = out.len() - small.bytes().len();
        let fits = SMALL_MTU - overhead as u16;
        let what = format!("{}, {fits} fit", tunnel.what());

        let large = sized(tunnel.request(0, ACK), fits + 1);
        let counts = Counts::forward(tunnel.ids(), &large);
        let (hook, net) = (Hook::Eth0, tunnel.inner);
        // With less IPv6's hosts do nothing (RFC 8201, section 4).
        let mtu = if net.v6() {
            fits.max(LEAST_MTU as u16)
        } else {
            fits
        };
        lab.check(&told(what.clone(), hook, &large, net, mtu, counts));

        let input = sized(tunnel.request(0, ACK), fits);
        let counts = Counts::forward(tunnel.ids(), &input);
        let macs = (mac(3, 1), mac(3, 2));
        lab.check_by(hook, &input.bytes(), |out| {
            let varying = tunnel.varying(out, 0);
            let output = tunnel.sent_by(&input, &varying, macs).with(|f| {
                if overhead > 0 {
                    f.destination.0 = tunnel.outer.far;
                }
            });
            rewritten(what, hook, &input, Verdict::Redirect, &output, counts)
        });
    }
}

/// A later fragment has nothing to be told by; nor is an error answered.
#[test]
fn some_are_just_dropped() {
    let mut lab = Lab::new();
    for net in NETS {
        let mut ends = Ends::new(net, Mode::KeepClient, true, 0);
        ends.target.0 = net.far;
        lab.target(ends.id, |t| t.address = wide(net.far));
        let whole = ends.request(Transport::Udp).with_payload(2_000);
        let [first, last] = whole.split(48);
        lab.run(Hook::Eth0, &first.bytes());
        let counts = Counts::forward(ends.ids(), &last).and(DropReason::TooBig);
        let (hook, verdict) = (Hook::Eth0, Verdict::Drop);
        lab.check(&untouched(net.name, hook, last.bytes(), verdict, counts));

        let reply = ends.restored(&ends.reply(Transport::Udp));
        let kind = if net.v6() { (1, 0) } else { (3, 1) };
        let kind = Transport::Icmp(kind.0, kind.1, [0; 4]);
        let error = ends.request(kind).with(|f| {
            f.payload = reply.packet();
            f.payload.resize(1_400, 0);
        });
        let counts = Counts::reason(DropReason::TooBig);
        lab.check(&untouched(net.name, hook, error.bytes(), verdict, counts));
    }
}

/// Each CPU's own limit, so this runs on one.
#[test]
fn as_often_as_a_router_may() {
    cpu::stay().unwrap();
    let mut lab = Lab::new();
    for net in NETS {
        let mut ends = Ends::new(net, Mode::KeepClient, false, 0);
        ends.target.0 = net.far;
        lab.target(ends.id, |t| t.address = wide(net.far));
        let large = sized(ends.request(Transport::Tcp(SYN)), 1_400).bytes();
        let extra = 50;
        let told = clock::within_a_second(|| {
            let verdicts =
                (0..ICMP_ERRORS_PER_SECOND + extra).map(|_| lab.run(Hook::Eth0, &large).0);
            verdicts
                .filter(|verdict| *verdict == Verdict::Transmit)
                .count()
        });
        assert_eq!(told, ICMP_ERRORS_PER_SECOND as usize, "{}", net.name);
        clock::ticks(1);
        let (verdict, _) = lab.run(Hook::Eth0, &large);
        assert_eq!(verdict, Verdict::Transmit, "{}", net.name);
    }
}
