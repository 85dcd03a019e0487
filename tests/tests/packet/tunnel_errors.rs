//! What a router between xlb and a `dsr` target reports about an encapsulated
//! packet: whoever has sent the packet inside is told, of that packet.

use lb_common::{
    Be16,
    counters::DropReason,
    target::{Encapsulation, TargetEntry},
    wire::wide,
};
use lb_user::reconcile::Change;

use super::{
    builder::{ACK, CLIENT_MAC, ETH0_MAC, Frame, SYN, Transport, options},
    icmp_errors,
    lab::{Hook, Lab, Verdict},
    net::Net,
    step::{Counts, rewritten, untouched},
    tunnel::{LEAST_MTU, Tunnel},
};

/// The most that is quoted, and what always is.
const QUOTED: usize = 128;
const LEAST: usize = 8;

/// A tunnel and a request that has gone through it.
struct Sent {
    tunnel: Tunnel,
    request: Frame,
    outer: Frame,
}

fn tunnels() -> impl Iterator<Item = Tunnel> {
    let all = Tunnel::all().into_iter();
    all.filter(|tunnel| tunnel.encapsulation != Encapsulation::None)
}

impl Sent {
    fn new(lab: &mut Lab, tunnel: Tunnel, payload: usize) -> Self {
        tunnel.set(lab, |_| {});
        // A flow of its own, and none beside it.
        let base = 10 * tunnel.encapsulation as u16 + 2 * u16::from(tunnel.outer.v6());
        lab.run(Hook::Eth0, &tunnel.request(base, SYN).bytes());
        let request = tunnel
            .request(base, ACK)
            .with(|f| f.payload = vec![0xA7; payload]);
        let (verdict, out) = lab.run(Hook::Eth0, &request.bytes());
        assert_eq!(verdict, Verdict::Redirect, "{}", tunnel.what());
        let outer = tunnel.sent(&request, &tunnel.varying(&out, 0));
        Self {
            tunnel,
            request,
            outer,
        }
    }

    /// Bytes in front of the packet inside.
    fn overhead(&self) -> usize {
        self.outer.packet().len() - self.request.packet().len()
    }

    /// Bytes of the packet inside that no report can do without.
    fn headers(&self) -> usize {
        self.tunnel.inner.header() + LEAST
    }

    /// A router's report that quotes so many bytes of the packet inside.
    fn report(&self, kind: Transport, quoted: usize) -> Frame {
        let net = self.tunnel.outer;
        Frame::new(kind, (net.router, 0), (self.outer.source.0, 0)).with(|f| {
            f.macs = (super::builder::TARGET_MAC, super::builder::ETH1_MAC);
            f.payload = self.outer.packet();
            f.payload.truncate(self.overhead() + quoted);
        })
    }

    /// What the client gets.
    fn told(&self, kind: Transport, quoted: usize) -> Frame {
        let (inner, request) = (self.tunnel.inner, &self.request);
        let kept = if quoted < QUOTED {
            self.headers()
        } else {
            QUOTED
        };
        let kind = translated(kind, inner, self.overhead() as u16);
        Frame::new(kind, (request.destination.0, 0), (request.source.0, 0)).with(|f| {
            f.macs = (ETH0_MAC, CLIENT_MAC);
            f.identification = 0;
            // As the router has seen it, behind this hop.
            f.payload = request.clone().with(|f| f.time_to_live -= 1).packet();
            f.payload.truncate(kept);
        })
    }
}

/// The same report in another family: too big, or not to be reached.
fn translated(kind: Transport, inner: Net, overhead: u16) -> Transport {
    let too_big = |[_, _, high, low]: [u8; 4], least: usize| {
        let left = u16::from_be_bytes([high, low]) - overhead;
        let [high, low] = left.max(least as u16).to_be_bytes();
        [0, 0, high, low]
    };
    match (kind, inner.v6()) {
        // Of less IPv6's hosts take no notice (RFC 8201, section 4).
        (Transport::Icmp(2, 0, mtu) | Transport::Icmp(3, 4, mtu), true) => {
            Transport::Icmp(2, 0, too_big(mtu, LEAST_MTU))
        }
        (Transport::Icmp(2, 0, mtu) | Transport::Icmp(3, 4, mtu), false) => {
            Transport::Icmp(3, 4, too_big(mtu, 0))
        }
        (_, true) => Transport::Icmp(1, 3, [0; 4]),
        (_, false) => Transport::Icmp(3, 1, [0; 4]),
    }
}

