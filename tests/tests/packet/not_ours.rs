//! What isn't ours is passed as it came, and counted.

use lb_common::counters::DropReason;

use super::{
    builder::{ACK, End, Frame, SYN, Transport},
    lab::{CLIENT, HOST, Hook, Lab, NAT_VIP, SOURCE, V4, Verdict},
    step::{Counts, untouched},
};

fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2];
    bytes.extend_from_slice(&ethertype.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A frame to the listener whose IP header has another protocol.
fn protocol(number: u8) -> Vec<u8> {
    let mut bytes = Frame::new(Transport::Tcp(SYN), (CLIENT, 4000), (HOST, 80)).bytes();
    bytes[23] = number;
    bytes
}

/// A frame to the listener with these fragment bits.
fn fragment(bits: u16) -> Vec<u8> {
    let mut bytes = Frame::new(Transport::Tcp(SYN), (CLIENT, 4000), (HOST, 80)).bytes();
    bytes[20..22].copy_from_slice(&bits.to_be_bytes());
    bytes
}

fn to(transport: Transport, destination: End) -> Vec<u8> {
    Frame::new(transport, (CLIENT, 4000), destination).bytes()
}

#[test]
fn passed_byte_for_byte() {
    use DropReason as R;
    let tcp = Transport::Tcp(SYN);
    let three_tags = Frame::new(tcp, (CLIENT, 4000), (HOST, 80))
        .with(|f| f.tags = vec![(0x88A8, 1), (0x8100, 2), (0x8100, 3)]);
    let cases: Vec<(&str, Vec<u8>, R)> = vec![
        ("another port", to(tcp, (HOST, 81)), R::NotOurs),
        ("ssh", to(Transport::Tcp(ACK), (HOST, 22)), R::NotOurs),
        (
            "another address",
            to(tcp, (V4.address(1, 77), 80)),
            R::NotOurs,
        ),
        (
            "the other protocol's port",
            to(Transport::Udp, (HOST, 80)),
            R::NotOurs,
        ),
        ("the target's own port", to(tcp, (HOST, 8081)), R::NotOurs),
        (
            "a port of source NAT",
            to(tcp, (SOURCE, 20_000)),
            R::NotOurs,
        ),
        ("port 0", to(tcp, (HOST, 0)), R::NotOurs),
        ("ARP", frame(0x0806, &[0; 46]), R::NotIp),
        ("LLDP", frame(0x88CC, &[0; 46]), R::NotIp),
        ("unknown type", frame(0xFFFF, &[0; 46]), R::NotIp),
        ("802.3 length", frame(46, &[0; 46]), R::NotIp),
        ("three tags", three_tags.bytes(), R::NotIp),
        ("ICMP of no kind that is known", protocol(1), R::NotOurs),
        ("GRE", protocol(47), R::OtherProtocol),
        ("ESP", protocol(50), R::OtherProtocol),
        ("SCTP", protocol(132), R::OtherProtocol),
        ("middle fragment", fragment(0x2005), R::Fragment),
        ("last fragment", fragment(0x0005), R::Fragment),
    ];
    let mut lab = Lab::new();
    for (what, bytes, reason) in &cases {
        let counts = Counts::reason(*reason);
        lab.check(&untouched(
            *what,
            Hook::Eth0,
            bytes.clone(),
            Verdict::Pass,
            counts,
        ));
    }
    // Whether others may fragment it makes no difference.
    for (n, whole) in [(0, true), (1, false)] {
        let frame = Frame::new(tcp, (CLIENT, 4000 + n), (HOST, 80));
        let (verdict, _) = lab.run(Hook::Eth0, &frame.with(|f| f.whole = whole).bytes());
        let new_flows = lab.dataplane.listener_traffic(0).unwrap().new_flows;
        assert_eq!((verdict, new_flows), (Verdict::Pass, u64::from(n) + 1));
    }
    println!("{} cases", cases.len() + 2);
}

#[test]
fn egress_leaves_the_hosts_own_traffic_alone() {
    let mut lab = Lab::new();
    let own = [
        Frame::new(Transport::Tcp(ACK), (HOST, 22), (CLIENT, 4000)),
        Frame::new(Transport::Tcp(ACK), (HOST, 8081), (CLIENT, 4000)),
        Frame::new(Transport::Udp, (HOST, 5353), (CLIENT, 4000)),
        Frame::new(Transport::Tcp(SYN), (CLIENT, 4000), (HOST, 80)),
    ];
    for frame in own {
        let step = untouched(
            "own",
            Hook::Egress,
            frame.bytes(),
            Verdict::Pass,
            Counts::none(),
        );
        lab.check(&step);
    }
    // Of a flow, but in its forward direction.
    let syn = Frame::new(Transport::Tcp(SYN), (CLIENT, 4000), (NAT_VIP, 80)).bytes();
    lab.run(Hook::Eth0, &syn);
    lab.check(&untouched(
        "forward",
        Hook::Egress,
        syn,
        Verdict::Pass,
        Counts::none(),
    ));
}

/// A local target's reply can't come in from outside.
#[test]
fn a_spoofed_reply_is_not_ours() {
    let mut lab = Lab::new();
    let syn = Frame::new(Transport::Tcp(SYN), (CLIENT, 4000), (HOST, 80)).bytes();
    lab.run(Hook::Eth0, &syn);
    let reply = Frame::new(Transport::Tcp(SYN | ACK), (HOST, 8081), (CLIENT, 4000)).bytes();
    let counts = Counts::reason(DropReason::NotOurs);
    lab.check(&untouched(
        "spoofed",
        Hook::Eth0,
        reply,
        Verdict::Pass,
        counts,
    ));
}
