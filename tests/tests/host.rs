//! What the agent sees of a host, in network namespaces. Needs root.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_user::{
    address::is_global,
    host::{Forwarding, Host, Interface, Netlink, Route, Way},
};
use tokio::time::timeout;
use xlb_tests::{
    netns::{Namespace, Series},
    require_root,
};

/// The addresses that the tests are about, in one family.
struct Addresses {
    target: IpAddr,
    behind_gateway: IpAddr,
    own: IpAddr,
    nowhere: IpAddr,
    black_hole: IpAddr,
    vip: IpAddr,
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// An address of 2001:db8::/32.
const fn v6(network: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host))
}

const V4: Addresses = Addresses {
    target: v4(10, 9, 1, 2),
    behind_gateway: v4(192, 0, 2, 7),
    own: v4(10, 9, 1, 1),
    nowhere: v4(203, 0, 113, 1),
    black_hole: v4(198, 51, 100, 1),
    vip: v4(10, 9, 1, 80),
};
const V6: Addresses = Addresses {
    target: v6(1, 2),
    behind_gateway: v6(7, 7),
    own: v6(1, 1),
    nowhere: v6(9, 1),
    black_hole: v6(8, 1),
    vip: v6(1, 0x80),
};

/// A host with a veth to a peer, and a bridge with a port.
struct Rig {
    host: Namespace,
    peer: Namespace,
}

impl Rig {
    fn new() -> Result<Self> {
        require_root()?;
        let series = Series::new();
        let rig = Self {
            host: Namespace::create(series, "host")?,
            peer: Namespace::create(series, "peer")?,
        };
        let peer = rig.peer.name();
        rig.host.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {peer}"
        ))?;
        for words in [
            "addr add 10.9.1.1/24 dev eth0",
            "link set eth0 up",
            "link add br0 type bridge",
            "link add port0 type veth peer name port1",
            "link set port0 master br0",
            "addr add 10.9.2.1/24 dev br0",
            "route add 192.0.2.0/24 via 10.9.1.2 src 10.9.1.1",
            "route add unreachable 198.51.100.0/24",
            "addr add 2001:db8:1::1/64 dev eth0 nodad",
            "route add 2001:db8:7::/64 via 2001:db8:1::2 src 2001:db8:1::1",
            "route add unreachable 2001:db8:8::/64",
        ] {
            rig.host.ip(words)?;
        }
        rig.peer.ip("link set eth0 up")?;
        Ok(rig)
    }

    /// Runs a future in the host's namespace.
    fn run<T: Send, F: Future<Output = Result<T>>>(
        &self,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T> {
        self.host.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(work())
        })?
    }
}

async fn snapshot(netlink: &Netlink) -> Result<Host> {
    Ok(netlink
        .snapshot([V4, V6].into_iter().flat_map(|of| {
            let Addresses {
                target,
                behind_gateway,
                own,
                nowhere,
                black_hole,
                ..
            } = of;
            [target, behind_gateway, own, nowhere, black_hole]
        }))
        .await?)
}

/// eth0's addresses without the link-local ones, which come by themselves.
async fn addresses(netlink: &Netlink) -> Result<Vec<IpAddr>> {
    let host = snapshot(netlink).await?;
    let mut addresses = interface(&host, "eth0")?.addresses.clone();
    addresses.retain(|&address| is_global(address));
    Ok(addresses)
}

fn interface<'a>(host: &'a Host, name: &str) -> Result<&'a Interface> {
    host.interface(name)
        .with_context(|| format!("{name} isn't in the snapshot"))
}

#[test]
fn interfaces_as_they_are() -> Result<()> {
    Rig::new()?.run(|| async {
        let host = snapshot(&Netlink::open()?).await?;
        let eth0 = interface(&host, "eth0")?;
        assert_eq!(
            (eth0.up, eth0.kind.as_deref(), eth0.vlan),
            (true, Some("veth"), None)
        );
        assert_eq!(addresses(&Netlink::open()?).await?, [V4.own, V6.own]);
        assert_eq!(host.interfaces[&eth0.index], *eth0);

        let bridge = interface(&host, "br0")?;
        assert_eq!(interface(&host, "port0")?.controller, Some(bridge.index));
        assert_eq!(
            (eth0.controller, bridge.controller, bridge.up),
            (None, None, false)
        );
        assert!(host.owns(V4.own) && host.owns(v4(10, 9, 2, 1)) && !host.owns(V4.target));
        Ok(())
    })
}