#[test]
fn the_client_is_told() {
    let mut lab = Lab::new();
    let mut cases = 0;
    for tunnel in tunnels() {
        let sent = Sent::new(&mut lab, tunnel, 300);
        for (name, kind) in icmp_errors::kinds(tunnel.outer) {
            for quoted in [sent.headers(), QUOTED - 1, QUOTED, QUOTED + 1, 300] {
                let what = format!("{name}, {quoted} bytes, {}", tunnel.what());
                let report = sent.report(kind, quoted);
                let (hook, counts) = (Hook::Eth1, Counts::none());
                if name == "source quench" {
                    let counts = Counts::reason(DropReason::NotOurs);
                    let bytes = report.bytes();
                    lab.check(&untouched(what, hook, bytes, Verdict::Pass, counts));
                    continue;
                }
                let told = sent.told(kind, quoted);
                let verdict = Verdict::Redirect;
                lab.check(&rewritten(what, hook, &report, verdict, &told, counts));
                cases += 1;
            }
        }
    }
    println!("{cases} reports");
}

#[test]
fn the_client_is_told_how_much_fits() {
    let mut lab = Lab::new();
    for tunnel in tunnels() {
        let sent = Sent::new(&mut lab, tunnel, 300);
        for mtu in [100, 576, 1_279, 1_280, 1_320, 1_336, 1_337, 1_400, 9_000] {
            let [high, low] = u16::to_be_bytes(mtu);
            let mtu = [0, 0, high, low];
            let kind = match tunnel.outer.v6() {
                true => Transport::Icmp(2, 0, mtu),
                false => Transport::Icmp(3, 4, mtu),
            };
            let (report, told) = (sent.report(kind, 300), sent.told(kind, 300));
            let (what, hook, counts) = (tunnel.what(), Hook::Eth1, Counts::none());
            let verdict = Verdict::Redirect;
            lab.check(&rewritten(what, hook, &report, verdict, &told, counts));
        }
    }
}

/// Options and extension headers inside are quoted as far as there is room.
#[test]
fn headers_that_are_longer() {
    let mut lab = Lab::new();
    for tunnel in tunnels() {
        let mut sent = Sent::new(&mut lab, tunnel, 200);
        sent.request = sent.request.with(|f| {
            f.options = vec![1; 20];
            f.extensions = vec![options(super::builder::HOP_BY_HOP, 2)];
        });
        let (_, out) = lab.run(Hook::Eth0, &sent.request.bytes());
        sent.outer = tunnel.sent(&sent.request, &tunnel.varying(&out, 0));
        let kind = icmp_errors::kinds(tunnel.outer)[2].1;
        let (hook, what) = (Hook::Eth1, tunnel.what());
        let (report, told) = (sent.report(kind, QUOTED), sent.told(kind, QUOTED));
        let (verdict, counts) = (Verdict::Redirect, Counts::none());
        lab.check(&rewritten(&what, hook, &report, verdict, &told, counts));
        // With less there is nothing to be quoted that makes sense.
        let bytes = sent.report(kind, QUOTED - 1).bytes();
        let counts = Counts::reason(DropReason::NotOurs);
        lab.check(&untouched(what, hook, bytes, Verdict::Pass, counts));
    }
}

/// By way of the kernel where XDP can't send, and with the tags kept.
#[test]
fn reports_with_tags_are_handed_over() {
    let mut lab = Lab::new();
    for tunnel in tunnels() {
        let sent = Sent::new(&mut lab, tunnel, 300);
        let kind = icmp_errors::kinds(tunnel.outer)[2].1;
        let tags = vec![(0x8100, 0xA00A)];
        let report = sent.report(kind, 300).with(|f| {
            f.tags.clone_from(&tags);
            f.padding = 7;
        });
        let told = sent.told(kind, 300).with(|f| {
            f.tags = tags;
            f.macs = report.macs;
        });
        let verdict = Verdict::Handoff(lab.eth0, 1);
        let (what, hook, counts) = (tunnel.what(), Hook::Eth1, Counts::none());
        lab.check(&rewritten(what, hook, &report, verdict, &told, counts));
    }
}

