//! ICMP errors about packets of a flow: they reach the flow's other side, and
//! quote what that side has sent.

use lb_common::counters::DropReason;

use super::{
    builder::{ACK, DESTINATION_OPTIONS, End, Frame, HOP_BY_HOP, Transport, options},
    ends::{Ends, Mode},
    lab::{Hook, Lab, Verdict},
    net::Net,
    step::{Counts, rewritten, untouched},
};

/// Type, code and second word of errors.
pub fn kinds(net: Net) -> Vec<(&'static str, Transport)> {
    let mtu = [0, 0, 5, 20];
    let icmp = |kind, code, words| Transport::Icmp(kind, code, words);
    if net.v6() {
        vec![
            ("no route", icmp(1, 0, [0; 4])),
            ("port unreachable", icmp(1, 4, [0; 4])),
            ("too big", icmp(2, 0, mtu)),
            ("time exceeded", icmp(3, 0, [0; 4])),
            ("parameter problem", icmp(4, 0, [0, 0, 0, 6])),
        ]
    } else {
        vec![
            ("host unreachable", icmp(3, 1, [0; 4])),
            ("port unreachable", icmp(3, 3, [0; 4])),
            ("fragmentation needed", icmp(3, 4, mtu)),
            ("source quench", icmp(4, 0, [0; 4])),
            ("time exceeded", icmp(11, 0, [0; 4])),
            ("parameter problem", icmp(12, 0, [8, 0, 0, 0])),
        ]
    }
}

/// What the quoted packet looks like, and how many bytes behind its IP header
/// and extension headers are quoted.
type Look = (&'static str, fn(&mut Frame), usize);

const LOOKS: [Look; 8] = [
    ("8 bytes", |_| {}, 8),
    ("17 bytes", |_| {}, 17),
    ("18 bytes", |_| {}, 18),
    ("the header", |_| {}, 20),
    ("all of it", |_| {}, 200),
    (
        "options",
        |f| {
            f.options = vec![1; 20];
            f.extensions = vec![options(HOP_BY_HOP, 1), options(DESTINATION_OPTIONS, 2)];
        },
        28,
    ),
    ("odd payload", |f| f.payload = vec![0xA5; 33], 200),
    ("routed", |f| f.time_to_live = 1, 8),
];

/// A quote of `frame` with so many bytes of what its IP header carries.
fn quote(frame: &Frame, bytes: usize) -> Vec<u8> {
    let mut packet = frame.packet();
    let extensions: usize = frame
        .extensions
        .iter()
        .map(|(_, header)| header.len())
        .sum();
    let header = if frame.source.0.is_ipv6() {
        40 + extensions
    } else {
        20 + frame.options.len()
    };
    packet.truncate(header + bytes);
    packet
}

/// A quote of what `frame` was before it became what `input` quotes. Half of a
/// checksum can't be mended.
fn requoted(input: &Frame, frame: &Frame, bytes: usize) -> Vec<u8> {
    let mut quote = quote(frame, bytes);
    if bytes == 17 && matches!(frame.transport, Transport::Tcp(_)) {
        *quote.last_mut().unwrap() = *input.payload.last().unwrap();
    }
    quote
}

/// An error from a router on the target's side about a packet that was sent to
/// the target, and what the client gets; or the other way round.
struct Errors {
    hook: Hook,
    input: Frame,
    verdict: Verdict,
    output: Frame,
}

impl Errors {
    fn about_request(ends: &Ends, kind: Transport, look: &Look, from: End) -> Self {
        let like = ends.reply(kind);
        let quoted = ends.request(ends.transport(ACK)).with(look.1);
        let sent = ends
            .sent(&quoted)
            .with(|f| f.time_to_live = quoted.time_to_live);
        let input = like.with(|f| {
            f.source = from;
            f.destination = ends.seen;
            f.payload = quote(&sent, look.2);
        });
        let output = ends.restored(&input).with(|f| {
            // The flow hides what is behind it, routers too.
            f.source = if ends.vip.0 == ends.target.0 {
                from
            } else {
                ends.vip
            };
            f.payload = requoted(&input, &quoted, look.2);
        });
        Self {
            hook: ends.reply_hook(),
            input,
            verdict: ends.verdict(),
            output,
        }
    }

    fn about_reply(ends: &Ends, kind: Transport, look: &Look) -> Self {
        let quoted = ends.reply(ends.transport(ACK)).with(look.1);
        let restored = ends
            .restored(&quoted)
            .with(|f| f.time_to_live = quoted.time_to_live);
        let from = (ends.net.router, 0);
        let input = ends.request(kind).with(|f| {
            f.source = from;
            f.payload = quote(&restored, look.2);
        });
        let output = ends.sent(&input).with(|f| {
            f.source = match ends.mode {
                Mode::SourceNat => ends.seen,
                _ => from,
            };
            f.payload = requoted(&input, &quoted, look.2);
        });
        Self {
            hook: Hook::Eth0,
            input,
            verdict: ends.verdict(),
            output,
        }
    }

    fn check(&self, lab: &mut Lab, what: String) {
        let (input, output) = (&self.input, &self.output);
        let counts = Counts::none();
        lab.check(&rewritten(
            what,
            self.hook,
            input,
            self.verdict,
            output,
            counts,
        ));
    }
}

/// Where errors about requests come from.
fn reporter(ends: &Ends) -> End {
    match ends.mode {
        // The host itself, which has no listener at that port.
        Mode::Local => (ends.net.host, 0),
        _ => (ends.net.router, 0),
    }
}

#[test]
fn errors_reach_the_flows_other_side() {
    let mut lab = Lab::new();
    let mut cases = 0;
    for ends in Ends::all(0) {
        ends.open(&mut lab);
        for (name, kind) in kinds(ends.net) {
            for look in &LOOKS {
                let what = format!("{name}, {}, {}", look.0, ends.what());
                let from = reporter(&ends);
                let errors = Errors::about_request(&ends, kind, look, from);
                errors.check(&mut lab, format!("{what}, request"));
                let errors = Errors::about_reply(&ends, kind, look);
                errors.check(&mut lab, format!("{what}, reply"));
                cases += 2;
            }
        }
    }
    println!("{cases} cases");
}

/// The target's own message would give its address away.
#[test]
fn a_targets_own_address_is_hidden() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| ends.mode == Mode::SourceNat) {
        ends.open(&mut lab);
        for (name, kind) in kinds(ends.net) {
            let from = (ends.target.0, 0);
            let errors = Errors::about_request(&ends, kind, &LOOKS[0], from);
            errors.check(&mut lab, format!("{name}, {}", ends.what()));
        }
    }
}

