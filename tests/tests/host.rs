//! What the agent sees of a host, in network namespaces. Needs root.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_user::host::{Host, Interface, Netlink, Route};
use tokio::time::{sleep, timeout};
use xlb_tests::{
    netns::{Namespace, Series},
    require_root,
};

const TARGET: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 2);
const BEHIND_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 1);
const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const BLACK_HOLE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 80);

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

async fn snapshot(netlink: &mut Netlink) -> Result<Host> {
    Ok(netlink
        .snapshot([TARGET, BEHIND_GATEWAY, OWN, NOWHERE, BLACK_HOLE])
        .await?)
}

fn interface<'a>(host: &'a Host, name: &str) -> Result<&'a Interface> {
    host.interface(name)
        .with_context(|| format!("{name} isn't in the snapshot"))
}

#[test]
fn interfaces_as_they_are() -> Result<()> {
    Rig::new()?.run(|| async {
        let host = snapshot(&mut Netlink::open()?).await?;
        let eth0 = interface(&host, "eth0")?;
        assert_eq!(
            (eth0.up, eth0.kind.as_deref(), eth0.vlan),
            (true, Some("veth"), None)
        );
        assert_eq!(eth0.addresses, [OWN]);
        assert_eq!(host.interfaces[&eth0.index], *eth0);

        let bridge = interface(&host, "br0")?;
        assert_eq!(interface(&host, "port0")?.controller, Some(bridge.index));
        assert_eq!(
            (eth0.controller, bridge.controller, bridge.up),
            (None, None, false)
        );
        assert!(host.owns(OWN) && host.owns(Ipv4Addr::new(10, 9, 2, 1)) && !host.owns(TARGET));
        Ok(())
    })
}

#[test]
fn routes_to_targets() -> Result<()> {
    Rig::new()?.run(|| async {
        let host = snapshot(&mut Netlink::open()?).await?;
        let by_eth0 = Route::Unicast {
            interface: interface(&host, "eth0")?.index,
            source: OWN,
        };
        assert_eq!(host.routes.get(&TARGET), Some(&by_eth0));
        assert_eq!(host.routes.get(&BEHIND_GATEWAY), Some(&by_eth0));
        assert_eq!(host.routes.get(&OWN), Some(&Route::Local));
        assert_eq!(
            (host.routes.get(&NOWHERE), host.routes.get(&BLACK_HOLE)),
            (None, None)
        );
        Ok(())
    })
}

/// A veth takes redirects once its peer has NAPI, which `gro on` gives it.
#[test]
fn xdp_features_follow_the_peer() -> Result<()> {
    let rig = Rig::new()?;
    let takes_redirects = || {
        let host = rig.run(|| async { snapshot(&mut Netlink::open()?).await })?;
        let features = interface(&host, "eth0")?.xdp_features;
        let features = features.context("the kernel tells no XDP features (before Linux 6.3)")?;
        Ok::<_, anyhow::Error>(features.takes_redirects())
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
    rig.host.sysctl("ipv4/ip_forward", "0")?;
    rig.host.sysctl("ipv4/conf/br0/forwarding", "1")?;
    rig.run(|| async {
        let host = snapshot(&mut Netlink::open()?).await?;
        let forwards = |name| Ok::<_, anyhow::Error>(interface(&host, name)?.forwarding);
        assert_eq!((forwards("eth0")?, forwards("br0")?), (false, true));
        Ok(())
    })
}

#[test]
fn an_address_is_added_and_removed_and_twice_is_no_error() -> Result<()> {
    Rig::new()?.run(|| async {
        let mut netlink = Netlink::open()?;
        let eth0 = interface(&snapshot(&mut netlink).await?, "eth0")?.index;
        for _ in 0..2 {
            netlink.add_address(eth0, VIP).await?;
            assert_eq!(
                interface(&snapshot(&mut netlink).await?, "eth0")?.addresses,
                [OWN, VIP]
            );
        }
        for _ in 0..2 {
            netlink.remove_address(eth0, VIP).await?;
            assert_eq!(
                interface(&snapshot(&mut netlink).await?, "eth0")?.addresses,
                [OWN]
            );
        }
        // The interface's own address isn't a single one: it stays.
        netlink.remove_address(eth0, OWN).await?;
        assert_eq!(
            interface(&snapshot(&mut netlink).await?, "eth0")?.addresses,
            [OWN]
        );
        netlink.remove_address(9_999, VIP).await?;
        ensure!(
            netlink.add_address(9_999, VIP).await.is_err(),
            "there is no interface 9999"
        );
        Ok(())
    })
}

/// Each kind of change is told, a burst as at most two.
#[test]
fn changes_are_told() -> Result<()> {
    let rig = Rig::new()?;
    let changes = [
        ("addr add 10.9.1.3/32 dev eth0", "an address"),
        ("route add 203.0.113.0/24 via 10.9.1.2", "a route"),
        ("link set port0 up", "a link"),
        ("link del port0", "a link that goes"),
    ];
    let host = rig.host.clone();
    rig.run(|| async move {
        let mut told = Netlink::open()?.watch()?;
        let quiet = Duration::from_millis(300);
        while timeout(quiet, told.recv()).await.is_ok() {}
        for (words, what) in changes {
            host.ip(words)?;
            timeout(Duration::from_secs(2), told.recv())
                .await
                .with_context(|| format!("{what} was not told"))?
                .context("the watch has ended")?;
            while timeout(quiet, told.recv()).await.is_ok() {}
        }
        for number in 10..60 {
            host.ip(&format!("addr add 10.9.1.{number}/32 dev eth0"))?;
        }
        sleep(quiet).await;
        let mut count = 0;
        while timeout(quiet, told.recv()).await.is_ok() {
            count += 1;
        }
        ensure!(
            (1..=2).contains(&count),
            "a burst of 50 changes was told {count} times"
        );
        Ok(())
    })
}
