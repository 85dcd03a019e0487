//! Devices of the kernel that only modules bring: what README.md tells a `dsr`
//! target to do, and interfaces that have others below. `cargo xtask test
//! --kernels` runs these where there are such modules, and nowhere else.

use std::net::{SocketAddr, UdpSocket};

use lb_common::target::Encapsulation;
use lb_user::config::XdpMode;
use xlb_tests::netns::{Namespace, Series};

use super::{
    interfaces::{Client, cable},
    lab::{Lab, index},
    net::NETS,
    tunnel::{PORT, Tunnel},
    wire::{A_WHILE, Tap},
};

/// A host with the first target's addresses at the other end of eth1, set up as
/// README.md says.
fn target(lab: &Lab) -> Namespace {
    let target = Namespace::create(Series::new(), "target").unwrap();
    let ip = |words: &str| target.ip(words).unwrap();
    lab.namespace
        .ip(&format!("link set peer1 netns {}", target.name()))
        .unwrap();
    ip("link set peer1 address 02:00:00:00:02:02 up");
    for (net, bits) in NETS.into_iter().zip([24, 64]) {
        ip(&format!("addr add {}/{bits} dev peer1 nodad", net.target));
        ip(&format!("addr add {} dev lo nodad", net.keep_vip));
        // Clients are where the balancer is.
        ip(&format!("route add default via {}", net.source));
    }
    ip("link set tunl0 up");
    ip("link set sit0 up");
    ip("-6 tunnel change ip6tnl0 mode any");
    ip("link set ip6tnl0 up");
    ip("fou add port 6080 gue");
    ip("-6 fou add port 6080 gue");
    ip("link add xlb0 type geneve external innerprotoinherit dstport 6081");
    ip("link set xlb0 up");
    for device in ["all", "peer1", "tunl0", "sit0", "ip6tnl0", "xlb0"] {
        let setting = format!("ipv4/conf/{device}/rp_filter");
        target.sysctl(&setting, "0").unwrap();
    }
    target
}

#[test]
fn targets_take_packets_out_by_the_kernels_tunnels() {
    let mut lab = Lab::new();
    let target = target(&lab);
    // XDP can't send there: the peer isn't ready for it.
    lab.interface(lab.eth1, 0, &[]);
    let client = Tap::new(index("peer0"));
    let mut cases = 0;
    for (n, tunnel) in (0..).zip(Tunnel::all()) {
        if !tunnel.udp || tunnel.encapsulation == Encapsulation::None {
            continue;
        }
        tunnel.set(&mut lab, |_| {});
        let vip = SocketAddr::new(tunnel.inner.keep_vip, PORT);
        let server = target.enter(|| UdpSocket::bind(vip)).unwrap().unwrap();
        server.set_read_timeout(Some(A_WHILE)).unwrap();
        let request = tunnel.request(n, 0);
        client.send(&request.bytes());
        let mut received = [0; 64];
        let (length, from) = server
            .recv_from(&mut received)
            .unwrap_or_else(|error| panic!("{}: {error}", tunnel.what()));
        let got = (&received[..length], (from.ip(), from.port()));
        let sent = (&request.payload[..], request.source);
        assert_eq!(got, sent, "{}", tunnel.what());
        cases += 1;
    }
    assert_eq!(cases, 12);
}

/// Its tag is beside the frame, as network cards deliver it.
fn vlan(lab: &mut Lab) -> Client<'_> {
    cable(lab);
    for words in [
        "link set eth3 up",
        "link add link eth3 name vlan7 type vlan id 7",
        "link set vlan7 up",
        "link add link peer3 name far7 type vlan id 7",
        "link set far7 up",
    ] {
        lab.namespace.ip(words).unwrap();
    }
    Client::new(lab, "vlan7", "far7", XdpMode::Auto)
}

#[test]
fn a_vlan_device_and_a_local_target() {
    let mut lab = Lab::new();
    let mut client = vlan(&mut lab);
    for net in NETS {
        client.asks_a_local_target(net);
    }
}

#[test]
fn a_vlan_device_and_a_remote_target() {
    let mut lab = Lab::new();
    let mut client = vlan(&mut lab);
    for net in NETS {
        client.asks_a_remote_target(net);
    }
}

#[test]
fn a_bond_as_the_interface() {
    let mut lab = Lab::new();
    cable(&lab);
    for words in [
        "link add bond7 type bond mode active-backup",
        "link set eth3 master bond7",
        "link set bond7 address 02:00:00:00:04:01 up",
    ] {
        lab.namespace.ip(words).unwrap();
    }
    let mut client = Client::new(&mut lab, "bond7", "peer3", XdpMode::Auto);
    for net in NETS {
        client.asks_a_local_target(net);
        client.asks_a_remote_target(net);
    }
}
