//! Direct server return: targets have the listener's address, take packets out
//! of whatever they come in, and answer clients past the balancer.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use xlb_tests::{
    topology::{FREE, Family, Far, Peers, Topology},
    tunnel::{Encapsulation, Tunnel, Ways},
    xlb::Config,
};

use super::scenario::{MEDIUM, Mode, SMALL, Scenario, Setup};

/// How packets get to the targets.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// None: by the targets' MAC addresses.
    pub encapsulation: Option<Encapsulation>,
    /// The clients' family, and the targets'.
    pub inner: Family,
    pub outer: Family,
}

impl Way {
    pub const fn plain(family: Family) -> Self {
        Self {
            encapsulation: None,
            inner: family,
            outer: family,
        }
    }

    pub const fn by(encapsulation: Encapsulation, inner: Family, outer: Family) -> Self {
        Self {
            encapsulation: Some(encapsulation),
            inner,
            outer,
        }
    }

    const fn name(self) -> &'static str {
        match self.encapsulation {
            None => "none",
            Some(Encapsulation::Ipip) => "ipip",
            Some(Encapsulation::Gue) => "gue",
            Some(Encapsulation::Geneve) => "geneve",
        }
    }

    /// Bytes that are added.
    pub const fn overhead(self) -> u16 {
        let outer = match self.outer {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        match self.encapsulation {
            None => 0,
            Some(Encapsulation::Ipip) => outer,
            Some(Encapsulation::Gue) => outer + 8,
            Some(Encapsulation::Geneve) => outer + 16,
        }
    }
}

/// A scenario whose targets' hosts take packets for the listener.
pub struct Dsr {
    pub scenario: Scenario,
    pub config: Config,
    pub tunnels: Vec<Tunnel>,
}

impl Dsr {
    pub fn start(way: Way, targets: u8, far: Far) -> Result<Self> {
        Self::start_with(way, targets, far, |_, _| Ok(()))
    }

    /// The same after a change of the topology or the configuration.
    pub fn start_with(
        way: Way,
        targets: u8,
        far: Far,
        change: impl FnOnce(&Topology, &mut Config) -> Result<()>,
    ) -> Result<Self> {
        Self::start_at(way, None, targets, far, change)
    }

    /// The same with another UDP port and virtual network than usual.
    fn start_at(
        way: Way,
        at: Option<(u16, u32)>,
        targets: u8,
        far: Far,
        change: impl FnOnce(&Topology, &mut Config) -> Result<()>,
    ) -> Result<Self> {
        let mut topology = Topology::switched(targets, Peers::TakeXdp, far)?;
        topology.speak(way.outer);
        let tunnels = take_packets(&topology, way, at)?;
        let setup = Setup {
            family: way.outer,
            // The targets' port.
            listener: way.inner.at(FREE, 8080),
            ..Setup::new(Mode::OneArm, targets.into())
        };
        let mut config = setup.config(&topology);
        config.target_groups[0].settings =
            format!("forwarding = \"dsr\"\nencapsulation = \"{}\"\n", way.name());
        change(&topology, &mut config)?;
        let scenario = setup.start_with(topology, &config)?;
        Ok(Self {
            scenario,
            config,
            tunnels,
        })
    }

    /// Packets that the targets' hosts took out of others.
    pub fn decapsulated(&self) -> Result<u64> {
        self.tunnels.iter().map(Tunnel::packets).sum()
    }
}

/// What the manual asks of a target's host.
fn take_packets(topology: &Topology, way: Way, at: Option<(u16, u32)>) -> Result<Vec<Tunnel>> {
    let (vip, bits) = (way.inner.of(FREE), way.inner.bits());
    let mut tunnels = Vec::new();
    for place in &topology.targets {
        let host = &place.namespace;
        host.sysctl("ipv4/conf/all/arp_ignore", "1")?;
        host.sysctl("ipv4/conf/all/arp_announce", "2")?;
        host.ip(&format!("address add {vip}/{bits} dev lo"))?;
        if let Some(encapsulation) = way.encapsulation {
            let (port, virtual_network) = at.unwrap_or((encapsulation.port(), 0));
            let ways = Ways {
                encapsulation,
                port,
                virtual_network,
                outer: way.outer,
                inner: way.inner,
            };
            tunnels.push(Tunnel::start(host, ways)?);
        }
    }
    Ok(tunnels)
}

