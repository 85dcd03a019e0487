//! Direct server return: targets have the listener's address, take packets out
//! of whatever they come in, and answer clients past the balancer.

use anyhow::{Result, ensure};
use xlb_tests::{
    topology::{FREE, Family, Far, Peers, Topology},
    tunnel::{Encapsulation, Tunnel},
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
        let mut topology = Topology::switched(targets, Peers::TakeXdp, far)?;
        topology.speak(way.outer);
        let tunnels = take_packets(&topology, way)?;
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
fn take_packets(topology: &Topology, way: Way) -> Result<Vec<Tunnel>> {
    let (vip, bits) = (way.inner.of(FREE), way.inner.bits());
    let mut tunnels = Vec::new();
    for place in &topology.targets {
        let host = &place.namespace;
        host.sysctl("ipv4/conf/all/arp_ignore", "1")?;
        host.sysctl("ipv4/conf/all/arp_announce", "2")?;
        host.ip(&format!("address add {vip}/{bits} dev lo"))?;
        if let Some(encapsulation) = way.encapsulation {
            tunnels.push(Tunnel::start(host, encapsulation, way.outer, way.inner)?);
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
