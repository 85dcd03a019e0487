//! UDP through the balancer, to socat.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use xlb_tests::{
    client,
    process::Process,
    server::{Kind, WebServer, udp_echo},
    topology::{FREE, Family, Far, Place, Topology},
    tunnel::Encapsulation,
    wait,
    xlb::Xlb,
};

use super::{
    dsr::{Dsr, Way},
    scenario::{HEALTH, Mode, Setup},
};

/// Datagrams of all sorts of lengths, the longest that fit into 1500 bytes; the
/// last does so in IPv4 only.
const SIZES: [usize; 6] = [1, 2, 100, 511, 1452, 1472];
/// These come in two to six fragments.
const FRAGMENTED: [usize; 5] = [1473, 4000, 2000, 8000, 4000];

/// Echo services behind a listener, and the agent.
struct Echo {
    // Dropped in this order: the agent first, the namespaces last.
    xlb: Xlb,
    /// What answers the checks, socat can't.
    checked: Vec<WebServer>,
    _services: Vec<Process>,
    topology: Topology,
    listener: SocketAddr,
}

impl Echo {
    fn start(family: Family, mode: Mode) -> Result<Self> {
        Self::start_with(family, mode, "")
    }

    /// With these settings of the whole data path.
    fn start_with(family: Family, mode: Mode, settings: &str) -> Result<Self> {
        let setup = Setup::in_family(family, mode, 2);
        let topology = setup.topology()?;
        let mut config = setup.config(&topology);
        config.listeners[0].protocol = "udp";
        config.target_groups[0].health_port = Some(9000);
        config.settings = settings.into();
        let mut services = Vec::new();
        let mut checked = Vec::new();
        for (n, place) in topology.targets.iter().enumerate() {
            services.push(udp_echo(place, topology.directory())?);
            let mut beside = place.clone();
            beside.address.set_port(9000);
            // Local targets are one host, so that one is enough there.
            if mode != Mode::Local || n == 0 {
                let (name, directory) = (format!("check{n}"), topology.directory());
                let server = WebServer::start(Kind::Nginx, &name, &beside, None, directory)?;
                checked.push(server);
            }
        }
        let xlb = Xlb::start(&topology.balancer, &config, topology.directory())?;
        xlb.wait_until_healthy(HEALTH)?;
        Ok(Self {
            xlb,
            checked,
            _services: services,
            topology,
            listener: setup.listener,
        })
    }

    /// New flows of each target.
    fn new_flows(&self) -> Result<Vec<u64>> {
        let status = self.xlb.status()?;
        let targets = status.targets();
        Ok(targets
            .map(|(_, target)| target.traffic.new_flows)
            .collect())
    }
}

fn echo(family: Family, mode: Mode, sizes: &[usize]) -> Result<()> {
    let echo = Echo::start(family, mode)?;
    client::udp_echoes(&echo.topology.client, echo.listener, 20, sizes)?;
    let flows = echo.new_flows()?;
    // All 20 flows at one of two targets: a chance of 2 in a million.
    ensure!(
        flows.iter().sum::<u64>() == 20 && flows.iter().all(|&n| n > 0),
        "flows: {flows:?}"
    );
    Ok(())
}

/// A socket's flow goes on at the other target when its own turns unhealthy, and
/// stays there when that is healthy again.
fn moves(family: Family, mode: Mode) -> Result<()> {
    let echo = Echo::start(family, mode)?;
    let socket = client::udp_socket(&echo.topology.client, echo.listener)?;
    client::udp_echo(&socket, &[100; 3])?;
    let first = echo.new_flows()?;
    let own = first.iter().position(|&flows| flows > 0);
    let own = own.context("no target has the flow")?;
    let target = echo.topology.targets[own].address;
    let wait = |health| echo.xlb.wait_for_health(target, health, HEALTH);

    echo.checked[own].set_health(false)?;
    wait("unhealthy")?;
    client::udp_echo(&socket, &[200; 3])?;
    echo.checked[own].set_health(true)?;
    wait("healthy")?;
    client::udp_echo(&socket, &[300; 3])?;
    let flows = (first, echo.new_flows()?);
    let moved = match own {
        0 => (vec![1, 0], vec![1, 1]),
        _ => (vec![0, 1], vec![1, 1]),
    };
    ensure!(flows == moved, "flows before and after: {flows:?}");
    Ok(())
}

#[test]
fn flows_move_source_nat_v4() -> Result<()> {
    moves(Family::V4, Mode::OneArm)
}

#[test]
fn flows_move_preserve_client_ip_v6() -> Result<()> {
    moves(Family::V6, Mode::Preserve)
}

