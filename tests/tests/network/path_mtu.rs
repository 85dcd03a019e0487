//! Packets that are too big for a hop: whoever sends them is told, through the
//! balancer, and transfers finish.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use xlb_tests::{
    netns::Namespace,
    topology::{BALANCER, FAR_CLIENT, FREE, Family, Far, Peers, Place, Topology},
    tunnel::Encapsulation,
};

use super::{
    dsr::{Dsr, Way},
    scenario::{MEDIUM, Mode, SMALL, Setup},
};

/// Of the hop between router and client.
const NARROW: u16 = 1300;

/// The MTU of a path, as a host knows it; `None` if it was told of none.
fn known_mtu(host: &Namespace, to: IpAddr, from: Option<IpAddr>) -> Result<Option<u16>> {
    let from = from.map_or(String::new(), |from| format!("from {from}"));
    let route = host.ip(&format!("route get {to} {from}"))?;
    let mut words = route.split_whitespace();
    words.find(|word| *word == "mtu");
    Ok(words.next().map(str::parse).transpose()?)
}

fn expect_mtu(host: &Namespace, to: IpAddr, from: Option<IpAddr>, mtu: u16) -> Result<()> {
    let known = known_mtu(host, to, from)?;
    ensure!(
        known == Some(mtu),
        "the path to {to} has an MTU of {known:?}"
    );
    Ok(())
}

/// A download past a hop that full-sized packets don't fit through.
fn download_by_nat(family: Family, mode: Mode) -> Result<()> {
    let remote = if mode == Mode::Local { 0 } else { 1 };
    let mut topology = Topology::switched(remote, Peers::TakeXdp, Far::Client)?;
    topology.narrow(NARROW)?;
    if mode == Mode::Local {
        topology.targets = vec![Place {
            namespace: topology.balancer.clone(),
            address: Family::V4.at(BALANCER, 8081),
        }];
    }
    if mode == Mode::PreserveOneSide {
        lead_back(&topology)?;
    }
    topology.speak(family);
    let setup = Setup::in_family(family, mode, 1);
    let config = setup.config(&topology);
    let scenario = setup.start_with(topology, &config)?;
    scenario.download(MEDIUM)?;

    // The server's host learnt it: of the address that it knows the client by.
    let server = &scenario.topology.targets[0].namespace;
    let client = match mode.shows_client() {
        true => FAR_CLIENT,
        false => BALANCER,
    };
    expect_mtu(server, family.of(client), None, NARROW)
}

/// Makes the balancer the targets' gateway.
fn lead_back(topology: &Topology) -> Result<()> {
    for place in &topology.targets {
        for family in Family::BOTH {
            let gateway = family.of(BALANCER);
            let route = format!("route replace default via {gateway}");
            place.namespace.ip(&route)?;
        }
    }
    Ok(())
}

#[test]
fn download_source_nat_v4() -> Result<()> {
    download_by_nat(Family::V4, Mode::OneArm)
}

#[test]
fn download_source_nat_v6() -> Result<()> {
    download_by_nat(Family::V6, Mode::OneArm)
}

#[test]
fn download_local_v4() -> Result<()> {
    download_by_nat(Family::V4, Mode::Local)
}

#[test]
fn download_local_v6() -> Result<()> {
    download_by_nat(Family::V6, Mode::Local)
}

#[test]
fn download_preserve_client_ip_v4() -> Result<()> {
    download_by_nat(Family::V4, Mode::PreserveOneSide)
}

#[test]
fn download_preserve_client_ip_v6() -> Result<()> {
    download_by_nat(Family::V6, Mode::PreserveOneSide)
}

/// The router's message is for the listener's address, which the balancer
/// has: it must get to the target that the flow is at.
fn download_by_dsr(way: Way) -> Result<()> {
    let dsr = Dsr::start_with(way, 2, Far::Client, |topology, _| topology.narrow(NARROW))?;
    dsr.scenario.download(MEDIUM)?;
    let (client, vip) = (way.inner.of(FAR_CLIENT), way.inner.of(FREE));
    let targets = dsr.scenario.topology.targets.iter();
    let told = targets
        .map(|place| known_mtu(&place.namespace, client, Some(vip)))
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        told.iter().flatten().eq([&NARROW]),
        "not the one target was told: {told:?}"
    );
    Ok(())
}

#[test]
fn download_dsr_ipip_v4() -> Result<()> {
    download_by_dsr(Way::by(Encapsulation::Ipip, Family::V4, Family::V4))
}

#[test]
fn download_dsr_ipip_v6() -> Result<()> {
    download_by_dsr(Way::by(Encapsulation::Ipip, Family::V6, Family::V6))
}

#[test]
fn download_dsr_gue_v4() -> Result<()> {
    download_by_dsr(Way::by(Encapsulation::Gue, Family::V4, Family::V4))
}

#[test]
fn download_dsr_gue_v6() -> Result<()> {
    download_by_dsr(Way::by(Encapsulation::Gue, Family::V6, Family::V6))
}

#[test]
fn download_dsr_geneve_v4() -> Result<()> {
    download_by_dsr(Way::by(Encapsulation::Geneve, Family::V4, Family::V4))
}

#[test]
fn download_dsr_geneve_v6() -> Result<()> {
    download_by_dsr(Way::by(Encapsulation::Geneve, Family::V6, Family::V6))
}

#[test]
fn download_dsr_direct_v4() -> Result<()> {
    download_by_dsr(Way::plain(Family::V4))
}

#[test]
fn download_dsr_direct_v6() -> Result<()> {
    download_by_dsr(Way::plain(Family::V6))
}

