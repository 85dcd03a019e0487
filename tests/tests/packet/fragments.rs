//! Fragments: the first finds or begins the flow, the later ones follow it.

use lb_common::{
    counters::DropReason,
    limits::{FRAGMENT_SECONDS, NO_TARGET},
    listener::VipEntry,
};
use lb_user::reconcile::Change;

use xlb_tests::clock;

use super::{
    builder::{ACK, DESTINATION_OPTIONS, Frame, HOP_BY_HOP, SYN, Transport, options, transport},
    ends::{Ends, Mode},
    lab::{Hook, Lab, TABLE_SIZE, Verdict},
    net::{NETS, V6},
    step::{Counts, untouched},
};

/// Large enough to be split.
fn long(frame: Frame) -> Frame {
    frame.with(|f| f.payload = (0..90).collect())
}

fn request(ends: &Ends, flags: u8) -> Frame {
    long(ends.request(ends.transport(flags)))
}

#[test]
fn later_fragments_go_where_the_first_went() {
    let mut lab = Lab::new();
    for ends in Ends::all(0) {
        ends.claim(&mut lab);
        let first_id = 1 + ends.id;
        // Of the datagram that begins the flow, and of the next one.
        for (n, flags) in [(0, SYN), (100, ACK)] {
            let whole = request(&ends, flags).with(|f| f.identification = n + first_id);
            let [first, last] = whole.split(40);
            let [_, middle] = whole.split(48);
            let counts = if n == 0 {
                Counts::new_flow(ends.ids(), &first)
            } else {
                Counts::forward(ends.ids(), &first)
            };
            lab.check(&ends.step_forward(&first, counts));
            for later in [last, middle] {
                let counts = Counts::forward(ends.ids(), &later);
                lab.check(&ends.step_forward(&later, counts));
            }
        }
        let whole = long(ends.reply(ends.transport(ACK)));
        for piece in whole.with(|f| f.identification = 7).split(40) {
            lab.check(&ends.step_back(&piece));
        }
    }
}

/// A later fragment isn't told apart from one whose first hasn't come.
#[test]
fn one_whose_first_is_not_known() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| ends.mode == Mode::SourceNat) {
        let id = 100 + ends.id;
        let whole = request(&ends, SYN).with(|f| f.identification = id);
        let [first, last] = whole.split(40);
        let transport = transport(!ends.udp, SYN);
        let [_, other_protocol] = whole.clone().with(|f| f.transport = transport).split(40);
        let mut strangers = vec![
            ("before", last.clone()),
            (
                "another id",
                last.clone().with(|f| f.identification = id + 50),
            ),
            (
                "another source",
                last.clone().with(|f| f.source.0 = ends.net.router),
            ),
        ];
        // IPv6's identification is the datagram's whatever follows the header.
        if !ends.net.v6() {
            strangers.push(("another protocol", other_protocol));
        }
        for (turn, (what, stranger)) in strangers.into_iter().enumerate() {
            for (flags, reason, verdict) in [
                (VipEntry::OWNED, DropReason::FragmentOrder, Verdict::Drop),
                (0, DropReason::Fragment, Verdict::Pass),
            ] {
                lab.apply(Change::SetVip(ends.vip.0, VipEntry { flags }));
                let what = format!("{what}, {}", ends.what());
                let counts = Counts::reason(reason);
                let bytes = stranger.bytes();
                lab.check(&untouched(what, Hook::Eth0, bytes, verdict, counts));
            }
            if turn == 0 {
                ends.claim(&mut lab);
                let counts = Counts::new_flow(ends.ids(), &first);
                lab.check(&ends.step_forward(&first, counts));
            }
        }
        let counts = Counts::forward(ends.ids(), &last);
        lab.check(&ends.step_forward(&last, counts));
    }
}

/// What a first fragment has left is void when the rest must have come.
#[test]
fn one_whose_first_came_long_ago() {
    let mut lab = Lab::new();
    let all = || Ends::all(0).filter(|ends| ends.mode == Mode::SourceNat);
    let pieces = |ends: &Ends| {
        let whole = request(ends, SYN).with(|f| f.identification = 200 + ends.id);
        whole.split(40)
    };
    for ends in all() {
        ends.claim(&mut lab);
        let [first, last] = pieces(&ends);
        let counts = Counts::new_flow(ends.ids(), &first);
        lab.check(&ends.step_forward(&first, counts));
        let counts = Counts::forward(ends.ids(), &last);
        lab.check(&ends.step_forward(&last, counts));
    }
    clock::ticks(u64::from(FRAGMENT_SECONDS) + 1);
    for ends in all() {
        let [_, last] = pieces(&ends);
        let counts = Counts::reason(DropReason::Fragment);
        let (what, bytes) = (ends.what(), last.bytes());
        lab.check(&untouched(what, Hook::Eth0, bytes, Verdict::Pass, counts));
    }
}

