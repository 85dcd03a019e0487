//! Networks to balance in. In all of them the balancer's interface towards the
//! clients is `eth0`. Whoever has an IPv4 address has the IPv6 one that belongs
//! to it too ([`Family::of`]).
//!
//! Two things make veth behave as network cards do: `tx off` at clients and
//! targets, so that packets bear full checksums, and (unless one asks for
//! [`Peers::Plain`]) a pass program at the balancer's peers, which also turns
//! on their NAPI: without it frames that XDP sends there are lost.

mod cables;
mod family;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result};

use crate::{
    directory::Directory,
    netns::{self, Namespace, Series},
    programs::{self, Attached},
    require_root,
};
use cables::{Router, as_wire, cable, configure, forward, gateway, plug, switch_on};
pub use family::Family;

/// The client in all topologies.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The balancer, towards the client.
pub const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// An address on the client's network that nobody has.
pub const FREE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
/// The client's address, and its router's, where it is behind one.
pub const FAR_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 2);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
const FAR_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 1);

/// The ends of a cable from the client to the first target, past the balancer.
const PAST_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 1);
const PAST_TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 2);
const PAST: &str = "past0";

/// Whether the balancer's peers take frames that XDP sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// They have a pass program, so they do.
    TakeXdp,
    /// As veth comes: what is sent by `XDP_TX` is lost.
    Plain,
}

/// Who is behind a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    Nobody,
    Client,
    Targets,
}

/// A place for a server.
#[derive(Clone, Debug)]
pub struct Place {
    pub namespace: Namespace,
    pub address: SocketAddr,
}

impl Place {
    /// Names it by its address in a family.
    pub fn speak(&mut self, family: Family) {
        if let IpAddr::V4(address) = self.address.ip() {
            self.address = family.at(address, self.address.port());
        }
    }
}

/// Namespaces and how they are connected.
#[derive(Debug)]
pub struct Topology {
    pub client: Namespace,
    pub balancer: Namespace,
    /// Where targets belong.
    pub targets: Vec<Place>,
    switch: Option<Namespace>,
    router: Option<Namespace>,
    /// Who is behind it.
    far: Vec<Ipv4Addr>,
    attached: Vec<Attached>,
    directory: Directory,
}

impl Topology {
    /// client — balancer, and the targets are ports of the balancer, from 8081.
    ///
    /// # Errors
    /// If a command fails; so in the other builders.
    pub fn one_host(targets: u16) -> Result<Self> {
        let (_, client, balancer) = start()?;
        connect(&client, &balancer)?;
        let targets = (1..=targets)
            .map(|n| Place {
                namespace: balancer.clone(),
                address: Family::V4.at(BALANCER, 8080 + n),
            })
            .collect();
        let programs = vec![programs::pass(&client, "eth0")?];
        Self::finish(client, balancer, targets, None, programs)
    }

    /// client — balancer — each target on a cable and network of its own; the
    /// balancer is everyone's gateway. Its interface to the nth is `eth<n>`.
    ///
    /// # Errors
    /// As above.
    pub fn routed(targets: u8, peers: Peers) -> Result<Self> {
        let (series, client, balancer) = start()?;
        connect(&client, &balancer)?;
        gateway(&client, BALANCER)?;
        let mut places = Vec::new();
        for n in 1..=targets {
            let (near, address) = (
                Ipv4Addr::new(10, 0, 10 + n, 1),
                Ipv4Addr::new(10, 0, 10 + n, 2),
            );
            let target = Namespace::create(series, &format!("target{n}"))?;
            let device = format!("eth{n}");
            cable((&target, "eth0"), (&balancer, &device))?;
            configure(&target, "eth0", address)?;
            configure(&balancer, &device, near)?;
            as_wire(&target, "eth0")?;
            gateway(&target, near)?;
            places.push(Place {
                namespace: target,
                address: Family::V4.at(address, 8080),
            });
        }
        let mut programs = Vec::new();
        if peers == Peers::TakeXdp {
            programs.push(programs::pass(&client, "eth0")?);
            for place in &places {
                programs.push(programs::pass(&place.namespace, "eth0")?);
            }
        }
        Self::finish(client, balancer, places, None, programs)
    }