#[test]
fn download_dsr_ipip_4in6() -> Result<()> {
    download_by_dsr(Way::by(Encapsulation::Ipip, Family::V4, Family::V6))
}

#[test]
fn download_dsr_ipip_6in4() -> Result<()> {
    download_by_dsr(Way::by(Encapsulation::Ipip, Family::V6, Family::V4))
}

/// The client is told by xlb what fits into the tunnel.
fn upload_by_dsr(way: Way) -> Result<()> {
    let dsr = Dsr::start(way, 1, Far::Nobody)?;
    dsr.scenario.upload(SMALL)?;
    let vip = way.inner.of(FREE);
    let fits = 1500 - way.overhead();
    expect_mtu(&dsr.scenario.topology.client, vip, None, fits)?;
    ensure!(dsr.scenario.drops("too_big")? > 0, "nothing was too big");
    Ok(())
}

#[test]
fn upload_dsr_ipip_v4() -> Result<()> {
    upload_by_dsr(Way::by(Encapsulation::Ipip, Family::V4, Family::V4))
}

#[test]
fn upload_dsr_ipip_6in4() -> Result<()> {
    upload_by_dsr(Way::by(Encapsulation::Ipip, Family::V6, Family::V4))
}

#[test]
fn upload_dsr_geneve_v6() -> Result<()> {
    upload_by_dsr(Way::by(Encapsulation::Geneve, Family::V6, Family::V6))
}

/// A hop behind the balancer is smaller: its router's message is about the
/// tunnel's packet, and the client learns what fits inside.
fn upload_past_a_narrow_hop(way: Way, narrow: u16) -> Result<()> {
    let dsr = Dsr::start_with(way, 1, Far::Targets, |topology, _| topology.narrow(narrow))?;
    dsr.scenario.upload(SMALL)?;
    let left = narrow - way.overhead();
    let fits = match way.inner {
        Family::V4 => left,
        // Less is no MTU of IPv6's: the router makes fragments of what is in IPv4.
        Family::V6 => left.max(1280),
    };
    expect_mtu(
        &dsr.scenario.topology.client,
        way.inner.of(FREE),
        None,
        fits,
    )
}

#[test]
fn upload_past_a_narrow_hop_ipip_v4() -> Result<()> {
    let way = Way::by(Encapsulation::Ipip, Family::V4, Family::V4);
    upload_past_a_narrow_hop(way, NARROW)
}

#[test]
fn upload_past_a_narrow_hop_gue_v4() -> Result<()> {
    let way = Way::by(Encapsulation::Gue, Family::V4, Family::V4);
    upload_past_a_narrow_hop(way, NARROW)
}

#[test]
fn upload_past_a_narrow_hop_geneve_v4() -> Result<()> {
    let way = Way::by(Encapsulation::Geneve, Family::V4, Family::V4);
    upload_past_a_narrow_hop(way, NARROW)
}

#[test]
fn upload_past_a_narrow_hop_ipip_4in6() -> Result<()> {
    let way = Way::by(Encapsulation::Ipip, Family::V4, Family::V6);
    upload_past_a_narrow_hop(way, NARROW)
}

#[test]
fn upload_past_a_narrow_hop_ipip_6in4() -> Result<()> {
    let way = Way::by(Encapsulation::Ipip, Family::V6, Family::V4);
    upload_past_a_narrow_hop(way, 1400)
}

#[test]
fn upload_past_a_narrow_hop_ipip_6in4_that_just_fits() -> Result<()> {
    let way = Way::by(Encapsulation::Ipip, Family::V6, Family::V4);
    upload_past_a_narrow_hop(way, NARROW)
}

#[test]
fn upload_past_a_narrow_hop_ipip_6in4_in_fragments() -> Result<()> {
    let way = Way::by(Encapsulation::Ipip, Family::V6, Family::V4);
    upload_past_a_narrow_hop(way, 1200)
}

#[test]
fn upload_past_a_narrow_hop_gue_6in4_in_fragments() -> Result<()> {
    let way = Way::by(Encapsulation::Gue, Family::V6, Family::V4);
    upload_past_a_narrow_hop(way, NARROW)
}

#[test]
fn upload_past_a_narrow_hop_geneve_v6() -> Result<()> {
    let way = Way::by(Encapsulation::Geneve, Family::V6, Family::V6);
    upload_past_a_narrow_hop(way, 1400)
}

/// Between balancer and target: the router's message is for the balancer if that
/// has written the source, else for the client, about an address it doesn't know.
fn upload_by_nat(family: Family, mode: Mode) -> Result<()> {
    let mut topology = Topology::switched(1, Peers::TakeXdp, Far::Targets)?;
    topology.narrow(NARROW)?;
    if mode == Mode::PreserveOneSide {
        topology.lead_back_by_balancer()?;
    }
    topology.speak(family);
    let setup = Setup::in_family(family, mode, 1);
    let config = setup.config(&topology);
    let scenario = setup.start_with(topology, &config)?;
    scenario.upload(SMALL)?;
    let listener = scenario.listener.ip();
    expect_mtu(&scenario.topology.client, listener, None, NARROW)
}

#[test]
fn upload_source_nat_v4() -> Result<()> {
    upload_by_nat(Family::V4, Mode::OneArm)
}

#[test]
fn upload_source_nat_v6() -> Result<()> {
    upload_by_nat(Family::V6, Mode::OneArm)
}

#[test]
fn upload_preserve_client_ip_v4() -> Result<()> {
    upload_by_nat(Family::V4, Mode::PreserveOneSide)
}

#[test]
fn upload_preserve_client_ip_v6() -> Result<()> {
    upload_by_nat(Family::V6, Mode::PreserveOneSide)
}
