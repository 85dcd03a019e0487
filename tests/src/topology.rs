//! Networks to balance in. In all of them the balancer's interface towards the
//! clients is `eth0`.
//!
//! Two things make veth behave as network cards do: `tx off` at clients and
//! targets, so that packets bear full checksums, and (unless one asks for
//! [`Peers::Plain`]) a pass program at the balancer's peers, which also turns
//! on their NAPI: without it frames that XDP sends there are lost.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    netns::{self, Namespace, Series},
    programs::{self, Attached},
    require_root,
};

/// The client in all topologies.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The balancer, towards the client.
pub const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// An address on the client's network that nobody has.
pub const FREE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
/// Whether the balancer's peers take frames that XDP sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// They have a pass program, so they do.
    TakeXdp,
    /// As veth comes: what is sent by `XDP_TX` is lost.
    Plain,
}

/// A place for a server.
#[derive(Clone, Debug)]
pub struct Place {
    pub namespace: Namespace,
    pub address: SocketAddrV4,
}

/// Namespaces and how they are connected.
#[derive(Debug)]
pub struct Topology {
    pub client: Namespace,
    pub balancer: Namespace,
    /// Where targets belong.
    pub targets: Vec<Place>,
    _switch: Option<Namespace>,
    attached: Vec<Attached>,
    directory: TempDir,
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
                address: SocketAddrV4::new(BALANCER, 8080 + n),
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
        client.ip(&format!("route add default via {BALANCER}"))?;
        let mut places = Vec::new();
        for n in 1..=targets {
            let (gateway, address) = (
                Ipv4Addr::new(10, 0, 10 + n, 1),
                Ipv4Addr::new(10, 0, 10 + n, 2),
            );
            let target = Namespace::create(series, &format!("target{n}"))?;
            let device = format!("eth{n}");
            cable((&target, "eth0"), (&balancer, &device))?;
            configure(&target, "eth0", address)?;
            configure(&balancer, &device, gateway)?;
            as_wire(&target, "eth0")?;
            target.ip(&format!("route add default via {gateway}"))?;
            places.push(Place {
                namespace: target,
                address: SocketAddrV4::new(address, 8080),
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
        let (series, client, balancer) = start()?;
        let switch = Namespace::create(series, "switch")?;
        switch.ip("link add br0 type bridge mcast_snooping 0")?;
        switch.ip("link set br0 up")?;
        plug(&switch, &client, "client", CLIENT)?;
        plug(&switch, &balancer, "balancer", BALANCER)?;
        as_wire(&client, "eth0")?;
        let mut places = Vec::new();
        for n in 1..=targets {
            let address = Ipv4Addr::new(10, 0, 2, 20 + n);
            let target = Namespace::create(series, &format!("target{n}"))?;
            plug(&switch, &target, &format!("target{n}"), address)?;
            as_wire(&target, "eth0")?;
            places.push(Place {
                namespace: target,
                address: SocketAddrV4::new(address, 8080),
            });
        }
        let programs = match peers {
            Peers::TakeXdp => vec![programs::pass(&switch, "balancer")?],
            Peers::Plain => Vec::new(),
        };
        Self::finish(client, balancer, places, Some(switch), programs)
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
        balancer.sysctl("ipv4/ip_forward", "1")?;
        let directory = TempDir::with_prefix(netns::prefix()).context("no temporary directory")?;
        Ok(Self {
            client,
            balancer,
            targets,
            _switch: switch,
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

/// Connects two namespaces by a veth pair.
fn cable(left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<()> {
    crate::command::run_words(&[
        "ip",
        "link",
        "add",
        "name",
        left.1,
        "netns",
        left.0.name(),
        "type",
        "veth",
        "peer",
        "name",
        right.1,
        "netns",
        right.0.name(),
    ])
    .map(drop)
}

/// Connects a host's `eth0` to a port of the switch.
fn plug(switch: &Namespace, host: &Namespace, port: &str, address: Ipv4Addr) -> Result<()> {
    cable((host, "eth0"), (switch, port))?;
    switch.ip(&format!("link set {port} master br0"))?;
    switch.ip(&format!("link set {port} up"))?;
    configure(host, "eth0", address)
}

fn configure(host: &Namespace, device: &str, address: Ipv4Addr) -> Result<()> {
    host.ip(&format!("address add {address}/24 dev {device}"))?;
    host.ip(&format!("link set {device} up")).map(drop)
}

/// What is sent has its checksum computed; what comes goes through NAPI.
fn as_wire(host: &Namespace, device: &str) -> Result<()> {
    host.run(&format!("ethtool -K {device} tx off gro on"))
        .map(drop)
}
