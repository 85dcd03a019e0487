//! Several interfaces, and ones that are or belong to others.
//!
//! Not here: bonds and VLAN devices, which the kernel that this was written on
//! can't make. Tagged frames are in `download`.

use anyhow::{Result, ensure};
use xlb_tests::{
    client,
    server::{Kind, WebServer},
    topology::{BALANCER, Family, Peers, Topology},
    xlb::Xlb,
};

use super::scenario::{HEALTH, Mode, SMALL, Setup};

/// Clients on two networks use the balancer's addresses there, and each other's.
#[test]
fn listeners_on_two_interfaces() -> Result<()> {
    let topology = Mode::OtherInterface.topology(2, Peers::TakeXdp)?;
    let directory = topology.directory();
    let server = &topology.targets[0];
    let _web = WebServer::start(Kind::Nginx, "web1", server, None, directory)?;
    let target = server.address.to_string();
    let words = "--interface eth0 --interface eth1 --interface eth2 --listen :80 \
                 --health-interval 1s --target";
    let mut arguments: Vec<&str> = words.split_whitespace().collect();
    arguments.push(&target);
    let xlb = Xlb::run(&topology.balancer, &arguments, directory)?;
    xlb.wait_until_healthy(HEALTH)?;
    let second = [10, 0, 12, 1].into();
    for client in [&topology.client, &topology.targets[1].namespace] {
        for address in [BALANCER, second] {
            let url = format!("http://{address}/");
            let spread = client::spread(client, &url, 50)?;
            ensure!(
                spread.of("web1") == 50,
                "{url} from {}: {spread:?}",
                client.name()
            );
        }
    }
    let flows = xlb.status()?.listeners[0].traffic.new_flows;
    ensure!(flows == 200, "{flows} flows");
    Ok(())
}

/// Puts the balancer's interface into a bridge, which gets its addresses.
fn bridge(topology: &Topology) -> Result<()> {
    let host = &topology.balancer;
    host.ip("link add br0 type bridge mcast_snooping 0")?;
    host.ip("link set br0 address 02:00:00:00:00:42")?;
    host.ip("address flush dev eth0 scope global")?;
    host.ip("link set eth0 master br0")?;
    host.ip("link set br0 up")?;
    for family in Family::BOTH {
        let (address, prefix) = (family.of(BALANCER), family.prefix());
        host.ip(&format!("address add {address}/{prefix} dev br0"))?;
    }
    Ok(())
}

fn at_bridge(interface: &str, family: Family, mode: Mode) -> Result<()> {
    let setup = Setup::in_family(family, mode, 2);
    let topology = setup.topology()?;
    bridge(&topology)?;
    let mut config = setup.config(&topology);
    config.interfaces = vec![interface.to_owned()];
    let scenario = setup.start_with(topology, &config)?;
    ensure!(scenario.spread(50)?.by_name.len() == 2, "one target only");
    scenario.download(SMALL)?;
    let flows = scenario.xlb.status()?.listeners[0].traffic.new_flows;
    ensure!(flows == 51, "{flows} flows");
    Ok(())
}

#[test]
fn a_bridge_local() -> Result<()> {
    at_bridge("br0", Family::V4, Mode::Local)
}

#[test]
fn a_bridge_source_nat_v6() -> Result<()> {
    at_bridge("br0", Family::V6, Mode::OneArm)
}

#[test]
fn a_port_of_a_bridge_local() -> Result<()> {
    at_bridge("eth0", Family::V4, Mode::Local)
}

#[test]
fn a_port_of_a_bridge_source_nat() -> Result<()> {
    at_bridge("eth0", Family::V4, Mode::OneArm)
}