/// A datagram of nobody's has the identification of a flow's before it.
#[test]
fn an_identification_that_is_used_again() {
    let mut lab = Lab::new();
    for net in NETS {
        let ends = Ends::new(net, Mode::SourceNat, true, 0);
        let ours = long(ends.request(Transport::Udp));
        for piece in ours.split(40) {
            let (verdict, _) = lab.run(Hook::Eth0, &piece.bytes());
            assert_eq!(verdict, Verdict::Redirect);
        }
        let other = long(ends.request(Transport::Udp)).with(|f| f.destination.1 = 54);
        let reasons = [DropReason::NotOurs, DropReason::Fragment];
        for (piece, reason) in other.split(40).into_iter().zip(reasons) {
            let counts = Counts::reason(reason);
            let (hook, bytes) = (Hook::Eth0, piece.bytes());
            lab.check(&untouched(net.name, hook, bytes, Verdict::Pass, counts));
        }
    }
}

/// At an address that only xlb has: what follows a first fragment that was
/// passed is passed, and what follows one that was dropped is dropped.
#[test]
fn one_whose_first_was_not_ours() {
    type Edit = fn(&mut Frame);
    let cases: [(&str, Edit, usize, DropReason); 4] = [
        (
            "no listener",
            |f| f.destination.1 += 1,
            40,
            DropReason::NotOurs,
        ),
        (
            "to another host",
            |f| f.macs.1[5] = 9,
            40,
            DropReason::NotOurs,
        ),
        (
            "neither TCP nor UDP",
            |f| f.transport = Transport::Other(132),
            40,
            DropReason::OtherProtocol,
        ),
        ("half a header", |_| {}, 16, DropReason::BadTcpHeader),
    ];
    let mut lab = Lab::new();
    for net in NETS {
        let ends = Ends::new(net, Mode::SourceNat, false, 0);
        let flags = VipEntry::OWNED;
        lab.apply(Change::SetVip(ends.vip.0, VipEntry { flags }));
        let mut check = |what, piece: &Frame, verdict, reason| {
            let what = format!("{what}, {}", net.name);
            let (hook, counts) = (Hook::Eth0, Counts::reason(reason));
            lab.check(&untouched(what, hook, piece.bytes(), verdict, counts));
        };
        for (n, (what, edit, at, reason)) in (300..).zip(cases) {
            let whole = request(&ends, SYN)
                .with(|f| f.identification = n)
                .with(edit);
            let [first, last] = whole.split(at);
            check(what, &first, Verdict::Pass, reason);
            check(what, &last, Verdict::Pass, DropReason::Fragment);
        }
    }
    for net in NETS {
        let ends = Ends::new(net, Mode::SourceNat, false, 0);
        lab.slots(ends.id, vec![NO_TARGET; TABLE_SIZE as usize]);
        // The identification of one that was passed.
        let whole = request(&ends, SYN).with(|f| f.identification = 300);
        let reasons = [DropReason::NoTarget, DropReason::FragmentOrder];
        for (piece, reason) in whole.split(40).into_iter().zip(reasons) {
            let (hook, bytes) = (Hook::Eth0, piece.bytes());
            let counts = Counts::reason(reason);
            lab.check(&untouched(net.name, hook, bytes, Verdict::Drop, counts));
        }
    }
}

/// What goes out is the host's own or forwarded, wherever it goes to.
#[test]
fn a_later_fragment_that_goes_out_to_an_address_of_xlbs_own() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| ends.mode == Mode::SourceNat) {
        let flags = VipEntry::OWNED;
        lab.apply(Change::SetVip(ends.vip.0, VipEntry { flags }));
        let [_, last] = request(&ends, SYN).split(40);
        let (hook, bytes) = (Hook::Egress, last.bytes());
        let counts = Counts::none();
        lab.check(&untouched(ends.what(), hook, bytes, Verdict::Pass, counts));
    }
}

#[test]
fn a_later_fragment_of_the_hosts_own_is_left_alone() {
    let mut lab = Lab::new();
    for net in NETS {
        let ends = Ends::new(net, Mode::Local, true, 0);
        let other = long(ends.request(Transport::Udp)).with(|f| f.destination.1 = 54);
        for (piece, reason) in other
            .split(40)
            .into_iter()
            .zip([DropReason::NotOurs, DropReason::Fragment])
        {
            let counts = Counts::reason(reason);
            let (hook, bytes) = (Hook::Eth0, piece.bytes());
            lab.check(&untouched("in", hook, bytes, Verdict::Pass, counts));
        }
        for piece in long(ends.reply(Transport::Udp)).split(40) {
            let (hook, bytes) = (Hook::Egress, piece.bytes());
            let counts = Counts::none();
            lab.check(&untouched("out", hook, bytes, Verdict::Pass, counts));
        }
    }
}

