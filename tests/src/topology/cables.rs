//! Devices, addresses and routes.

use std::{net::Ipv4Addr, thread};

use anyhow::{Context, Result};

use super::{FAR_ROUTER, Family, Far, ROUTER};
use crate::{
    command::run,
    netns::{Namespace, Series},
};

/// A router between the switch and a network behind it; or none, where
/// everybody is on the switch.
pub(super) struct Router(pub(super) Option<Namespace>);

impl Router {
    pub(super) fn new(series: Series, switch: &Namespace, far: Far) -> Result<Self> {
        if far == Far::Nobody {
            return Ok(Self(None));
        }
        let router = Namespace::create(series, "router")?;
        plug(switch, &router, "router", ROUTER)?;
        router.ip("link add far0 type bridge mcast_snooping 0")?;
        configure(&router, "far0", FAR_ROUTER)?;
        forward(&router)?;
        as_wire(&router, "eth0")?;
        Ok(Self(Some(router)))
    }

    /// Connects a host to the network behind it.
    pub(super) fn attach(&self, host: &Namespace, name: &str, address: Ipv4Addr) -> Result<()> {
        let router = self.0.as_ref().context("there is no router")?;
        cable((host, "eth0"), (router, name))?;
        router.ip(&format!("link set {name} master far0"))?;
        router.ip(&format!("link set {name} up"))?;
        configure(host, "eth0", address)?;
        gateway(host, FAR_ROUTER)
    }

    /// Tells a host on the switch the way behind it.
    pub(super) fn lead(&self, host: &Namespace) -> Result<()> {
        match self.0 {
            Some(_) => gateway(host, ROUTER),
            None => Ok(()),
        }
    }
}

/// Connects two namespaces by a veth pair.
pub(super) fn cable(left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<()> {
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

pub(super) fn switch_on(switch: &Namespace) -> Result<()> {
    switch.ip("link add br0 type bridge mcast_snooping 0")?;
    switch.ip("link set br0 up").map(drop)
}

/// Connects a host's `eth0` to a port of the switch.
pub(super) fn plug(
    switch: &Namespace,
    host: &Namespace,
    port: &str,
    address: Ipv4Addr,
) -> Result<()> {
    cable((host, "eth0"), (switch, port))?;
    switch.ip(&format!("link set {port} master br0"))?;
    switch.ip(&format!("link set {port} up"))?;
    configure(host, "eth0", address)
}

pub(super) fn configure(host: &Namespace, device: &str, address: Ipv4Addr) -> Result<()> {
    // IPv6's go when a device goes down, so it must be up before.
    host.ip(&format!("link set {device} up"))?;
    for family in Family::BOTH {
        let (address, prefix) = (family.of(address), family.prefix());
        host.ip(&format!("address add {address}/{prefix} dev {device}"))?;
    }
    Ok(())
}

pub(super) fn gateway(host: &Namespace, gateway: Ipv4Addr) -> Result<()> {
    for family in Family::BOTH {
        host.ip(&format!("route add default via {}", family.of(gateway)))?;
    }
    Ok(())
}

pub(super) fn forward(host: &Namespace) -> Result<()> {
    host.sysctl("ipv4/ip_forward", "1")?;
    host.sysctl("ipv6/conf/all/forwarding", "1")
}

/// What is sent has its checksum computed; what comes goes through NAPI, and
/// all of one connection through one CPU.
pub(super) fn as_wire(host: &Namespace, device: &str) -> Result<()> {
    host.run(&format!("ethtool -K {device} tx off gro on"))?;
    scale(host, device)
}

/// Picks the CPU by a packet's flow, as a NIC with several queues does; veth
/// stays on the sender's. Else a client's ACK and its request may come to a
/// server on two CPUs at the same moment. Linux (`inet_ehash_insert`, 6.18)
/// takes the request socket out of its table before the connection is in, and
/// for the one that finds neither there is a RST: with nothing between client
/// and server that was seen three times in 1.2 million handshakes sent so.
fn scale(host: &Namespace, device: &str) -> Result<()> {
    let cpus = thread::available_parallelism()?.get().min(32);
    let mask = (1_u64 << cpus) - 1;
    let queue = format!("/sys/class/net/{device}/queues/rx-0/rps_cpus");
    let write = format!("echo {mask:x} > {queue}");
    run(host.command("sh").args(["-c", &write])).map(drop)
}