    /// Client, balancer and targets on one switch, each with one interface.
    ///
    /// # Errors
    /// As above.
    pub fn one_arm(targets: u8, peers: Peers) -> Result<Self> {
        Self::switched(targets, peers, Far::Nobody)
    }

    /// The same, with the client or the targets behind a router, [`ROUTER`].
    ///
    /// # Errors
    /// As above.
    pub fn switched(targets: u8, peers: Peers, far: Far) -> Result<Self> {
        let (series, client, balancer) = start()?;
        let switch = Namespace::create(series, "switch")?;
        switch_on(&switch)?;
        plug(&switch, &balancer, "balancer", BALANCER)?;
        let router = Router::new(series, &switch, far)?;
        let mut hosts = Vec::new();
        match far {
            Far::Client => {
                router.attach(&client, "client", FAR_CLIENT)?;
                hosts.push(FAR_CLIENT);
            }
            Far::Nobody | Far::Targets => {
                plug(&switch, &client, "client", CLIENT)?;
                router.lead(&client)?;
            }
        }
        router.lead(&balancer)?;
        as_wire(&client, "eth0")?;
        let mut places = Vec::new();
        for n in 1..=targets {
            let target = Namespace::create(series, &format!("target{n}"))?;
            let name = format!("target{n}");
            let third = if far == Far::Targets { 3 } else { 2 };
            let address = Ipv4Addr::new(10, 0, third, 20 + n);
            if far == Far::Targets {
                router.attach(&target, &name, address)?;
                hosts.push(address);
            } else {
                plug(&switch, &target, &name, address)?;
                router.lead(&target)?;
            }
            as_wire(&target, "eth0")?;
            places.push(Place {
                namespace: target,
                address: Family::V4.at(address, 8080),
            });
        }
        let programs = match peers {
            Peers::TakeXdp => vec![programs::pass(&switch, "balancer")?],
            Peers::Plain => Vec::new(),
        };
        let mut topology = Self::finish(client, balancer, places, Some(switch), programs)?;
        topology.router = router.0;
        topology.far = hosts;
        Ok(topology)
    }

    /// Names the targets by their addresses in a family from now on.
    pub fn speak(&mut self, family: Family) {
        for place in &mut self.targets {
            place.speak(family);
        }
    }

    /// Connects the client to the first target by a cable of their own, past the
    /// balancer, and gives the target's address there.
    ///
    /// # Errors
    /// If a command fails.
    pub fn connect_past_balancer(&mut self) -> Result<SocketAddr> {
        let place = self.targets.first().context("there is no target")?;
        let target = place.namespace.clone();
        cable((&self.client, PAST), (&target, PAST))?;
        for (host, address) in [(&self.client, PAST_CLIENT), (&target, PAST_TARGET)] {
            configure(host, PAST, address)?;
            as_wire(host, PAST)?;
            self.attached.push(programs::pass(host, PAST)?);
        }
        Ok(Family::V4.at(PAST_TARGET, place.address.port()))
    }

    /// Has the first target take packets for an address that isn't its own, and
    /// answer the client past the balancer. They must have been
    /// [connected](Self::connect_past_balancer) so.
    ///
    /// # Errors
    /// If a command fails.
    pub fn answer_past_balancer(&self, address: Ipv4Addr) -> Result<()> {
        let target = &self
            .targets
            .first()
            .context("there is no target")?
            .namespace;
        target.sysctl("ipv4/conf/all/arp_ignore", "1")?;
        target.ip(&format!("address add {address}/32 dev lo"))?;
        target.ip(&format!("route add {CLIENT}/32 via {PAST_CLIENT}"))?;
        // What comes to the client this way has left it by another.
        for device in ["all", PAST] {
            let setting = format!("ipv4/conf/{device}/rp_filter");
            self.client.sysctl(&setting, "0")?;
        }
        Ok(())
    }

