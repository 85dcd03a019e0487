//! Devices of the kernel that only modules bring: what README.md tells a `dsr`
//! target to do, and interfaces that have others below. `cargo xtask test
//! --kernels` runs these where there are such modules, and nowhere else.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use lb_common::{flow, target::Encapsulation};
use lb_user::{
    config::{TcMode, XdpMode},
    dataplane::AttachOptions,
    reconcile::Change,
};
use xlb_tests::netns::{Namespace, Series};

use super::{
    builder::{Frame, Transport, mac},
    lab::{Lab, index},
    net::{NETS, Net},
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

/// An interface with others below, and a client at the other end of them.
struct Client<'a> {
    lab: &'a mut Lab,
    device: &'a str,
    /// The other end.
    far: &'a str,
}

impl Client<'_> {
    /// Attaches to the device, whose network is the fourth. Targets are a port
    /// of this host and a host behind eth1.
    fn new<'a>(lab: &'a mut Lab, device: &'a str, far: &'a str) -> Client<'a> {
        let ip = |words: String| lab.namespace.ip(&words).unwrap();
        for (setting, value) in [("addr_gen_mode", "1"), ("disable_ipv6", "0")] {
            let setting = format!("ipv6/conf/{device}/{setting}");
            lab.namespace.sysctl(&setting, value).unwrap();
        }
        for (net, bits) in NETS.into_iter().zip([24, 64]) {
            let (own, client) = (net.address(4, 1), net.address(4, 2));
            ip(format!("addr add {own}/{bits} dev {device} nodad"));
            ip(format!(
                "neigh add {client} dev {device} nud permanent lladdr 02:00:00:00:04:02"
            ));
        }
        let index = index(device);
        let options = AttachOptions {
            interface: device,
            index,
            xdp: XdpMode::Auto,
            tc: TcMode::Auto,
            filters: &[],
        };
        lab.dataplane.attach(&options).unwrap();
        let [a, b, c, d, e, f] = mac(4, 1);
        lab.apply(Change::AddMac(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])));
        Client { lab, device, far }
    }

    fn request(&self, net: Net, port: u16, to: (IpAddr, u16)) -> Frame {
        Frame::new(Transport::Udp, (net.address(4, 2), port), to).with(|f| {
            f.macs = (mac(4, 2), mac(4, 1));
        })
    }

    /// A target of this host gets a request, and the client its answer from the
    /// listener's port.
    fn asks_a_local_target(&mut self, net: Net) {
        let (own, id) = (net.address(4, 1), net.base + 1);
        self.lab.listen(own, 53, flow::UDP, id, id);
        let server = UdpSocket::bind((own, 5353)).unwrap();
        server.set_read_timeout(Some(A_WHILE)).unwrap();
        let client = Tap::new(index(self.far));
        client.send(&self.request(net, 4000, (own, 53)).bytes());
        let (_, from) = server
            .recv_from(&mut [0; 64])
            .unwrap_or_else(|error| panic!("{}, {}: {error}", self.device, net.name));
        server.send_to(b"answer", from).unwrap();
        self.expect_answer(&client, net, (own, 53));
    }

    /// So does a target behind eth1, by source NAT.
    fn asks_a_remote_target(&mut self, net: Net) {
        let (client, target) = (Tap::new(index(self.far)), Tap::new(index("peer1")));
        self.lab.interface(self.lab.eth1, 0, &[]);
        let vip = (net.nat_vip, 53);
        client.send(&self.request(net, 4001, vip).bytes());
        let ports = net.header() + 14;
        let is_request = |frame: &[u8]| frame.get(ports + 2..ports + 4) == Some(&[0x14, 0xB4]);
        let request = target.gets(is_request, A_WHILE);
        let what = format!("{}, {}", self.device, net.name);
        let request = request.unwrap_or_else(|| panic!("{what}: no request"));
        let port = u16::from_be_bytes([request[ports], request[ports + 1]]);
        let answer = Frame::new(Transport::Udp, (net.target, 5300), (net.source, port));
        let answer = answer.with(|f| {
            f.macs = (mac(2, 2), mac(2, 1));
            f.payload = b"answer".to_vec();
        });
        target.send(&answer.bytes());
        self.expect_answer(&client, net, vip);
    }

    fn expect_answer(&self, client: &Tap, net: Net, from: (IpAddr, u16)) {
        let ports = net.header() + 14;
        let answer = client.gets(|frame| frame.ends_with(b"answer"), A_WHILE);
        let what = format!("{}, {}", self.device, net.name);
        let answer = answer.unwrap_or_else(|| panic!("{what}: no answer"));
        let port = u16::from_be_bytes([answer[ports], answer[ports + 1]]);
        assert_eq!((&answer[..6], port), (&mac(4, 2)[..], from.1), "{what}");
    }
}

/// A cable to the client.
fn cable(lab: &Lab) {
    for words in [
        "link add eth3 type veth peer name peer3",
        "link set eth3 address 02:00:00:00:04:01",
        "link set peer3 up",
    ] {
        lab.namespace.ip(words).unwrap();
    }
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
    Client::new(lab, "vlan7", "far7")
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
    let mut client = Client::new(&mut lab, "bond7", "peer3");
    for net in NETS {
        client.asks_a_local_target(net);
        client.asks_a_remote_target(net);
    }
}