#[test]
fn what_is_of_no_tunnel_is_untouched() {
    let mut lab = Lab::new();
    for tunnel in tunnels() {
        let sent = Sent::new(&mut lab, tunnel, 300);
        let kind = icmp_errors::kinds(tunnel.outer)[2].1;
        let about = |change: &dyn Fn(&mut Sent)| {
            let mut other = Sent {
                tunnel,
                request: sent.request.clone(),
                outer: sent.outer.clone(),
            };
            change(&mut other);
            other.report(kind, 300)
        };
        // The packet inside, changed.
        let inside = |change: &dyn Fn(&mut Frame)| {
            let request = sent.request.clone().with(change);
            let varying = tunnel.varying(&sent.outer.bytes(), 0);
            let outer = tunnel.sent(&request, &varying);
            about(&|other| {
                other.outer = outer.clone();
                other.request = request.clone();
            })
        };
        let router = tunnel.outer.router;
        let udp = tunnel.encapsulation != Encapsulation::Ipip;
        let mut cases = vec![
            ("another client's", inside(&|f| f.source.1 ^= 1)),
            ("another listener's", inside(&|f| f.destination.1 ^= 1)),
            (
                "neither TCP nor UDP inside",
                inside(&|f| {
                    f.transport = Transport::Other(132);
                }),
            ),
            (
                "a later fragment inside",
                inside(&|f| {
                    // Its bytes are those of the flow's ports, as chance may have it.
                    let ports = [f.source.1, f.destination.1].map(u16::to_be_bytes).concat();
                    let header = if tunnel.udp { 8 } else { 20 };
                    f.payload[40 - header..44 - header].copy_from_slice(&ports);
                    *f = f.split(40)[1].clone();
                }),
            ),
            (
                "to another target",
                about(&|it| it.outer.destination.0 = router),
            ),
            (
                "from somebody else",
                about(&|it| it.outer.source.0 = router)
                    .with(|f| f.destination.0 = sent.outer.source.0),
            ),
            (
                "no error",
                about(&|_| {}).with(|f| {
                    f.transport =
                        Transport::Icmp(if tunnel.outer.v6() { 137 } else { 5 }, 0, [0; 4]);
                }),
            ),
            (
                "less room than headers take",
                about(&|_| {}).with(|f| {
                    if let Transport::Icmp(kind, code, _) = f.transport {
                        f.transport = Transport::Icmp(kind, code, [0, 0, 0, 19]);
                    }
                }),
            ),
            (
                "exactly the room that headers take",
                about(&|_| {}).with(|f| {
                    if let Transport::Icmp(kind, code, _) = f.transport {
                        let [high, low] = (sent.overhead() as u16).to_be_bytes();
                        f.transport = Transport::Icmp(kind, code, [0, 0, high, low]);
                    }
                }),
            ),
            ("no IP packet", about(&|_| {}).with(|f| f.payload[0] = 0x55)),
        ];
        if udp {
            cases.push(("to another port", about(&|it| it.outer.destination.1 ^= 1)));
        }
        for (what, frame) in cases {
            let what = format!("{what}, {}", tunnel.what());
            let counts = Counts::reason(DropReason::NotOurs);
            let (hook, bytes) = (Hook::Eth1, frame.bytes());
            lab.check(&untouched(what, hook, bytes, Verdict::Pass, counts));
        }
    }
}

/// How the target is reached instead: what that is called, and the change.
type OtherWay = (&'static str, fn(&mut TargetEntry));

/// Each way that a target can be reached by, but for the flow's own.
#[test]
fn another_encapsulation_is_not_believed() {
    let mut lab = Lab::new();
    for tunnel in tunnels() {
        let sent = Sent::new(&mut lab, tunnel, 300);
        let kind = icmp_errors::kinds(tunnel.outer)[2].1;
        let report = sent.report(kind, 300).bytes();
        let changes: [OtherWay; 5] = [
            ("another encapsulation", |t| {
                t.encapsulation = t.encapsulation % 3 + 1;
            }),
            ("none", |t| t.encapsulation = 0),
            ("another family", |t| t.flags ^= TargetEntry::IPV6),
            ("another port", |t| {
                t.encapsulation_port = Be16::new(7);
                t.encapsulation = t.encapsulation.max(2);
            }),
            ("another generation", |t| t.generation += 1),
        ];
        for (what, change) in changes {
            let mut entry = tunnel.entry();
            change(&mut entry);
            lab.apply(Change::SetTarget(tunnel.id, entry));
            let what = format!("{what}, {}", tunnel.what());
            let counts = Counts::reason(DropReason::NotOurs);
            let (hook, bytes) = (Hook::Eth1, report.clone());
            lab.check(&untouched(what, hook, bytes, Verdict::Pass, counts));
        }
        let mut entry = tunnel.entry();
        entry.address = wide(tunnel.outer.far);
        lab.apply(Change::SetTarget(tunnel.id, entry));
        let counts = Counts::reason(DropReason::NotOurs);
        let what = tunnel.what();
        lab.check(&untouched(what, Hook::Eth1, report, Verdict::Pass, counts));
    }
}

/// With less than the packet inside begins with it can't be told whose it is.
#[test]
fn truncated_quotes_are_untouched() {
    let mut lab = Lab::new();
    for tunnel in tunnels().filter(|tunnel| !tunnel.udp) {
        let sent = Sent::new(&mut lab, tunnel, 100);
        let kind = icmp_errors::kinds(tunnel.outer)[2].1;
        let needed = sent.overhead() + sent.headers();
        for length in 0..needed {
            let cut = sent.report(kind, 100).with(|f| {
                f.payload.truncate(length);
                // What an Ethernet frame is padded with is no quote.
                f.padding = 60;
            });
            let what = format!("{length} bytes, {}", tunnel.what());
            let counts = Counts::reason(DropReason::NotOurs);
            let (hook, bytes) = (Hook::Eth1, cut.bytes());
            lab.check(&untouched(what, hook, bytes, Verdict::Pass, counts));
        }
    }
}