    /// Makes the balancer's devices behave as network cards do too.
    ///
    /// # Errors
    /// If a command fails.
    pub fn wire_balancer(&self) -> Result<()> {
        for device in self.balancer.devices()? {
            as_wire(&self.balancer, &device)?;
        }
        Ok(())
    }

    /// Makes the ways from the router to whoever is behind it ones with a smaller
    /// MTU, which only the router knows of.
    ///
    /// # Errors
    /// If there is no router, or a command fails.
    pub fn narrow(&self, mtu: u16) -> Result<()> {
        let router = self.router.as_ref().context("there is no router")?;
        for far in &self.far {
            for family in Family::BOTH {
                let (address, bits) = (family.of(*far), family.bits());
                router.ip(&format!(
                    "route add {address}/{bits} dev far0 mtu lock {mtu}"
                ))?;
            }
        }
        Ok(())
    }

    /// Has the router send what is for the client by the balancer.
    ///
    /// # Errors
    /// If there is no router, or a command fails.
    pub fn lead_back_by_balancer(&self) -> Result<()> {
        let router = self.router.as_ref().context("there is no router")?;
        for family in Family::BOTH {
            let (client, bits) = (family.of(CLIENT), family.bits());
            let balancer = family.of(BALANCER);
            router.ip(&format!("route add {client}/{bits} via {balancer}"))?;
        }
        Ok(())
    }

    /// Sets the MTU of every device.
    ///
    /// # Errors
    /// If a command fails.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        let hosts = [&self.client, &self.balancer];
        let hosts = hosts.into_iter().chain(self.switch.as_ref());
        let targets = self.targets.iter().map(|place| &place.namespace);
        for host in hosts.chain(targets) {
            for device in host.devices()? {
                host.ip(&format!("link set {device} mtu {mtu}"))?;
            }
        }
        Ok(())
    }

    /// Connects client and balancer again after their cable was deleted, by new
    /// devices of the same names.
    ///
    /// # Errors
    /// If a command fails.
    pub fn reconnect_client(&self) -> Result<()> {
        connect(&self.client, &self.balancer)
    }

    /// Makes the cable between client and balancer carry tagged frames only.
    /// The tags are in the frames, where XDP sees them, as from a switch's
    /// trunk; the hosts' kernels don't see them.
    ///
    /// # Errors
    /// If the kernel has no TCX, or a command fails.
    pub fn tag_client(&mut self) -> Result<()> {
        for host in [&self.client, &self.balancer] {
            self.attached.extend(programs::tag(host, "eth0")?);
            host.run("ethtool -K eth0 txvlan off")?;
        }
        Ok(())
    }

    /// A directory that lives as long as the topology, for logs and files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn finish(
        client: Namespace,
        balancer: Namespace,
        targets: Vec<Place>,
        switch: Option<Namespace>,
        programs: Vec<Attached>,
    ) -> Result<Self> {
        forward(&balancer)?;
        let directory = Directory::create()?;
        Ok(Self {
            client,
            balancer,
            targets,
            switch,
            router: None,
            far: Vec::new(),
            attached: programs,
            directory,
        })
    }
}

fn start() -> Result<(Series, Namespace, Namespace)> {
    require_root()?;
    netns::sweep()?;
    let series = Series::new();
    Ok((
        series,
        Namespace::create(series, "client")?,
        Namespace::create(series, "balancer")?,
    ))
}

/// Connects the client to the balancer, `eth0` to `eth0`.
fn connect(client: &Namespace, balancer: &Namespace) -> Result<()> {
    cable((client, "eth0"), (balancer, "eth0"))?;
    configure(client, "eth0", CLIENT)?;
    configure(balancer, "eth0", BALANCER)?;
    as_wire(client, "eth0")
}
