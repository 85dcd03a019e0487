//! The host that packets meet: its networks, neighbours and routes. The model
//! knows them by rule, the kernel has them set up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xlb_tests::netns::Namespace;

pub type Mac = [u8; 6];

pub const fn mac(network: u8, host: u8) -> Mac {
    [2, 0, 0, 0, network, host]
}

/// Host `host` of a network: 1 is xlb's own address on it.
pub fn at(v6: bool, network: u8, host: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xFD00, 0, 0, network.into(), 0, 0, 0, host.into()).into()
    } else {
        Ipv4Addr::new(10, 0, network, host).into()
    }
}

/// A client beyond the router at host 2 of the clients' network.
pub fn beyond(v6: bool, host: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xDB8, 0, 7, 0, 0, 0, host.into()).into()
    } else {
        Ipv4Addr::new(198, 51, 100, host).into()
    }
}

/// Network `n + 1` is behind `eth{n}`: clients, who take frames of several
/// buffers, as some targets beside them do; targets; and targets behind a small
/// MTU.
pub const MTUS: [u16; 3] = [9000, 1500, 1280];

/// (network, host) whose link-layer address the host knows.
const NEIGHBOURS: [(u8, u8); 6] = [(1, 2), (1, 3), (1, 5), (2, 2), (2, 3), (3, 2)];

/// Where the host sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    None,
    TooBig(u16),
    /// Out of `eth{n}`, to this neighbour if it is known.
    Hop(usize, Option<Mac>),
}

/// The host's routing table (see [`set_up`]).
pub fn route(source: IpAddr, destination: IpAddr, length: usize) -> Route {
    // IPv6's table has nothing for such a source.
    if source.is_ipv6() && source.is_multicast() {
        return Route::None;
    }
    let Some((network, host)) = next_hop(destination) else {
        return Route::None;
    };
    let interface = usize::from(network) - 1;
    if length > usize::from(MTUS[interface]) {
        return Route::TooBig(MTUS[interface]);
    }
    let known = host.filter(|&host| NEIGHBOURS.contains(&(network, host)));
    Route::Hop(interface, known.map(|host| mac(network, host)))
}

/// The network that a destination is in and, if it fits, its number there.
fn next_hop(destination: IpAddr) -> Option<(u8, Option<u8>)> {
    let (network, host) = match destination {
        IpAddr::V4(address) => match address.octets() {
            [198, 51, 100, _] => return Some((1, Some(2))),
            // The last one is the broadcast address.
            [10, 0, network, host] if host != 255 => (network, Some(host)),
            _ => return None,
        },
        IpAddr::V6(address) => match address.segments() {
            [0x2001, 0xDB8, ..] => return Some((1, Some(2))),
            [0xFD00, 0, 0, network, rest @ ..] => {
                let host = match rest {
                    [0, 0, 0, host] => u8::try_from(host).ok(),
                    _ => None,
                };
                // The network's own address is that of any router.
                if rest == [0; 4] {
                    return None;
                }
                (u8::try_from(network).ok()?, host)
            }
            _ => return None,
        },
    };
    // To itself the host doesn't forward.
    ((1..=3).contains(&network) && host != Some(1)).then_some((network, host))
}

/// Makes a namespace such a host.
pub fn set_up(namespace: &Namespace) {
    // Nothing but the test's own packets: no addresses that IPv6 makes itself,
    // and none at all at the cables' far ends.
    namespace
        .sysctl("ipv6/conf/default/disable_ipv6", "1")
        .unwrap();
    for (n, mtu) in (0u8..).zip(MTUS) {
        let network = n + 1;
        let ip = |words: String| {
            namespace.ip(&words).unwrap();
        };
        ip(format!("link add eth{n} type veth peer name peer{n}"));
        ip(format!("link set eth{n} addrgenmode none"));
        for (setting, value) in [
            ("disable_ipv6", "0"),
            ("accept_ra", "0"),
            ("accept_dad", "0"),
        ] {
            let setting = format!("ipv6/conf/eth{n}/{setting}");
            namespace.sysctl(&setting, value).unwrap();
        }
        let [a, b, c, d, e, f] = mac(network, 1);
        ip(format!(
            "link set eth{n} mtu {mtu} address {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x} up"
        ));
        ip(format!("link set peer{n} up"));
        for (v6, bits) in [(false, 24), (true, 64)] {
            let own = at(v6, network, 1);
            let flags = if v6 { "nodad" } else { "" };
            ip(format!("addr add {own}/{bits} dev eth{n} {flags}"));
        }
    }
    for (network, host) in NEIGHBOURS {
        let [a, b, c, d, e, f] = mac(network, host);
        for v6 in [false, true] {
            let (address, device) = (at(v6, network, host), network - 1);
            let words = format!(
                "neigh add {address} dev eth{device} nud permanent \
                 lladdr {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}"
            );
            namespace.ip(&words).unwrap();
        }
    }
    for words in [
        "route add 198.51.100.0/24 via 10.0.1.2".to_owned(),
        format!("-6 route add 2001:db8::/32 via {}", at(true, 1, 2)),
        "route add unreachable 10.0.21.0/24".to_owned(),
        "-6 route add unreachable fd00:0:0:15::/64".to_owned(),
    ] {
        namespace.ip(&words).unwrap();
    }
    namespace.sysctl("ipv4/ip_forward", "1").unwrap();
    namespace.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
}