#[test]
fn routes_to_targets() -> Result<()> {
    Rig::new()?.run(|| async {
        let host = snapshot(&Netlink::open()?).await?;
        let eth0 = interface(&host, "eth0")?.index;
        for of in [V4, V6] {
            let by_eth0 = |gateway| {
                Route::Unicast(Way {
                    interface: eth0,
                    source: of.own,
                    gateway,
                })
            };
            assert_eq!(host.routes.get(&of.target), Some(&by_eth0(false)));
            assert_eq!(host.routes.get(&of.behind_gateway), Some(&by_eth0(true)));
            assert_eq!(host.routes.get(&of.own), Some(&Route::Local));
            assert_eq!(host.routes.get(&of.nowhere), None, "{}", of.nowhere);
            assert_eq!(host.routes.get(&of.black_hole), None, "{}", of.black_hole);
        }
        Ok(())
    })
}

/// A new address could be the nearest to a target, and then the first choice
/// as this host's own (RFC 6724, section 5, rule 8).
#[test]
fn a_managed_address_is_no_source() -> Result<()> {
    Rig::new()?.run(|| async {
        let netlink = Netlink::open()?;
        let eth0 = interface(&snapshot(&netlink).await?, "eth0")?.index;
        // It has all but the last bit in common with the target.
        for near in [v4(10, 9, 1, 3), v6(1, 3)] {
            netlink.add_address(eth0, near).await?;
        }
        let host = snapshot(&netlink).await?;
        for of in [V4, V6] {
            let route = Route::Unicast(Way {
                interface: eth0,
                source: of.own,
                gateway: false,
            });
            assert_eq!(host.routes.get(&of.target), Some(&route));
        }
        Ok(())
    })
}

/// A veth takes redirects once its peer has NAPI, which `gro on` gives it.
#[test]
fn xdp_features_follow_the_peer() -> Result<()> {
    let rig = Rig::new()?;
    let takes_redirects = || {
        let host = rig.run(|| async { snapshot(&Netlink::open()?).await })?;
        let features = interface(&host, "eth0")?.xdp_features;
        let features = features.context("the kernel tells no XDP features (before Linux 6.3)")?;
        Ok::<_, anyhow::Error>(features.takes_redirects(1_500))
    };
    rig.peer.run("ethtool -K eth0 gro off")?;
    assert!(!takes_redirects()?);
    rig.peer.run("ethtool -K eth0 gro on")?;
    assert!(takes_redirects()?);
    Ok(())
}

#[test]
fn forwarding_of_each_interface() -> Result<()> {
    let rig = Rig::new()?;
    for (setting, value) in [
        ("ipv4/ip_forward", "0"),
        ("ipv4/conf/br0/forwarding", "1"),
        ("ipv6/conf/all/forwarding", "0"),
        ("ipv6/conf/eth0/forwarding", "1"),
    ] {
        rig.host.sysctl(setting, value)?;
    }
    rig.run(|| async {
        let host = snapshot(&Netlink::open()?).await?;
        let forwards = |name| Ok::<_, anyhow::Error>(interface(&host, name)?.forwarding);
        let only = |v4, v6| Forwarding { v4, v6 };
        assert_eq!(forwards("eth0")?, only(false, true));
        assert_eq!(forwards("br0")?, only(true, false));
        Ok(())
    })
}

#[test]
fn an_address_is_added_and_removed_and_twice_is_no_error() -> Result<()> {
    let rig = Rig::new()?;
    rig.run(|| async {
        let netlink = Netlink::open()?;
        let eth0 = interface(&snapshot(&netlink).await?, "eth0")?.index;
        let all = [V4.own, V4.vip, V6.own, V6.vip];
        for _ in 0..2 {
            netlink.add_address(eth0, V4.vip).await?;
            netlink.add_address(eth0, V6.vip).await?;
            let mut got = addresses(&netlink).await?;
            got.sort_unstable();
            assert_eq!(got, all);
        }
        let shown = rig.host.ip("-6 addr show dev eth0")?;
        ensure!(
            shown.contains("::80/128 scope global nodad deprecated"),
            "usable at once, and no source of this host's own:\n{shown}"
        );
        for _ in 0..2 {
            netlink.remove_address(eth0, V4.vip).await?;
            netlink.remove_address(eth0, V6.vip).await?;
            assert_eq!(addresses(&netlink).await?, [V4.own, V6.own]);
        }
        // The interface's own address isn't a single one: it stays.
        netlink.remove_address(eth0, V4.own).await?;
        netlink.remove_address(eth0, V6.own).await?;
        assert_eq!(addresses(&netlink).await?, [V4.own, V6.own]);
        netlink.remove_address(9_999, V4.vip).await?;
        ensure!(
            netlink.add_address(9_999, V4.vip).await.is_err(),
            "there is no interface 9999"
        );
        Ok(())
    })
}