/// A first fragment must hold the whole transport header.
#[test]
fn a_first_fragment_without_a_whole_header() {
    let mut lab = Lab::new();
    for net in NETS {
        let tcp = Ends::new(net, Mode::Local, false, 0);
        let [first, _] = request(&tcp, SYN).split(16);
        let counts = Counts::reason(DropReason::BadTcpHeader);
        let (hook, bytes) = (Hook::Eth0, first.bytes());
        lab.check(&untouched(net.name, hook, bytes, Verdict::Pass, counts));
        let udp = Ends::new(net, Mode::Local, true, 0);
        let [first, _] = request(&udp, SYN).split(8);
        let counts = Counts::new_flow(udp.ids(), &first);
        lab.check(&udp.step_forward(&first, counts));
    }
}

/// Behind extension headers, which each fragment repeats.
#[test]
fn fragments_behind_extension_headers() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| ends.net == V6) {
        ends.claim(&mut lab);
        let whole = request(&ends, SYN).with(|f| {
            f.identification = 0xFEDC_BA98;
            f.extensions = vec![options(HOP_BY_HOP, 1), options(DESTINATION_OPTIONS, 2)];
        });
        let [first, last] = whole.split(40);
        let counts = Counts::new_flow(ends.ids(), &first);
        lab.check(&ends.step_forward(&first, counts));
        let counts = Counts::forward(ends.ids(), &last);
        lab.check(&ends.step_forward(&last, counts));
        // Only half of the id is the same.
        let other = last.with(|f| f.identification = 0xBA98);
        let counts = Counts::reason(DropReason::Fragment);
        let (hook, verdict) = (Hook::Eth0, Verdict::Pass);
        lab.check(&untouched("id", hook, other.bytes(), verdict, counts));
    }
}

/// Extension headers behind the fragment header are the first fragment's alone:
/// the others name the first of them, or whatever they like (RFC 8200, section
/// 4.5).
#[test]
fn fragments_in_front_of_extension_headers() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| ends.net == V6) {
        for (n, (what, chain)) in (0..).zip([
            ("one", vec![options(DESTINATION_OPTIONS, 2)]),
            ("two", vec![options(DESTINATION_OPTIONS, 1); 2]),
        ]) {
            ends.claim(&mut lab);
            let flags = if n == 0 { SYN } else { ACK };
            let whole = request(&ends, flags).with(|f| {
                f.identification = 700 + 10 * n + ends.id;
                f.inner_extensions = chain;
            });
            let [first, last] = whole.split(56);
            let counts = match n {
                0 => Counts::new_flow(ends.ids(), &first),
                _ => Counts::forward(ends.ids(), &first),
            };
            lab.check(&ends.step_forward(&first, counts));
            let mut later = vec![("the same", last.clone())];
            for (what, transport) in [
                ("another transport protocol", transport(!ends.udp, SYN)),
                ("ICMP", Transport::Icmp(128, 0, [0; 4])),
                ("what has no ports", Transport::Other(132)),
            ] {
                // Of a later fragment only what it says of the next header.
                let other = last.clone().with(|f| {
                    let bytes = f.packet()[48..].to_vec();
                    let (range, _) = f.piece.clone().unwrap();
                    f.inner_extensions.clear();
                    f.transport = Transport::Other(transport.number(true));
                    f.payload = vec![0; range.start];
                    f.payload.extend(bytes);
                });
                later.push((what, other));
            }
            for (next, later) in later {
                let counts = Counts::forward(ends.ids(), &later);
                let mut step = ends.step_forward(&later, counts);
                step.what = format!("{what}, {next}, {}", ends.what());
                lab.check(&step);
            }
        }
        let whole = long(ends.reply(ends.transport(ACK))).with(|f| {
            f.identification = 9;
            f.inner_extensions = vec![options(DESTINATION_OPTIONS, 1)];
        });
        for piece in whole.split(48) {
            lab.check(&ends.step_back(&piece));
        }
    }
}

/// Echo in fragments isn't ours, wherever its extension headers stand.
#[test]
fn echo_in_fragments_is_passed() {
    let mut lab = Lab::new();
    for net in NETS {
        let ends = Ends::new(net, Mode::SourceNat, false, 0);
        let flags = VipEntry::OWNED;
        lab.apply(Change::SetVip(ends.vip.0, VipEntry { flags }));
        let kind = if net.v6() { 128 } else { 8 };
        let echo = long(ends.request(Transport::Icmp(kind, 0, [0, 1, 0, 1])));
        for chain in [vec![], vec![options(DESTINATION_OPTIONS, 1)]] {
            for piece in echo.clone().with(|f| f.inner_extensions = chain).split(40) {
                let (hook, bytes) = (Hook::Eth0, piece.bytes());
                let counts = Counts::reason(DropReason::Fragment);
                lab.check(&untouched(net.name, hook, bytes, Verdict::Pass, counts));
            }
        }
    }
}