/// UDP's checksum of 0 is none, in a quote too.
#[test]
fn a_quote_without_checksum_stays_so() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| ends.udp) {
        ends.open(&mut lab);
        let look: Look = ("unchecked", |f| f.transport = Transport::UdpUnchecked, 200);
        for (name, kind) in kinds(ends.net) {
            let from = reporter(&ends);
            let errors = Errors::about_request(&ends, kind, &look, from);
            errors.check(&mut lab, format!("{name}, {}", ends.what()));
            let errors = Errors::about_reply(&ends, kind, &look);
            errors.check(&mut lab, format!("{name}, {}", ends.what()));
        }
    }
}

/// A half-open flow's errors find it as well, and a frame's tags and padding
/// don't matter.
#[test]
fn about_the_packet_that_begins_a_flow() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| ends.mode != Mode::Local) {
        ends.claim(&mut lab);
        let first = ends.request(ends.transport(super::builder::SYN));
        lab.run(Hook::Eth0, &first.bytes());
        let kind = kinds(ends.net)[0].1;
        let mut errors = Errors::about_request(&ends, kind, &LOOKS[0], reporter(&ends));
        let tags = vec![(0x8100, 0xA00A)];
        for frame in [&mut errors.input, &mut errors.output] {
            frame.tags.clone_from(&tags);
            frame.padding = 5;
        }
        errors.output.macs = errors.input.macs;
        errors.verdict = Verdict::Handoff(lab.eth0, 1);
        errors.check(&mut lab, ends.what());
    }
}

#[test]
fn what_is_of_no_flow_is_untouched() {
    let mut lab = Lab::new();
    for ends in Ends::all(0) {
        ends.open(&mut lab);
        let kind = kinds(ends.net)[0].1;
        let about = |change: &dyn Fn(&mut Frame)| {
            let quoted = ends.sent(&ends.request(ends.transport(ACK))).with(change);
            Errors::about_request(&ends, kind, &LOOKS[0], reporter(&ends))
                .input
                .with(|f| f.payload = quote(&quoted, 8))
        };
        let kind_of =
            |kind| about(&|_| {}).with(|f| f.transport = Transport::Icmp(kind, 0, [0; 4]));
        let other = if ends.udp {
            Transport::Tcp(ACK)
        } else {
            Transport::Udp
        };
        let cases = [
            ("another client's port", about(&|f| f.source.1 ^= 1)),
            ("another target's port", about(&|f| f.destination.1 ^= 1)),
            (
                "another target",
                about(&|f| f.destination.0 = ends.net.router),
            ),
            ("the other protocol", about(&|f| f.transport = other)),
            (
                "neither TCP nor UDP",
                about(&|f| f.transport = Transport::Other(132)),
            ),
            ("a later fragment", about(&|f| *f = f.split(8)[1].clone())),
            (
                "a quote of somebody else",
                about(&|f| f.source.0 = ends.net.router),
            ),
            (
                "to somebody else",
                about(&|_| {}).with(|f| f.destination.0 = ends.net.address(1, 77)),
            ),
            ("a redirect", kind_of(if ends.net.v6() { 137 } else { 5 })),
            ("a type that nobody knows", kind_of(99)),
        ];
        for (what, frame) in cases {
            let hook = ends.reply_hook();
            let counts = match hook {
                Hook::Egress => Counts::none(),
                _ => Counts::reason(DropReason::NotOurs),
            };
            let what = format!("{what}, {}", ends.what());
            lab.check(&untouched(what, hook, frame.bytes(), Verdict::Pass, counts));
        }
    }
}

/// With less than eight bytes of the transport header there are no ports that
/// can be trusted.
#[test]
fn truncated_quotes_are_untouched() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| ends.mode == Mode::SourceNat) {
        ends.open(&mut lab);
        let kind = kinds(ends.net)[0].1;
        let whole = Errors::about_request(&ends, kind, &LOOKS[5], reporter(&ends)).input;
        let needed = whole.payload.len() - 20;
        for length in 0..needed {
            let cut = whole.clone().with(|f| {
                f.payload.truncate(length);
                // What an Ethernet frame is padded with is no quote.
                f.padding = 40;
            });
            let what = format!("{length} bytes, {}", ends.what());
            let counts = Counts::reason(DropReason::NotOurs);
            let bytes = cut.bytes();
            lab.check(&untouched(what, Hook::Eth1, bytes, Verdict::Pass, counts));
        }
    }
}
