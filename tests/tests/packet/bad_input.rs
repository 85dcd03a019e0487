//! Headers that lie or are cut short: passed untouched, with their reason.

use lb_common::counters::DropReason;

use super::{
    builder::{DESTINATION_OPTIONS, Frame, SYN, Transport, checksum, options},
    lab::{CLIENT, HOST, Hook, Lab, Verdict},
    net::{NETS, Net},
    step::{Counts, untouched},
};

fn good(transport: Transport) -> Frame {
    let port = if transport == Transport::Udp { 53 } else { 80 };
    Frame::new(transport, (CLIENT, 4000), (HOST, port))
}

fn changed(transport: Transport, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = good(transport).bytes();
    for &(at, value) in changes {
        bytes[at] = value;
    }
    bytes
}

#[test]
fn lengths_that_lie() {
    use DropReason as R;
    const TCP: Transport = Transport::Tcp(SYN);
    const UDP: Transport = Transport::Udp;
    // The IP header begins at 14, TCP's and UDP's at 34.
    let mut cases: Vec<(String, Vec<u8>, R)> = Vec::new();
    let mut case = |what: &str, transport, changes: &[(usize, u8)], reason| {
        cases.push((
            format!("{what}, {transport:?}"),
            changed(transport, changes),
            reason,
        ));
    };
    for transport in [TCP, UDP] {
        for ihl in 0..5 {
            case(
                &format!("ihl {ihl}"),
                transport,
                &[(14, 0x40 | ihl)],
                R::BadIpHeader,
            );
        }
        for version in [0, 5, 6, 15] {
            case(
                &format!("version {version}"),
                transport,
                &[(14, version << 4 | 5)],
                R::BadIpHeader,
            );
        }
        case(
            "ihl beyond the packet",
            transport,
            &[(14, 0x4F)],
            R::BadTotalLength,
        );
        case(
            "total length 0",
            transport,
            &[(16, 0), (17, 0)],
            R::BadTotalLength,
        );
        case(
            "total length 19",
            transport,
            &[(16, 0), (17, 19)],
            R::BadTotalLength,
        );
        case(
            "total length 65535",
            transport,
            &[(16, 255), (17, 255)],
            R::BadTotalLength,
        );
        let real = good(transport).ip_length() as u8;
        case(
            "one byte too long",
            transport,
            &[(17, real + 1)],
            R::BadTotalLength,
        );
    }
    case("no room for a header", TCP, &[(17, 20)], R::BadTcpHeader);
    case("19 bytes of header", TCP, &[(17, 39)], R::BadTcpHeader);
    for offset in 0..5 {
        case(
            &format!("data offset {offset}"),
            TCP,
            &[(46, offset << 4)],
            R::BadTcpHeader,
        );
    }
    case(
        "data offset beyond the end",
        TCP,
        &[(46, 0xF0)],
        R::BadTcpHeader,
    );
    case("no room for a header", UDP, &[(17, 27)], R::BadUdpLength);
    for length in [0, 7] {
        case(
            &format!("length {length}"),
            UDP,
            &[(38, 0), (39, length)],
            R::BadUdpLength,
        );
    }
    case(
        "length beyond the end",
        UDP,
        &[(38, 0), (39, 16)],
        R::BadUdpLength,
    );
    case(
        "length 65535",
        UDP,
        &[(38, 255), (39, 255)],
        R::BadUdpLength,
    );
    let mut lab = Lab::new();
    for (what, bytes, reason) in &cases {
        let counts = Counts::reason(*reason);
        lab.check(&untouched(
            what,
            Hook::Eth0,
            bytes.clone(),
            Verdict::Pass,
            counts,
        ));
        let step = untouched(
            what,
            Hook::Egress,
            bytes.clone(),
            Verdict::Pass,
            Counts::none(),
        );
        lab.check(&step);
    }
    println!("{} cases", cases.len());
    assert!(cases.len() > 35);
}

