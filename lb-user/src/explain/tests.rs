use std::collections::BTreeMap;

use lb_common::{
    flow::{TCP, UDP},
    listener::ListenerLimits,
    settings::Settings,
};

use super::{
    frame::{Shape, TcpFlags, build, read},
    *,
};
use crate::reconcile::{Block, Place};

fn ends(protocol: u8, source: &str, destination: &str) -> Ends {
    Ends {
        protocol,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

fn entry(id: u32) -> ListenerEntry {
    ListenerEntry {
        id,
        group: 4,
        table_size: 251,
        ..ListenerEntry::default()
    }
}

/// A listener at port 80, others at 64 to 127 and at 0 to 1023.
fn state() -> MapState {
    let address: IpAddr = "10.0.2.15".parse().unwrap();
    let block = |first, open_bits| Place {
        address,
        protocol: TCP,
        ports: PlacePorts::Block(Block { first, open_bits }),
    };
    MapState {
        settings: Settings {
            hash_key: 7,
            ..Settings::default()
        },
        listeners: BTreeMap::from([
            (Place::port(address, 80, TCP), entry(1)),
            (block(64, 6), entry(2)),
            (block(0, 10), entry(3)),
        ]),
        tables: BTreeMap::from([(4, (0..251).collect())]),
        ..MapState::default()
    }
}

#[test]
fn the_smallest_place_has_a_port() {
    let cases = [
        (TCP, "10.0.2.15:80", Some(1)),
        (TCP, "10.0.2.15:81", Some(2)),
        (TCP, "10.0.2.15:127", Some(2)),
        (TCP, "10.0.2.15:128", Some(3)),
        (TCP, "10.0.2.15:1023", Some(3)),
        (TCP, "10.0.2.15:1024", None),
        (UDP, "10.0.2.15:80", None),
        (TCP, "10.0.2.16:80", None),
    ];
    for (protocol, destination, expected) in cases {
        let found = listener(&state(), &ends(protocol, "10.9.9.9:9", destination));
        assert_eq!(found.map(|it| it.id), expected, "{destination}");
    }
}

#[test]
fn the_longest_prefix_decides() {
    let prefix = |address: &str, length| Prefix::around(address.parse().unwrap(), length).unwrap();
    let rules = [
        (prefix("0.0.0.0", 0), Rule::Deny),
        (prefix("10.0.0.0", 8), Rule::Allow),
        (prefix("10.66.0.0", 16), Rule::Deny),
        (prefix("::", 0), Rule::Deny),
    ];
    let state = MapState {
        security_groups: BTreeMap::from([(3, rules.as_slice().into())]),
        ..MapState::default()
    };
    for (source, length, expected) in [
        ("192.0.2.1", 0, Rule::Deny),
        ("10.1.2.3", 8, Rule::Allow),
        ("10.66.2.3", 16, Rule::Deny),
        ("2001:db8::1", 0, Rule::Deny),
    ] {
        let (prefix, found) = rule(&state, 3, source.parse().unwrap()).unwrap();
        assert_eq!((prefix.length(), found), (length, expected), "{source}");
    }
    assert_eq!(rule(&state, 0, "10.1.2.3".parse().unwrap()), None);
}

#[test]
fn sources_are_counted_by_their_prefix() {
    let limits = ListenerLimits {
        new_flows: 1,
        new_flows_per_source: 1,
        prefix_v4: 24,
        prefix_v6: 64,
    };
    let state = MapState {
        limits: BTreeMap::from([(1, limits)]),
        ..MapState::default()
    };
    let rate = |listener, source: &str| source_rate(&state, listener, source.parse().unwrap());
    let prefix = |address: &str| wide(address.parse().unwrap());
    assert_eq!(rate(1, "10.1.2.3").unwrap().prefix, prefix("10.1.2.0"));
    assert_eq!(
        rate(1, "2001:db8::1:0:0:0:9").unwrap().prefix,
        prefix("2001:db8:0:1::")
    );
    assert_eq!(rate(2, "10.1.2.3"), None);
}

#[test]
fn the_slot_follows_from_what_the_listener_hashes() {
    let state = state();
    let slot_of = |flags, source: &str| {
        let entry = ListenerEntry { flags, ..entry(1) };
        slot(&state, &entry, &ends(TCP, source, "10.0.2.15:80")).unwrap()
    };
    let by_flow = slot_of(0, "10.9.9.9:9");
    assert_eq!((by_flow.input, by_flow.slots), ("flow", 251));
    assert_eq!(by_flow.target, Some(by_flow.slot), "as the table has it");
    assert_ne!(by_flow.slot, slot_of(0, "10.9.9.9:10").slot);
    let source = ListenerEntry::HASH_SOURCE;
    assert_eq!(
        slot_of(source, "10.9.9.9:9"),
        slot_of(source, "10.9.9.9:10")
    );
    let port = ListenerEntry::HASH_PORT;
    assert_eq!(slot_of(port, "10.9.9.9:9"), slot_of(port, "10.8.8.8:10"));
    let other = ListenerEntry {
        group: 5,
        ..entry(1)
    };
    assert_eq!(
        slot(&state, &other, &ends(TCP, "10.9.9.9:9", "10.0.2.15:80")),
        None
    );
}

#[test]
fn frames_are_whole_and_their_checksums_right() {
    let mac = [2, 1, 2, 3, 4, 5];
    for (source, destination) in [
        ("203.0.113.7:51234", "10.0.2.15:80"),
        ("[2001:db8::7]:51234", "[fd00::15]:80"),
    ] {
        for protocol in [TCP, UDP] {
            for payload in [0, 7, 1_400] {
                let ends = ends(protocol, source, destination);
                let shape = Shape {
                    flags: TcpFlags::Syn,
                    payload,
                    time_to_live: 9,
                    mac,
                };
                let frame = build(&ends, &shape).unwrap();
                let outside = read(&frame).unwrap();
                assert_eq!(
                    (outside.source, outside.destination),
                    (ends.source, ends.destination)
                );
                assert_eq!((outside.time_to_live, outside.destination_mac), (9, mac));
                assert_eq!(
                    transport_sum(&frame, protocol),
                    0xFFFF,
                    "{source} {payload}"
                );
            }
        }
    }
    let shape = Shape {
        flags: TcpFlags::Ack,
        payload: u16::MAX,
        time_to_live: 9,
        mac,
    };
    let too_long = build(&ends(TCP, "10.0.0.1:1", "10.0.0.2:2"), &shape);
    assert_eq!(too_long, None);
    assert_eq!(build(&ends(TCP, "10.0.0.1:1", "[::1]:2"), &shape), None);
    assert_eq!(read(&[0; 20]), None);
}

/// The sum of a frame's transport part and its pseudo-header (RFC 1071), which
/// is all ones.
fn transport_sum(frame: &[u8], protocol: u8) -> u16 {
    let (addresses, transport) = match frame[12..14] {
        [0x08, 0x00] => (&frame[26..34], &frame[34..]),
        _ => (&frame[22..54], &frame[54..]),
    };
    let words = |bytes: &[u8]| -> u32 {
        let pairs = bytes.chunks(2);
        pairs
            .map(|it| u32::from(it[0]) << 8 | u32::from(it.get(1).copied().unwrap_or(0)))
            .sum()
    };
    let mut sum = words(addresses) + words(transport) + u32::from(protocol);
    sum += transport.len() as u32;
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    sum as u16
}
