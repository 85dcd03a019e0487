//! The addresses of the lab, in both families, and the namespace that has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{Be16, target::TargetEntry, wire::wide};
use xlb_tests::netns::Namespace;

/// The lab's addresses in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    pub name: &'static str,
    pub client: IpAddr,
    /// An own address of the host, with local targets.
    pub host: IpAddr,
    /// Listeners on this address go to a remote target by source NAT.
    pub nat_vip: IpAddr,
    /// On this one to a remote target that sees the client's address.
    pub keep_vip: IpAddr,
    /// A remote target, behind eth1, and this host's address there.
    pub target: IpAddr,
    pub source: IpAddr,
    /// Behind eth2, which takes small packets only, and this host's address.
    pub far: IpAddr,
    pub far_source: IpAddr,
    /// A router somewhere.
    pub router: IpAddr,
    /// The id of its first listener, group and target.
    pub base: u32,
}

pub const V4: Net = Net {
    name: "IPv4",
    client: v4(1, 2),
    host: v4(1, 1),
    nat_vip: v4(1, 10),
    keep_vip: v4(1, 11),
    target: v4(2, 2),
    source: v4(2, 1),
    far: v4(3, 2),
    far_source: v4(3, 1),
    router: v4(99, 9),
    base: 0,
};

pub const V6: Net = Net {
    name: "IPv6",
    client: v6(1, 2),
    host: v6(1, 1),
    nat_vip: v6(1, 0x10),
    keep_vip: v6(1, 0x11),
    target: v6(2, 2),
    source: v6(2, 1),
    far: v6(3, 2),
    far_source: v6(3, 1),
    router: v6(0x99, 9),
    base: 8,
};

pub const NETS: [Net; 2] = [V4, V6];

/// Both families; the output of a test that fails ends with the one it was at.
pub fn both() -> impl Iterator<Item = Net> {
    NETS.into_iter().inspect(|net| println!("{}", net.name))
}

pub const fn v4(network: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, network, host))
}

pub const fn v6(network: u16, host: u16) -> IpAddr {
    // Long runs of ones, to carry.
    let (high, low) = (0xFFFE, 0xFFFD);
    IpAddr::V6(Ipv6Addr::new(
        0xFD00, 0xB, network, 0, high, low, 0xFFFF, host,
    ))
}

impl Net {
    pub fn v6(&self) -> bool {
        self.client.is_ipv6()
    }

    /// Bytes of an IP header.
    pub fn header(&self) -> usize {
        if self.v6() { 40 } else { 20 }
    }

    /// An address like this one in a network of its family.
    pub fn address(&self, network: u8, host: u8) -> IpAddr {
        if self.v6() {
            v6(network.into(), host.into())
        } else {
            v4(network, host)
        }
    }

    /// Local targets 0 and 1, then 2 and 3 behind source NAT, then 4 and 5
    /// that see the client: the even ones TCP, the odd ones UDP.
    pub fn targets(&self) -> [TargetEntry; 6] {
        let family = if self.v6() { TargetEntry::IPV6 } else { 0 };
        let alive = TargetEntry::ACCEPTS | TargetEntry::KEEPS | family;
        let local = TargetEntry {
            flags: alive | TargetEntry::LOCAL,
            generation: 1,
            ..TargetEntry::default()
        };
        let remote = TargetEntry {
            flags: alive,
            address: wide(self.target),
            generation: 1,
            ..TargetEntry::default()
        };
        let nat = TargetEntry {
            flags: alive | TargetEntry::SOURCE_NAT,
            source: wide(self.source),
            first_source_port: PORTS.0,
            last_source_port: PORTS.1,
            ..remote
        };
        let at = |target: TargetEntry, port| TargetEntry {
            port: Be16::new(port),
            ..target
        };
        [
            at(local, 8081),
            at(local, 5353),
            at(nat, 8080),
            at(nat, 5300),
            at(remote, 8080),
            at(remote, 5300),
        ]
    }
}

pub const PORTS: (u16, u16) = (20_000, 20_000);

/// What eth2 takes at the most: IPv6 wants 1,280 at the least.
pub const SMALL_MTU: u16 = 1_300;

/// eth0 towards the clients, eth1 towards targets, eth2 with a small MTU, each
/// with its address in both families and a neighbour, `.2`.
pub fn prepare(namespace: &Namespace) {
    // No router solicitations: the programs are attached, and would count them.
    for setting in ["all", "default"] {
        namespace
            .sysctl(&format!("ipv6/conf/{setting}/disable_ipv6"), "1")
            .unwrap();
    }
    for (n, mtu) in [(0u8, 9_000), (1, 9_000), (2, SMALL_MTU)] {
        let ip = |words: String| namespace.ip(&words).unwrap();
        ip(format!("link add eth{n} type veth peer name peer{n}"));
        let network = n + 1;
        let own = format!("address 02:00:00:00:0{network}:01");
        ip(format!("link set eth{n} mtu {mtu} {own}"));
        let per_link = |setting, value| {
            let setting = format!("ipv6/conf/eth{n}/{setting}");
            namespace.sysctl(&setting, value).unwrap();
        };
        // No link-local address of its own.
        per_link("addr_gen_mode", "1");
        per_link("disable_ipv6", "0");
        ip(format!("link set eth{n} up"));
        ip(format!("link set peer{n} up"));
        for (net, bits) in [(V4, 24), (V6, 64)] {
            let (host, neighbour) = (net.address(network, 1), net.address(network, 2));
            ip(format!("addr add {host}/{bits} dev eth{n} nodad"));
            let lladdr = format!("lladdr 02:00:00:00:0{network}:02");
            ip(format!(
                "neigh add {neighbour} dev eth{n} nud permanent {lladdr}"
            ));
        }
    }
    for (kind, network) in [("unreachable", 21), ("blackhole", 22), ("prohibit", 23)] {
        for (net, bits) in [(V4, 24), (V6, 64)] {
            let address = net.address(network, 0);
            let words = format!("route add {kind} {address}/{bits}");
            namespace.ip(&words).unwrap();
        }
    }
    namespace.sysctl("ipv4/ip_forward", "1").unwrap();
    namespace.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
}
