//! IPv6 extension headers, and IPv6 headers that lie.

use lb_common::counters::DropReason;

use super::{
    builder::{
        ACK, DESTINATION_OPTIONS, FRAGMENT, Frame, HOP_BY_HOP, ROUTING, SYN, Transport,
        fragment_header, options,
    },
    ends::{Ends, Mode},
    lab::{Hook, Lab, Verdict},
    net::V6,
    step::{Counts, rewritten, untouched},
};

type Extensions = Vec<(u8, Vec<u8>)>;

fn atomic() -> (u8, Vec<u8>) {
    (FRAGMENT, fragment_header(0, 0xABCD_EF01))
}

fn routing() -> (u8, Vec<u8>) {
    let mut header = vec![0; 24];
    (header[1], header[2], header[3]) = (2, 4, 0);
    header[8..].fill(0xFD);
    (ROUTING, header)
}

/// The chains that are walked, up to six headers and 256 bytes.
fn known() -> Vec<(&'static str, Extensions)> {
    vec![
        ("hop by hop", vec![options(HOP_BY_HOP, 1)]),
        (
            "router alert",
            vec![(HOP_BY_HOP, vec![0, 0, 5, 2, 0, 0, 1, 0])],
        ),
        ("routing", vec![routing()]),
        ("destination options", vec![options(DESTINATION_OPTIONS, 3)]),
        ("an atomic fragment", vec![atomic()]),
        (
            "one of each",
            vec![
                options(HOP_BY_HOP, 1),
                options(DESTINATION_OPTIONS, 2),
                routing(),
                atomic(),
                options(DESTINATION_OPTIONS, 1),
            ],
        ),
        ("six", vec![options(DESTINATION_OPTIONS, 1); 6]),
        ("256 bytes", vec![options(DESTINATION_OPTIONS, 32)]),
        (
            "256 bytes in all",
            vec![options(DESTINATION_OPTIONS, 16); 2],
        ),
    ]
}

#[test]
fn known_chains_stay_and_what_follows_is_balanced() {
    let mut lab = Lab::new();
    for (n, (what, extensions)) in (0..).zip(known()) {
        for ends in Ends::all(n).filter(|ends| ends.net == V6) {
            ends.open(&mut lab);
            let what = format!("{what}, {}", ends.what());
            let transport = ends.transport(ACK);
            let with = |frame: Frame| frame.with(|f| f.extensions.clone_from(&extensions));
            let mut check = |hook, input: &Frame, output: &Frame, counts| {
                let verdict = ends.verdict();
                lab.check(&rewritten(&what, hook, input, verdict, output, counts));
            };
            let request = with(ends.request(transport));
            let counts = Counts::forward(ends.ids(), &request);
            check(Hook::Eth0, &request, &ends.sent(&request), counts);
            let reply = with(ends.reply(transport));
            let counts = Counts::reply(ends.ids(), &reply);
            check(ends.reply_hook(), &reply, &ends.restored(&reply), counts);
        }
    }
}

fn syn(extensions: Extensions) -> Frame {
    let ends = Ends::new(V6, Mode::Local, false, 0);
    let frame = ends.request(Transport::Tcp(SYN));
    frame.with(|f| f.extensions = extensions)
}

/// As `syn`, with another protocol behind the chain.
fn protocol(number: u8, extensions: Extensions) -> Vec<u8> {
    let frame = syn(extensions).with(|f| {
        f.payload = f.packet()[40..].to_vec();
        f.transport = Transport::Other(number);
    });
    frame.bytes()
}

#[test]
fn what_is_not_known_is_passed() {
    use DropReason as R;
    let one = || vec![options(HOP_BY_HOP, 1)];
    let many = |count| vec![options(DESTINATION_OPTIONS, 1); count];
    let long = |units| vec![options(DESTINATION_OPTIONS, units)];
    let mut cases: Vec<(String, Vec<u8>, R)> = Vec::new();
    for number in [51, 135, 139, 140] {
        for chain in [vec![], one()] {
            let bytes = protocol(number, chain);
            cases.push((format!("header {number}"), bytes, R::ExtensionHeaders));
        }
    }
    for number in [1, 4, 41, 47, 50, 59, 89, 132, 253] {
        for chain in [vec![], one()] {
            let bytes = protocol(number, chain);
            cases.push((format!("protocol {number}"), bytes, R::OtherProtocol));
        }
    }
    let over = [
        ("seven", many(7)),
        ("264 bytes", long(33)),
        ("264 bytes in all", [long(32), many(1)].concat()),
        ("2,048 bytes", long(255)),
    ];
    // Its destination isn't the last one.
    for segments_left in [1, 255] {
        let (kind, mut header) = routing();
        header[3] = segments_left;
        let bytes = syn(vec![(kind, header)]).bytes();
        let what = format!("{segments_left} segments left");
        cases.push((what, bytes, R::ExtensionHeaders));
    }
    for (what, chain) in over {
        cases.push((what.into(), syn(chain).bytes(), R::ExtensionHeaders));
    }
    all_untouched(&cases);
}

