//! What a measurement is made in: a client, a target, and between them what is
//! measured. It is built anew each time, for what one leaves behind (ports in
//! TIME_WAIT, entries of conntrack) slows the next down.

use std::{
    net::{SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use xlb_tests::{
    balancer::{Balancer, Kind},
    server::{Kind as Server, WebServer},
    topology::{BALANCER, Family, Peers, Topology},
    tunnel::Encapsulation,
    xlb::{Config, Listener, TargetGroup, Xlb},
};

use super::{cpu, live::Live};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// A host that sends every frame back, and does nothing else.
    Reflect,
    /// One that sends every frame out of its other device.
    Forward,
    /// Nobody is in between.
    Direct,
    /// The host in between routes.
    Routed,
    Other(Kind),
    Xlb(Mode),
}

/// How xlb forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    SourceNat,
    /// The client's address is kept.
    Keep,
    Dsr,
    Tunnel(Encapsulation),
}

impl Case {
    pub const NFTABLES: Self = Self::Other(Kind::Nftables);
    pub const HAPROXY: Self = Self::Other(Kind::Haproxy);
    pub const NGINX: Self = Self::Other(Kind::Nginx);

    pub const fn name(self) -> &'static str {
        match self {
            Self::Reflect => "floor: XDP_TX",
            Self::Forward => "floor: XDP_REDIRECT",
            Self::Direct => "direct",
            Self::Routed => "routed",
            Self::NFTABLES => "nftables",
            Self::HAPROXY => "HAProxy",
            Self::NGINX => "nginx stream",
            Self::Xlb(mode) => match mode {
                Mode::SourceNat => "xlb nat",
                Mode::Keep => "xlb nat, client kept",
                Mode::Dsr => "xlb dsr",
                Mode::Tunnel(Encapsulation::Ipip) => "xlb dsr ipip",
                Mode::Tunnel(Encapsulation::Gue) => "xlb dsr gue",
                Mode::Tunnel(Encapsulation::Geneve) => "xlb dsr geneve",
            },
        }
    }
}

/// What clients want.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub protocol: &'static str,
    /// Where the target has it.
    pub port: u16,
}

/// Where the target's web server is, which is asked for its health too.
pub const WEB: u16 = 8080;
/// The balancer's port, unless it can't be another than the target's.
const PORT: u16 = 80;
const HEALTH: Duration = Duration::from_secs(8);

pub struct Rig {
    // Dropped in this order: namespaces last.
    pub xlb: Option<Xlb>,
    pub balancer: Option<Balancer>,
    /// What is attached to the balancer's devices.
    attached: Option<Live>,
    _web: WebServer,
    pub topology: Topology,
    /// Where the client finds the service.
    pub address: SocketAddr,
}

/// The cables, for a case.
pub fn network(case: Case, peers: Peers) -> Result<(Topology, Option<SocketAddr>)> {
    let mut topology = Topology::routed(1, peers)?;
    topology.wire_balancer()?;
    // So many that none is used twice within a measurement.
    let ports = ["ipv4/ip_local_port_range", "1024 65535"];
    topology.client.sysctl(ports[0], ports[1])?;
    let past = match case {
        Case::Direct | Case::Xlb(Mode::Dsr) => Some(topology.connect_past_balancer()?),
        _ => None,
    };
    match case {
        Case::Xlb(Mode::Dsr) => topology.answer_past_balancer(BALANCER)?,
        // They are clients of the target themselves.
        Case::HAPROXY | Case::NGINX => topology.balancer.sysctl(ports[0], ports[1])?,
        _ => {}
    }
    Ok((topology, past))
}

impl Rig {
    /// With everything that runs in it. The balancer's processes are kept on
    /// the CPU of what is measured if `pinned`.
    pub fn build(case: Case, service: Service, pinned: bool) -> Result<Self> {
        let (topology, past) = network(case, Peers::TakeXdp)?;
        Self::start(case, service, topology, past, pinned)
    }