/// A socket's flow lives while it has something to say at least every two
/// seconds; then the next datagram begins another, and is answered too.
fn idle(family: Family, mode: Mode) -> Result<()> {
    let echo = Echo::start_with(family, mode, "timeouts.udp = \"2s\"\n")?;
    let flows = || Ok::<u64, anyhow::Error>(echo.new_flows()?.iter().sum());
    let socket = client::udp_socket(&echo.topology.client, echo.listener)?;
    for _ in 0..4 {
        client::udp_echo(&socket, &[100])?;
        wait::pause(Duration::from_millis(1500))?;
    }
    let busy = flows()?;
    ensure!(busy == 1, "{busy} flows of a socket that was never idle");
    // Not so long that it must have been swept.
    wait::pause(Duration::from_millis(2500))?;
    client::udp_echo(&socket, &[100])?;
    let idle = flows()?;
    ensure!(idle == 2, "{idle} flows of a socket that was idle once");
    Ok(())
}

#[test]
fn idle_source_nat_v4() -> Result<()> {
    idle(Family::V4, Mode::OneArm)
}

#[test]
fn idle_local_v6() -> Result<()> {
    idle(Family::V6, Mode::Local)
}

/// In `dsr` every fragment must get to where the first went, where the whole
/// datagram is put together.
fn echo_by_dsr(way: Way) -> Result<()> {
    let vip = way.inner.of(FREE);
    let dsr = Dsr::start_with(way, 2, Far::Nobody, |topology, config| {
        config.listeners[0].protocol = "udp";
        config.target_groups[0].health_port = Some(8080);
        // Fragments that fit into other packets.
        let bits = way.inner.bits();
        let route = format!("route add {vip}/{bits} dev eth0 mtu 1400");
        topology.client.ip(&route).map(drop)
    })?;
    let topology = &dsr.scenario.topology;
    let mut services = Vec::new();
    for place in &topology.targets {
        let place = Place {
            address: SocketAddr::new(vip, 8080),
            ..place.clone()
        };
        // Each with a log of its own.
        let directory = topology.directory().join(place.namespace.name());
        fs::create_dir_all(&directory)?;
        services.push(udp_echo(&place, &directory)?);
    }
    client::udp_echoes(&topology.client, dsr.scenario.listener, 20, &FRAGMENTED)?;
    let status = dsr.scenario.xlb.status()?;
    let traffic = status.listeners[0].traffic;
    let datagrams = 20 * FRAGMENTED.len() as u64;
    ensure!(
        traffic.new_flows == 20 && traffic.forward_packets > 2 * datagrams,
        "not in fragments: {traffic:?}"
    );
    let mut targets = status.targets();
    ensure!(
        targets.all(|(_, target)| target.traffic.new_flows > 0),
        "all flows at one target"
    );
    ensure!(
        way.encapsulation.is_none() || dsr.decapsulated()? > 2 * datagrams,
        "packets weren't taken out of others"
    );
    Ok(())
}

macro_rules! fragments_by_dsr {
    ($($name:ident: $way:expr;)+) => {
        $(#[test]
        fn $name() -> Result<()> {
            echo_by_dsr($way)
        })+
    };
}

fragments_by_dsr! {
    fragments_dsr_none_v4: Way::plain(Family::V4);
    fragments_dsr_none_v6: Way::plain(Family::V6);
    fragments_dsr_ipip_4in4: Way::by(Encapsulation::Ipip, Family::V4, Family::V4);
    fragments_dsr_ipip_6in4: Way::by(Encapsulation::Ipip, Family::V6, Family::V4);
    fragments_dsr_gue_v6: Way::by(Encapsulation::Gue, Family::V6, Family::V6);
}

macro_rules! in_both_families {
    ($($name:ident: $mode:ident;)+) => {
        $(mod $name {
            use super::{Family, FRAGMENTED, Mode, Result, SIZES, echo};

            #[test]
            fn v4() -> Result<()> {
                echo(Family::V4, Mode::$mode, &SIZES)
            }

            #[test]
            fn v6() -> Result<()> {
                echo(Family::V6, Mode::$mode, &SIZES[..5])
            }

            #[test]
            fn v4_fragments() -> Result<()> {
                echo(Family::V4, Mode::$mode, &FRAGMENTED)
            }

            #[test]
            fn v6_fragments() -> Result<()> {
                echo(Family::V6, Mode::$mode, &FRAGMENTED)
            }
        })+
    };
}

in_both_families! {
    local: Local;
    source_nat_one_arm: OneArm;
    source_nat_other_interface: OtherInterface;
    preserve_client_ip: Preserve;
    preserve_client_ip_one_side: PreserveOneSide;
}
