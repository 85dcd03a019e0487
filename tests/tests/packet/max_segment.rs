//! The clamp of a SYN's maximum segment size.

use super::{
    builder::{ACK, Frame, SYN},
    ends::{Ends, Mode},
    lab::{Hook, Lab},
    step::{Counts, rewritten},
};

const LIMIT: u16 = 1_360;

/// The option, with this size.
fn size(bytes: u16) -> [u8; 4] {
    let [high, low] = bytes.to_be_bytes();
    [2, 4, high, low]
}

/// Options of a SYN, and what becomes of them.
fn cases() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let (offer, clamped) = (size(1_460), size(LIMIT));
    let around = |before: &[u8], option: [u8; 4], after: &[u8]| {
        let mut options = before.to_vec();
        options.extend(option);
        options.extend(after);
        options
    };
    let lowered = |what, before: &[u8], after: &[u8]| {
        let (from, to) = (offer, clamped);
        (what, around(before, from, after), around(before, to, after))
    };
    let stays = |what, options: Vec<u8>| (what, options.clone(), options);
    let linux = [4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7];
    let changed = |what, from, to| (what, size(from).to_vec(), size(to).to_vec());
    vec![
        lowered("alone", &[], &[]),
        lowered("as Linux sends it", &[], &linux),
        lowered("last", &linux, &[]),
        lowered("at an odd place", &[1], &[1, 1, 1]),
        lowered("at another odd place", &[3, 3, 7], &[0]),
        lowered("behind two", &[1, 1], &[1, 1]),
        lowered("the eighth", &[1; 7], &[0]),
        changed("one more than the limit", LIMIT + 1, LIMIT),
        changed("the largest", 65_535, LIMIT),
        stays("the limit", size(LIMIT).to_vec()),
        stays("less", size(536).to_vec()),
        stays("0", size(0).to_vec()),
        stays("no options", vec![]),
        stays("none of size", linux.to_vec()),
        stays("behind the end", around(&[0, 1, 1, 1], offer, &[])),
        stays("in another option", around(&[8, 8, 1, 1], offer, &[])),
        stays("too far behind", around(&[1; 8], offer, &[])),
        stays(
            "of another length",
            vec![2, 3, 0xFF, 1, 2, 6, 0xFF, 0xFF, 0, 0, 0, 0],
        ),
        stays("a length of 0", around(&[9, 0, 1, 1], offer, &[])),
        stays("a length of 1", around(&[9, 1, 1, 1], offer, &[])),
        stays(
            "a length beyond the end",
            around(&[9, 40, 1, 1], offer, &[]),
        ),
        stays("cut off", vec![1, 1, 2, 4]),
    ]
}

#[test]
fn a_syns_offer_is_lowered_where_it_is_too_large() {
    let mut lab = Lab::new();
    for (n, (what, from, to)) in (0..).zip(cases()) {
        for ends in Ends::all(n).filter(|ends| !ends.udp) {
            lab.target(ends.id, |t| {
                t.max_segment = LIMIT;
                if ends.mode == Mode::SourceNat {
                    (t.first_source_port, t.last_source_port) = (ends.seen.1, ends.seen.1);
                }
            });
            let what = format!("{what}, {}", ends.what());
            let offering =
                |frame: Frame, options: &[u8]| frame.with(|f| f.tcp_options = options.to_vec());
            let mut check = |hook, input: &Frame, output: &Frame, counts| {
                let verdict = ends.verdict();
                lab.check(&rewritten(&what, hook, input, verdict, output, counts));
            };
            let request = |flags| ends.request(ends.transport(flags));
            let input = offering(request(SYN), &from);
            let output = offering(ends.sent(&request(SYN)), &to);
            check(
                Hook::Eth0,
                &input,
                &output,
                Counts::new_flow(ends.ids(), &input),
            );
            // Sent again it changes nothing about the flow, and is clamped still.
            check(
                Hook::Eth0,
                &input,
                &output,
                Counts::forward(ends.ids(), &input),
            );

            let reply = ends.reply(ends.transport(SYN | ACK));
            let input = offering(reply.clone(), &from);
            let output = offering(ends.restored(&reply), &to);
            for _ in 0..2 {
                let counts = Counts::reply(ends.ids(), &input);
                check(ends.reply_hook(), &input, &output, counts);
            }

            // It means nothing in any other segment.
            let input = offering(request(ACK), &from);
            let counts = Counts::forward(ends.ids(), &input);
            check(Hook::Eth0, &input, &ends.sent(&input), counts);
        }
    }
}

#[test]
fn without_a_limit_offers_stay() {
    let mut lab = Lab::new();
    for ends in Ends::all(0).filter(|ends| !ends.udp) {
        ends.claim(&mut lab);
        let offer = size(65_535).to_vec();
        let input = ends.request(ends.transport(SYN));
        let input = input.with(|f| f.tcp_options = offer);
        let counts = Counts::new_flow(ends.ids(), &input);
        let (hook, verdict, output) = (Hook::Eth0, ends.verdict(), ends.sent(&input));
        let what = ends.what();
        lab.check(&rewritten(what, hook, &input, verdict, &output, counts));
    }
}

/// In front of an outer header too.
#[test]
fn a_tunnels_syn() {
    use super::{lab::Verdict, tunnel::Tunnel};
    let mut lab = Lab::new();
    for tunnel in Tunnel::all().into_iter().filter(|tunnel| !tunnel.udp) {
        tunnel.set(&mut lab, |t| t.max_segment = LIMIT);
        let n = 10 * tunnel.encapsulation as u16 + u16::from(tunnel.outer.v6());
        let offering = |bytes: u16| {
            let options = [&[1], &size(bytes)[..], &[1, 1, 1]].concat();
            tunnel.request(n, SYN).with(|f| f.tcp_options = options)
        };
        let (input, clamped) = (offering(1_460), offering(LIMIT));
        let (first, again) = (Counts::new_flow, Counts::forward);
        for counts in [first(tunnel.ids(), &input), again(tunnel.ids(), &input)] {
            lab.check_by(Hook::Eth0, &input.bytes(), |out| {
                let output = tunnel.sent(&clamped, &tunnel.varying(out, 0));
                let (hook, verdict) = (Hook::Eth0, Verdict::Redirect);
                rewritten(tunnel.what(), hook, &input, verdict, &output, counts)
            });
        }
    }
}
