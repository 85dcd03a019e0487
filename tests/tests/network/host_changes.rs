//! The host's own configuration changes while the agent runs: addresses,
//! routes and neighbours are followed without a restart.

use std::time::Duration;

use anyhow::{Result, ensure};
use xlb_tests::{
    client,
    netns::Namespace,
    server::{Kind, WebServer},
    topology::{BALANCER, FREE, Family, Peers, Place, Topology},
    wait,
    xlb::Xlb,
};

use super::scenario::{HEALTH, Mode, Setup, VIP};

const SOON: Duration = Duration::from_secs(5);

/// Waits until the body of an answer is as expected; failures are waited out.
fn wait_for_answer(client: &Namespace, url: &str, expected: &str) -> Result<()> {
    wait::until(&format!("{url} to answer {expected}"), SOON, || {
        let answer = client::get(client, url);
        Ok(answer
            .is_ok_and(|body| body.trim() == expected)
            .then_some(()))
    })
}

#[test]
fn an_added_address_is_listened_on_and_a_removed_one_is_not() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let directory = topology.directory();
    let _web = WebServer::start(Kind::Nginx, "web1", &topology.targets[0], None, directory)?;
    let arguments = "--interface eth0 --listen :80 --target :8081 --health-interval 1s";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let xlb = Xlb::run(&topology.balancer, &arguments, directory)?;
    xlb.wait_until_healthy(HEALTH)?;

    let url = format!("http://{FREE}/");
    ensure!(
        client::get(&topology.client, &url).is_err(),
        "nobody has {FREE} yet"
    );
    topology
        .balancer
        .ip(&format!("address add {FREE}/24 dev eth0"))?;
    wait_for_answer(&topology.client, &url, "web1")?;

    topology
        .balancer
        .ip(&format!("address del {FREE}/24 dev eth0"))?;
    // The neighbour entry still leads here, so what comes shows the maps.
    topology
        .balancer
        .ip(&format!("address add {FREE}/32 dev lo"))?;
    wait::until("the listener to leave the removed address", SOON, || {
        Ok(client::get(&topology.client, &url).is_err().then_some(()))
    })?;
    wait_for_answer(&topology.client, &format!("http://{BALANCER}/"), "web1")
}

/// A target's address moves from behind one interface to behind another, and
/// with it the address that source NAT must write.
#[test]
fn a_route_that_changes_is_followed() -> Result<()> {
    let address = Family::V4.at([10, 99, 0, 1].into(), 8080);
    let topology = Topology::routed(2, Peers::TakeXdp)?;
    let setup = Setup {
        weights: vec![1],
        ..Setup::new(Mode::OtherInterface, 1)
    };
    let mut servers = Vec::new();
    for (index, place) in topology.targets.iter().enumerate() {
        place
            .namespace
            .ip(&format!("address add {}/32 dev lo", address.ip()))?;
        let name = format!("web{}", index + 1);
        servers.push(WebServer::start(
            Kind::Nginx,
            &name,
            place,
            None,
            topology.directory(),
        )?);
    }
    let route = |via: &Place| format!("route replace {}/32 via {}", address.ip(), via.address.ip());
    topology.balancer.ip(&route(&topology.targets[0]))?;
    let mut config = setup.config(&topology);
    config.interfaces = Mode::OtherInterface.interfaces(2);
    config.target_groups[0].targets = vec![(address, 1)];
    let xlb = Xlb::start(&topology.balancer, &config, topology.directory())?;
    xlb.wait_until_healthy(HEALTH)?;
    let url = format!("http://{VIP}/");
    wait_for_answer(&topology.client, &url, "web1")?;

    topology.balancer.ip(&route(&topology.targets[1]))?;
    // A CPU may take the old way until the agent hears of it.
    wait::until("all go the new way", Duration::from_secs(2), || {
        let spread = client::spread(&topology.client, &url, 50)?;
        Ok((spread.of("web2") == 50).then_some(()))
    })?;
    let seen = format!("http://{VIP}/client");
    wait_for_answer(&topology.client, &seen, "10.0.12.1")?;
    Ok(())
}

/// A target's network card is replaced: its link-layer address changes.
#[test]
fn a_neighbour_that_changes_is_followed() -> Result<()> {
    for mode in [Mode::OtherInterface, Mode::Preserve] {
        let scenario = Setup::new(mode, 1).start()?;
        let target = &scenario.topology.targets[0];
        let client = &scenario.topology.client;
        let url = format!("http://{VIP}/");
        wait_for_answer(client, &url, "web1")?;
        target
            .namespace
            .ip("link set eth0 address 02:00:00:00:00:99")?;
        // As a host does that comes up: it announces itself.
        let gateway = target.namespace.ip("route show default")?;
        let gateway = gateway.split_whitespace().nth(2).unwrap_or_default();
        target
            .namespace
            .run(&format!("ping -q -c 1 -w 2 {gateway}"))?;
        scenario.topology.balancer.ip("neighbour flush all")?;
        wait_for_answer(client, &url, "web1")?;
        // A CPU may send to the old address until the end of its second.
        wait::until(&format!("{mode:?}: every connection"), SOON, || {
            let spread = client::spread(client, &url, 50);
            Ok(spread
                .is_ok_and(|spread| spread.of("web1") == 50)
                .then_some(()))
        })?;
    }
    Ok(())
}

/// The interface goes down and up, then away and back as another device: the
/// agent says so, attaches anew, and adds its managed address again.
#[test]
fn an_interface_that_comes_back_is_attached_to_again() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let directory = topology.directory();
    let _web = WebServer::start(Kind::Nginx, "web1", &topology.targets[0], None, directory)?;
    let listen = format!("{FREE}:80");
    let arguments = "--interface eth0 --target :8081 --health-interval 1s --listen";
    let mut arguments: Vec<&str> = arguments.split(' ').collect();
    arguments.push(&listen);
    let xlb = Xlb::run(&topology.balancer, &arguments, directory)?;
    xlb.wait_until_healthy(HEALTH)?;
    let url = format!("http://{FREE}/");
    wait_for_answer(&topology.client, &url, "web1")?;

    let wait_for_problem = |problem: &str| {
        wait::until(&format!("the problem “{problem}”"), SOON, || {
            let problems = xlb.status()?.problems;
            let as_expected = match problems.as_slice() {
                [] => problem.is_empty(),
                [one] => !problem.is_empty() && one.contains(problem),
                _ => false,
            };
            Ok(as_expected.then_some(()))
        })
    };
    wait_for_problem("")?;
    topology.balancer.ip("link set eth0 down")?;
    wait_for_problem("eth0 is down")?;
    topology.balancer.ip("link set eth0 up")?;
    wait_for_problem("")?;
    wait_for_answer(&topology.client, &url, "web1")?;

    topology.balancer.ip("link del eth0")?;
    wait_for_problem("eth0 doesn't exist")?;
    topology.reconnect_client()?;
    wait_for_problem("")?;
    xlb.wait_until_healthy(HEALTH)?;
    wait_for_answer(&topology.client, &url, "web1")?;
    ensure!(
        xlb.status()?.interfaces.len() == 1,
        "the interface that is gone is still listed"
    );
    xlb.stop()
}
