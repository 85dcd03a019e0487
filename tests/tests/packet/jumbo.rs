//! Frames in several buffers: whatever is larger than a page.

use lb_common::{counters::DropReason, listener::VipEntry, target::TargetEntry};
use lb_user::reconcile::Change;

use super::{
    builder::{ACK, Frame, RST, SYN, Transport},
    ends::{Ends, Mode},
    lab::{Hook, Lab, Verdict},
    net::NETS,
    step::{Counts, rewritten},
    tunnel::Tunnel,
};

/// Of IP packets: the first buffer of a test run has some 3,500 bytes, and each
/// of the others a page.
const LENGTHS: [usize; 6] = [3_500, 3_521, 4_096, 7_700, 8_192, 9_000];

fn sized(frame: Frame, length: usize) -> Frame {
    let empty = frame.with(|f| f.payload.clear());
    let surplus = length - empty.ip_length() as usize;
    empty.with(|f| f.payload = (0..surplus).map(|n| n as u8).collect())
}

#[test]
fn by_address_translation() {
    let mut lab = Lab::new();
    for ends in Ends::all(0) {
        ends.open(&mut lab);
        for length in LENGTHS {
            let what = format!("{length} bytes, {}", ends.what());
            let mut check = |hook, input: &Frame, output: &Frame, counts| {
                let verdict = ends.verdict();
                lab.check(&rewritten(&what, hook, input, verdict, output, counts));
            };
            let input = sized(ends.request(ends.transport(ACK)), length);
            let counts = Counts::forward(ends.ids(), &input);
            check(Hook::Eth0, &input, &ends.sent(&input), counts);
            // A test run on egress takes a page at the most.
            if ends.mode != Mode::Local {
                let input = sized(ends.reply(ends.transport(ACK)), length);
                let counts = Counts::reply(ends.ids(), &input);
                check(ends.reply_hook(), &input, &ends.restored(&input), counts);
            }
        }
    }
}

#[test]
fn by_every_way_to_a_target() {
    let mut lab = Lab::new();
    for tunnel in Tunnel::all() {
        tunnel.set(&mut lab, |_| {});
        let small = tunnel.request(0, SYN).bytes();
        let (_, out) = lab.run(Hook::Eth0, &small);
        let overhead = out.len() - small.len();
        for length in LENGTHS {
            let input = sized(tunnel.request(0, ACK), length - overhead);
            lab.check_by(Hook::Eth0, &input.bytes(), |out| {
                let output = tunnel.sent(&input, &tunnel.varying(out, 0));
                let counts = Counts::forward(tunnel.ids(), &input);
                let (hook, verdict) = (Hook::Eth0, Verdict::Redirect);
                let what = format!("{length} bytes, {}", tunnel.what());
                rewritten(what, hook, &input, verdict, &output, counts)
            });
        }
    }
}

#[test]
fn what_is_answered() {
    let mut lab = Lab::new();
    for net in NETS {
        let back = |frame: &Frame| {
            frame.clone().with(|f| {
                (f.source, f.destination) = (frame.destination, frame.source);
                f.macs = (frame.macs.1, frame.macs.0);
            })
        };
        let (hook, verdict) = (Hook::Eth0, Verdict::Transmit);
        let flags = VipEntry::OWNED;
        lab.apply(Change::SetVip(net.keep_vip, VipEntry { flags }));
        let (request, reply) = if net.v6() { (128, 129) } else { (8, 0) };
        let icmp = |kind| Transport::Icmp(kind, 0, [1, 2, 3, 4]);
        let input = Frame::new(icmp(request), (net.client, 0), (net.keep_vip, 0));
        let input = sized(input, 9_000);
        let output = back(&input).with(|f| f.transport = icmp(reply));
        let counts = Counts::reason(DropReason::EchoAnswered);
        lab.check(&rewritten("echo", hook, &input, verdict, &output, counts));

        let ends = Ends::new(net, Mode::KeepClient, false, 0);
        ends.open(&mut lab);
        lab.target(ends.id, |t| t.flags &= !TargetEntry::KEEPS);
        let input = sized(ends.request(Transport::Tcp(ACK)), 9_000);
        let output = back(&input).with(|f| {
            f.transport = Transport::Tcp(RST);
            f.numbers = (input.numbers.1, 0, 0);
            f.identification = 0;
            f.payload.clear();
        });
        let counts = Counts::reason(DropReason::FlowReset);
        lab.check(&rewritten("RST", hook, &input, verdict, &output, counts));
    }
}