    pub fn start(
        case: Case,
        service: Service,
        topology: Topology,
        past: Option<SocketAddr>,
        pinned: bool,
    ) -> Result<Self> {
        let mut place = topology.targets[0].clone();
        place.address.set_port(WEB);
        let web = WebServer::start(Server::Nginx, "web", &place, None, topology.directory())?;
        let target = SocketAddr::new(place.address.ip(), service.port);
        if pinned {
            // What is started here stays where this thread is now.
            cpu::pin(cpu::MEASURED)?;
        }
        let mut rig = Self {
            xlb: None,
            balancer: None,
            attached: None,
            _web: web,
            topology,
            address: target,
        };
        let balanced = rig.balance(case, service, target, past);
        if pinned {
            cpu::pin(cpu::OTHERS)?;
        }
        balanced.with_context(|| case.name().to_owned())?;
        Ok(rig)
    }

    fn balance(
        &mut self,
        case: Case,
        service: Service,
        target: SocketAddr,
        past: Option<SocketAddr>,
    ) -> Result<()> {
        let (host, directory) = (&self.topology.balancer, self.topology.directory());
        match case {
            Case::Reflect | Case::Routed => {}
            Case::Forward => {
                let mut live = Live::load()?;
                live.forward(&self.topology)?;
                self.attached = Some(live);
            }
            Case::Direct => {
                self.address = past.context("no way past the balancer")?;
                self.address.set_port(service.port);
            }
            Case::Other(kind) => {
                self.address = Family::V4.at(BALANCER, PORT);
                let balancer = Balancer::start(kind, host, self.address, target, directory)?;
                self.balancer = Some(balancer);
            }
            Case::Xlb(mode) => {
                let config = config(mode, service, target);
                self.address = config.listeners[0].address;
                let xlb = Xlb::start(host, &config, directory)?;
                xlb.wait_until_healthy(HEALTH)?;
                self.xlb = Some(xlb);
            }
        }
        Ok(())
    }

    /// The service's address, of IPv4 as everything here.
    pub fn address_v4(&self) -> Result<SocketAddrV4> {
        match self.address {
            SocketAddr::V4(address) => Ok(address),
            SocketAddr::V6(address) => bail!("{address} is of IPv6"),
        }
    }

    /// Fails if what is measured no longer runs, or had packets that it
    /// couldn't balance.
    pub fn check(&mut self) -> Result<()> {
        if let Some(balancer) = &mut self.balancer {
            balancer.check()?;
        }
        if let Some(xlb) = &self.xlb {
            let mut drops = xlb.status()?.drops;
            // What passes by: health checks, address resolution.
            drops.retain(|reason, count| *count > 0 && reason != "not_ours" && reason != "not_ip");
            anyhow::ensure!(
                drops.is_empty(),
                "xlb did not balance some packets: {drops:?}"
            );
        }
        Ok(())
    }
}

fn config(mode: Mode, service: Service, target: SocketAddr) -> Config {
    let (port, settings) = match mode {
        Mode::SourceNat | Mode::Keep => (PORT, String::new()),
        Mode::Dsr => (service.port, dsr("none")),
        Mode::Tunnel(Encapsulation::Ipip) => (service.port, dsr("ipip")),
        Mode::Tunnel(Encapsulation::Gue) => (service.port, dsr("gue")),
        Mode::Tunnel(Encapsulation::Geneve) => (service.port, dsr("geneve")),
    };
    Config {
        interfaces: vec!["eth0".into(), "eth1".into()],
        listeners: vec![Listener {
            name: "service".into(),
            address: Family::V4.at(BALANCER, port),
            ports: None,
            protocol: service.protocol,
            target_group: "service".into(),
            settings: String::new(),
        }],
        target_groups: vec![TargetGroup {
            name: "service".into(),
            targets: vec![(target, 1)],
            preserve_client_ip: mode == Mode::Keep,
            health_port: Some(WEB),
            settings,
        }],
        ..Config::default()
    }
}

fn dsr(encapsulation: &str) -> String {
    format!("forwarding = \"dsr\"\nencapsulation = \"{encapsulation}\"\n")
}