/// A route is asked for once for each address, and many at a time.
#[test]
fn thousands_of_destinations() -> Result<()> {
    let targets = (0..16_384).map(|n: u32| Ipv4Addr::from_bits(0xC000_0207 + n % 240).into());
    let addresses = (0..16_384).map(|n: u32| Ipv4Addr::from_bits(0x0A09_0102 + (n << 8)).into());
    let rig = Rig::new()?;
    rig.host.ip("route add 10.0.0.0/8 via 10.9.1.2")?;
    rig.run(|| async {
        let netlink = Netlink::open()?;
        let began = Instant::now();
        let host = netlink.snapshot(targets).await?;
        let same = began.elapsed();
        assert_eq!(host.routes.len(), 240);
        let began = Instant::now();
        let host = netlink.snapshot(addresses).await?;
        let different = began.elapsed();
        assert_eq!(host.routes.len(), 16_384);
        println!("16,384 targets of 240 addresses: {same:?}; of as many: {different:?}");
        ensure!(same < different / 4, "{same:?} and {different:?}");
        Ok(())
    })
}

/// Each kind of change is told, a burst as one at once and one later, and a
/// storm once a second.
/// One socket answers one dump at a time. Some lose interest half-way, as an
/// agent does that looks again before it has seen all.
#[test]
fn many_look_at_once() -> Result<()> {
    let rig = Rig::new()?;
    for number in 0..200 {
        rig.host
            .ip(&format!("addr add 10.9.3.{number}/32 dev eth0"))?;
    }
    rig.run(|| async {
        let netlink = Netlink::open()?;
        for _ in 0..20 {
            let impatient = timeout(Duration::from_micros(700), snapshot(&netlink));
            let (left, a, b) = tokio::join!(impatient, snapshot(&netlink), snapshot(&netlink));
            drop(left);
            for host in [a?, b?, snapshot(&netlink).await?] {
                let found = interface(&host, "eth0")?.addresses.len();
                ensure!(found >= 201, "{found} addresses");
            }
        }
        Ok(())
    })
}

#[test]
fn changes_are_told() -> Result<()> {
    let rig = Rig::new()?;
    let changes = [
        ("addr add 10.9.1.3/32 dev eth0", "an address"),
        ("addr add 2001:db8:1::3/128 dev eth0", "an IPv6 address"),
        (
            "route add 2001:db8:9::/64 via 2001:db8:1::2",
            "an IPv6 route",
        ),
        ("route add 203.0.113.0/24 via 10.9.1.2", "a route"),
        ("rule add to 203.0.113.0/24 table 7", "a rule"),
        ("link set port0 up", "a link"),
        ("link del port0", "a link that goes"),
    ];
    let host = rig.host.clone();
    rig.run(|| async move {
        let mut told = Netlink::open()?.watch()?;
        let quiet = Duration::from_millis(1_300);
        while timeout(quiet, told.recv()).await.is_ok() {}
        for (words, what) in changes {
            host.ip(words)?;
            timeout(Duration::from_millis(500), told.recv())
                .await
                .with_context(|| format!("{what} was not told at once"))?
                .context("the watch has ended")?;
            while timeout(quiet, told.recv()).await.is_ok() {}
        }
        let storm = tokio::task::spawn_blocking(move || {
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end {
                host.ip("route add 203.0.114.0/24 via 10.9.1.2")?;
                host.ip("route del 203.0.114.0/24 via 10.9.1.2")?;
            }
            Ok::<_, anyhow::Error>(())
        });
        let mut count = 0;
        while timeout(quiet, told.recv()).await.is_ok() {
            count += 1;
        }
        storm.await??;
        ensure!(
            (2..=4).contains(&count),
            "a storm of two seconds was told {count} times"
        );
        Ok(())
    })
}