/// Of the header that begins with byte 14 of the frame.
fn changed(frame: &Frame, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = frame.bytes();
    for &(at, value) in changes {
        bytes[14 + at] = value;
    }
    bytes
}

#[test]
fn lengths_that_lie() {
    use DropReason as R;
    let plain = syn(vec![]);
    let real = plain.ip_length() as u8 - 40;
    let chain = syn(vec![options(DESTINATION_OPTIONS, 1)]);
    let udp = Ends::new(V6, Mode::Local, true, 0).request(Transport::Udp);
    let mut cases: Vec<(String, Vec<u8>, R)> = Vec::new();
    let mut case = |what: &str, bytes, reason| cases.push((what.into(), bytes, reason));
    for version in (0..16u8).filter(|version| *version != 6) {
        let bytes = changed(&plain, &[(0, version << 4)]);
        case(&format!("version {version}"), bytes, R::BadIpHeader);
    }
    let longer = [(4, 0), (5, real + 1)];
    case("too long", changed(&plain, &longer), R::BadTotalLength);
    let longest = [(4, 255), (5, 255)];
    case("65,535", changed(&plain, &longest), R::BadTotalLength);
    let payload = |length| [(4, 0), (5, length)];
    case("nothing", changed(&plain, &payload(0)), R::BadTcpHeader);
    case("19 bytes", changed(&plain, &payload(19)), R::BadTcpHeader);
    // A jumbogram's is 0.
    case(
        "no extension",
        changed(&chain, &payload(0)),
        R::BadTotalLength,
    );
    let half = changed(&chain, &payload(7));
    case("half an extension", half, R::BadTotalLength);
    let beyond = changed(&chain, &[(41, 20)]);
    case("an extension beyond the end", beyond, R::BadTotalLength);
    for offset in 0..5 {
        let bytes = changed(&plain, &[(52, offset << 4)]);
        case(&format!("data offset {offset}"), bytes, R::BadTcpHeader);
    }
    let beyond = changed(&plain, &[(52, 0xF0)]);
    case("data offset beyond the end", beyond, R::BadTcpHeader);
    case(
        "7 bytes of UDP",
        changed(&udp, &payload(7)),
        R::BadUdpLength,
    );
    for length in [0, 7, 16, 255] {
        let bytes = changed(&udp, &[(44, 0), (45, length)]);
        case(&format!("UDP length {length}"), bytes, R::BadUdpLength);
    }
    all_untouched(&cases);
}

/// Each prefix of a frame, whose payload length tells the truth.
#[test]
fn truncated_at_every_length() {
    let chain = vec![
        options(HOP_BY_HOP, 1),
        routing(),
        atomic(),
        options(DESTINATION_OPTIONS, 2),
    ];
    let frame = syn(chain.clone()).bytes();
    // Where each header begins, and the bytes of it that are looked at.
    let mut begins = vec![(40, 2)];
    for (kind, header) in &chain {
        let last = begins.last_mut().unwrap();
        last.1 = if *kind == FRAGMENT { 8 } else { 2 };
        let next = last.0 + header.len();
        begins.push((next, 2));
    }
    let tcp = begins.pop().unwrap().0;
    let mut cases = Vec::new();
    for length in 0..tcp + 20 {
        let mut bytes = frame[..14 + length].to_vec();
        if length >= 40 {
            let payload = (length as u16 - 40).to_be_bytes();
            bytes[18..20].copy_from_slice(&payload);
        }
        let cut = begins.iter().any(|(at, looked)| length < at + looked);
        let reason = if cut || length < 40 {
            DropReason::Truncated
        } else if length < tcp {
            DropReason::BadTotalLength
        } else {
            DropReason::BadTcpHeader
        };
        cases.push((format!("{length} bytes"), bytes, reason));
        if length >= 40 {
            let bytes = frame[..14 + length].to_vec();
            let what = format!("{length} bytes, more said");
            cases.push((what, bytes, DropReason::BadTotalLength));
        }
    }
    all_untouched(&cases);
}

fn all_untouched(cases: &[(String, Vec<u8>, DropReason)]) {
    let mut lab = Lab::new();
    for (what, bytes, reason) in cases {
        let bytes = || bytes.clone();
        let counts = Counts::reason(*reason);
        let verdict = Verdict::Pass;
        lab.check(&untouched(what, Hook::Eth0, bytes(), verdict, counts));
        // The kernel takes no skb without a whole IP header for a test run.
        if bytes().len() >= 54 {
            let counts = Counts::none();
            lab.check(&untouched(what, Hook::Egress, bytes(), verdict, counts));
        }
    }
    println!("{} cases", cases.len());
}