fn works(way: Way) -> Result<()> {
    let dsr = Dsr::start(way, 2, Far::Nobody)?;
    let scenario = &dsr.scenario;
    let spread = scenario.spread(100)?;
    // All of 100 at one of two targets: a chance of 2^-99.
    ensure!(spread.by_name.len() == 2, "{spread:?}");
    scenario.check_client_address(Mode::Preserve)?;
    scenario.download(MEDIUM)?;
    // Full-sized packets don't fit into others until the client was told.
    scenario.upload(SMALL)?;

    let traffic = scenario.xlb.status()?.listeners[0].traffic;
    ensure!(
        traffic.reply_packets == 0 && traffic.new_flows == 103,
        "not past the balancer: {traffic:?}"
    );
    let decapsulated = dsr.decapsulated()?;
    ensure!(
        way.encapsulation.is_none() || decapsulated > 1000,
        "only {decapsulated} packets were taken out of others"
    );
    Ok(())
}

macro_rules! ways {
    ($($name:ident: $way:expr;)+) => {
        $(#[test]
        fn $name() -> Result<()> {
            works($way)
        })+
    };
}

use Encapsulation::{Geneve, Gue, Ipip};
use Family::{V4, V6};

ways! {
    none_v4: Way::plain(V4);
    none_v6: Way::plain(V6);
    ipip_4in4: Way::by(Ipip, V4, V4);
    ipip_6in6: Way::by(Ipip, V6, V6);
    ipip_4in6: Way::by(Ipip, V4, V6);
    ipip_6in4: Way::by(Ipip, V6, V4);
    gue_v4: Way::by(Gue, V4, V4);
    gue_v6: Way::by(Gue, V6, V6);
    geneve_v4: Way::by(Geneve, V4, V4);
    geneve_v6: Way::by(Geneve, V6, V6);
}

/// Sources of a prefix, another UDP port and a virtual network.
fn settings(way: Way, prefix: &str, may_be: fn(IpAddr) -> bool) -> Result<()> {
    let at = (7_081, 0x00AB_CDEF);
    let dsr = Dsr::start_at(way, Some(at), 1, Far::Nobody, |topology, config| {
        let (port, network) = at;
        let settings = &mut config.target_groups[0].settings;
        settings.push_str(&format!(
            "encapsulation_port = {port}\nencapsulation_source = \"{prefix}\"\n"
        ));
        if way.encapsulation == Some(Geneve) {
            settings.push_str(&format!("virtual_network = {network}\n"));
        }
        for place in &topology.targets {
            place.namespace.sysctl("ipv4/conf/eth0/rp_filter", "0")?;
        }
        Ok(())
    })?;
    dsr.scenario.spread(100)?;
    dsr.scenario.download(SMALL)?;
    let packets = dsr.decapsulated()?;
    let sources = dsr.tunnels[0].sources();
    // Of 254 addresses 101 flows take 83, more or less.
    ensure!(
        packets > 300 && sources.len() > 60 && sources.iter().all(|&source| may_be(source)),
        "{packets} packets, from {sources:?}"
    );
    Ok(())
}

#[test]
fn geneve_with_every_setting_v4() -> Result<()> {
    let is_of_prefix = |source: IpAddr| source.to_string().starts_with("172.16.5.");
    settings(Way::by(Geneve, V4, V4), "172.16.5.0/24", is_of_prefix)
}

#[test]
fn gue_with_every_setting_v6() -> Result<()> {
    let is_of_prefix = |source: IpAddr| source.to_string().starts_with("fd00:5::");
    settings(Way::by(Gue, V6, V6), "fd00:5::/120", is_of_prefix)
}