/// Every prefix of a good frame that the kernel lets in (an Ethernet header).
#[test]
fn truncated_at_every_length() {
    let mut lab = Lab::new();
    let mut cases = 0;
    for transport in [Transport::Tcp(SYN), Transport::Udp] {
        for tags in 0..3 {
            let frame = good(transport)
                .with(|f| f.tags = vec![(0x8100, 5); tags])
                .bytes();
            for length in 14..frame.len() {
                let bytes = frame[..length].to_vec();
                let header = 14 + 4 * tags + 20;
                let reason = if length < header {
                    "truncated"
                } else {
                    "bad_total_length"
                };
                let counts = Counts {
                    drops: [(reason, 1)].into(),
                    ..Counts::none()
                };
                let what = format!("{transport:?}, {tags} tags, {length} bytes");
                lab.check(&untouched(what, Hook::Eth0, bytes, Verdict::Pass, counts));
                cases += 1;
            }
        }
    }
    println!("{cases} cases");
}

/// A fixed sequence of mutated frames: whatever comes out has good checksums if
/// what went in had, and what isn't sent on is as it was.
#[test]
fn mutations_are_rewritten_right_or_not_at_all() {
    let mut lab = Lab::new();
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % bound as u64) as usize
    };
    let mut rewritten = [0, 0];
    for round in 0..60_000 {
        let net = NETS[round % 2];
        let mut bytes = random_frame(net, &mut random).bytes();
        for _ in 0..random(4) {
            let at = random(bytes.len());
            bytes[at] ^= 1 << random(8);
        }
        let sound = sums(&bytes);
        let (verdict, out) = lab.run(Hook::Eth0, &bytes);
        if out == bytes {
            continue;
        }
        let dump = format!("round {round}:\n{bytes:02x?}\n{out:02x?}");
        assert_ne!(verdict, Verdict::Drop, "dropped after a rewrite: {dump}");
        assert_eq!(out.len(), bytes.len(), "{dump}");
        assert_eq!(sums(&out), sound, "{dump}");
        rewritten[round % 2] += 1;
    }
    let seen = rewritten.iter().all(|&count| count > 5_000);
    assert!(
        seen,
        "only {rewritten:?} were rewritten: this test sees nothing"
    );
}

fn random_frame(net: Net, random: &mut impl FnMut(usize) -> usize) -> Frame {
    let transport = [Transport::Tcp(SYN), Transport::Udp][random(2)];
    let vip = [net.host, net.nat_vip][random(2)];
    let port = if transport == Transport::Udp { 53 } else { 80 };
    let client = (net.client, 1024 + random(60_000) as u16);
    Frame::new(transport, client, (vip, port)).with(|f| {
        f.options = vec![1; 4 * random(3)];
        f.extensions = vec![options(DESTINATION_OPTIONS, 1); random(3)];
        f.payload = vec![random(256) as u8; random(60)];
    })
}

/// Whether the IP and the transport checksum are right, as far as there are.
fn sums(bytes: &[u8]) -> Option<(bool, bool)> {
    let sliced = etherparse::SlicedPacket::from_ethernet(bytes).ok()?;
    let (ip_sum, source, destination) = match &sliced.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            let right = header.calc_header_checksum() == header.header_checksum;
            (right, header.source.to_vec(), header.destination.to_vec())
        }
        Some(etherparse::NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            (true, header.source.to_vec(), header.destination.to_vec())
        }
        _ => return None,
    };
    let (number, segment) = match &sliced.transport {
        Some(etherparse::TransportSlice::Tcp(tcp)) => (6, tcp.slice()),
        Some(etherparse::TransportSlice::Udp(udp)) if udp.checksum() == 0 => {
            return Some((ip_sum, true));
        }
        Some(etherparse::TransportSlice::Udp(udp)) => (17, udp.slice()),
        _ => return None,
    };
    let length = (segment.len() as u32).to_be_bytes();
    let all = [
        &source[..],
        &destination,
        &length,
        &[0, 0, 0, number],
        segment,
    ]
    .concat();
    Some((ip_sum, checksum(&all) == 0))
}
