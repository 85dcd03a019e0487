//! A client behind an interface of any kind: requests to targets of this host
//! and of another, and their answers, on real devices.

use std::net::{IpAddr, UdpSocket};

use lb_common::flow;
use lb_user::{
    config::{TcMode, XdpMode},
    dataplane::AttachOptions,
    reconcile::Change,
};

use super::{
    builder::{Frame, Transport, mac},
    lab::{Lab, index},
    net::{NETS, Net},
    wire::{A_WHILE, Tap},
};

/// A client at the other end of an interface.
pub struct Client<'a> {
    lab: &'a mut Lab,
    device: &'a str,
    /// The other end.
    far: &'a str,
}

impl Client<'_> {
    /// Attaches to the device, whose network is the fourth. Targets are a port
    /// of this host and a host behind eth1.
    pub fn new<'a>(lab: &'a mut Lab, device: &'a str, far: &'a str, xdp: XdpMode) -> Client<'a> {
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
            xdp,
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
    pub fn asks_a_local_target(&mut self, net: Net) {
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
    pub fn asks_a_remote_target(&mut self, net: Net) {
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

/// A cable from `eth3` to the client.
pub fn cable(lab: &Lab) {
    for words in [
        "link add eth3 type veth peer name peer3",
        "link set eth3 address 02:00:00:00:04:01",
        "link set peer3 up",
    ] {
        lab.namespace.ip(words).unwrap();
    }
}

/// Since Linux 6.9 generic XDP copies frames, and tc programs see them begin
/// elsewhere; the request to the other host is handed over.
#[test]
fn generic_xdp() {
    let mut lab = Lab::new();
    cable(&lab);
    lab.namespace.ip("link set eth3 up").unwrap();
    let mut client = Client::new(&mut lab, "eth3", "peer3", XdpMode::Generic);
    for net in NETS {
        client.asks_a_local_target(net);
        client.asks_a_remote_target(net);
    }
}
