//! How long an answer of the routing table is taken for granted.

use lb_common::settings::Settings;
use lb_user::reconcile::Change;
use xlb_tests::{clock, cpu};

use super::{
    builder::{ETH1_MAC, Frame, Mac, SYN, Transport, mac},
    lab::{Hook, Lab, SETTINGS, Verdict},
    net::{NETS, Net},
};

fn keep(lab: &mut Lab, route_epoch: u32) {
    lab.apply(Change::SetSettings(Settings {
        route_epoch,
        ..SETTINGS
    }));
}

/// The neighbour that the target's packets go to from now on.
fn neighbour(lab: &Lab, net: Net, last: u8) -> Mac {
    let mac = mac(2, last);
    let text = mac.map(|byte| format!("{byte:02x}")).join(":");
    let words = format!(
        "neigh replace {} dev eth1 nud permanent lladdr {text}",
        net.target
    );
    lab.namespace.ip(&words).unwrap();
    mac
}

/// Where a packet of the first client goes.
fn next(lab: &mut Lab, net: Net) -> Mac {
    let syn = Frame::new(Transport::Tcp(SYN), (net.client, 4000), (net.keep_vip, 80));
    let (verdict, out) = lab.run(Hook::Eth0, &syn.bytes());
    assert_eq!(verdict, Verdict::Redirect);
    assert_eq!(out[6..12], ETH1_MAC);
    out[..6].try_into().unwrap()
}

#[test]
fn for_the_rest_of_a_second() {
    // Each CPU keeps its own answers.
    cpu::stay().unwrap();
    let mut lab = Lab::new();
    keep(&mut lab, 1);
    for net in NETS {
        let before = neighbour(&lab, net, 2);
        let seen = clock::within_a_second(|| {
            neighbour(&lab, net, 2);
            let first = next(&mut lab, net);
            let after = neighbour(&lab, net, 7);
            (first, next(&mut lab, net), after)
        });
        assert_eq!((seen.0, seen.1), (before, before), "{}", net.name);
        clock::ticks(1);
        assert_eq!(next(&mut lab, net), seen.2, "{}", net.name);
    }
}

#[test]
fn or_until_the_epoch_changes() {
    let mut lab = Lab::new();
    for (net, epoch) in NETS.into_iter().zip([1, 3]) {
        let before = neighbour(&lab, net, 2);
        keep(&mut lab, epoch);
        assert_eq!(next(&mut lab, net), before);
        let after = neighbour(&lab, net, 7);
        keep(&mut lab, epoch + 1);
        assert_eq!(next(&mut lab, net), after, "{}", net.name);
    }
}

#[test]
fn or_not_at_all() {
    let mut lab = Lab::new();
    keep(&mut lab, 0);
    for net in NETS {
        for last in [2, 7, 2] {
            let mac = neighbour(&lab, net, last);
            assert_eq!(next(&mut lab, net), mac, "{}", net.name);
        }
    }
}

/// A packet that doesn't fit is refused though a smaller one has just gone.
#[test]
fn what_does_not_fit_asks_again() {
    let mut lab = Lab::new();
    keep(&mut lab, 1);
    for net in NETS {
        next(&mut lab, net);
        let large = Frame::new(Transport::Tcp(SYN), (net.client, 4000), (net.keep_vip, 80))
            .with(|f| f.payload = vec![0; 2_000]);
        let (verdict, _) = lab.run(Hook::Eth0, &large.bytes());
        assert_eq!(verdict, Verdict::Redirect, "9,000 bytes fit");
        lab.namespace.ip("link set eth1 mtu 1500").unwrap();
        clock::ticks(1);
        next(&mut lab, net);
        let (verdict, _) = lab.run(Hook::Eth0, &large.bytes());
        assert_eq!(verdict, Verdict::Transmit, "its sender is told");
        lab.namespace.ip("link set eth1 mtu 9000").unwrap();
    }
}
