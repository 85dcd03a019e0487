//! Who may connect, and how often.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xlb_tests::{
    client,
    client::spread_from,
    netns::Namespace,
    topology::{CLIENT, Family},
    wait,
    xlb::Config,
};

use super::scenario::{Mode, SMALL, Scenario, Setup};

/// Another address of the client.
const SECOND: [u8; 4] = [10, 0, 2, 3];
const SOON: Duration = Duration::from_millis(400);

fn start(family: Family, mode: Mode, change: impl FnOnce(&mut Config)) -> Result<Scenario> {
    let setup = Setup::in_family(family, mode, 2);
    let topology = setup.topology()?;
    let (second, prefix) = (family.of(SECOND.into()), family.prefix());
    // Not preferred, so that the first one stays the default.
    topology.client.ip(&format!(
        "address add {second}/{prefix} dev eth0 preferred_lft 0"
    ))?;
    let mut config = setup.config(&topology);
    change(&mut config);
    setup.start_with(topology, &config)
}

fn expect_from(scenario: &Scenario, source: [u8; 4], answers: bool) -> Result<()> {
    let family = match scenario.listener {
        SocketAddr::V4(_) => Family::V4,
        SocketAddr::V6(_) => Family::V6,
    };
    let source = family.of(source.into());
    let client = &scenario.topology.client;
    let spread = spread_from(client, source, &scenario.url("/"), 3)?;
    let expected = if answers { 0 } else { 3 };
    ensure!(
        spread.failed == expected,
        "from {source}: {spread:?}, not {expected} failures"
    );
    Ok(())
}

/// The longest prefix that a client is in decides. Replies and the rest of a
/// flow aren't checked: none of the targets is in a prefix that is allowed.
fn security_group(family: Family, mode: Mode, rules: &str, may: [bool; 2]) -> Result<()> {
    let scenario = start(family, mode, |config| {
        config.tables = format!("[[security_group]]\nname = \"some\"\n{rules}\n");
        config.listeners[0].settings = "security_group = \"some\"\n".into();
    })?;
    let [first, second] = may;
    expect_from(&scenario, CLIENT.octets(), first)?;
    expect_from(&scenario, SECOND, second)?;
    ensure!(scenario.drops("denied")? >= 3, "no drop was counted");
    if first {
        scenario.download(SMALL)?;
    }
    Ok(())
}

#[test]
fn only_an_allowed_client_connects_v4() -> Result<()> {
    let rules = "allow = \"10.0.2.2/32\"";
    security_group(Family::V4, Mode::OneArm, rules, [true, false])
}

#[test]
fn only_an_allowed_client_connects_v6() -> Result<()> {
    let rules = "allow = \"fd00:a:0:2::2/128\"";
    security_group(Family::V6, Mode::OneArm, rules, [true, false])
}

#[test]
fn a_denied_client_does_not_connect_v4() -> Result<()> {
    let rules = "deny = [\"10.0.2.0/31\", \"10.0.2.2/31\"]\nallow = \"10.0.2.2/32\"";
    security_group(Family::V4, Mode::Local, rules, [true, false])
}

#[test]
fn a_denied_client_does_not_connect_v6() -> Result<()> {
    let rules = "deny = \"fd00:a:0:2::2/128\"";
    security_group(Family::V6, Mode::Local, rules, [false, true])
}

/// So many connections at once, each of its own thread; those that were made.
fn burst(client: &Namespace, server: SocketAddr, count: usize) -> Result<usize> {
    client.enter(|| {
        thread::scope(|scope| {
            let connect = || TcpStream::connect_timeout(&server, SOON).is_ok();
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(connect)).collect();
            let made = threads.into_iter().filter_map(|thread| thread.join().ok());
            made.filter(|made| *made).count()
        })
    })
}

/// 40 connections within a moment, of which one second or two let so many
/// through; a second later they are welcome again.
fn new_flows(family: Family, setting: &str, reason: &str, others_may: bool) -> Result<()> {
    let scenario = start(family, Mode::Local, |config| {
        config.listeners[0].settings = format!("{setting} = 10\n");
    })?;
    let made = burst(&scenario.topology.client, scenario.listener, 40)?;
    ensure!((10..=20).contains(&made), "{made} of 40 connections");
    let dropped = scenario.drops(reason)?;
    ensure!(dropped >= 20, "{reason} was counted {dropped} times");
    if others_may {
        expect_from(&scenario, SECOND, true)?;
    }
    let welcome = || Ok(expect_from(&scenario, CLIENT.octets(), true).ok());
    wait::until(
        "the client is welcome again",
        Duration::from_secs(5),
        welcome,
    )
}

#[test]
fn new_flows_of_a_listener_v4() -> Result<()> {
    new_flows(Family::V4, "max_new_flows", "new_flow_limit", false)
}

#[test]
fn new_flows_of_a_listener_v6() -> Result<()> {
    new_flows(Family::V6, "max_new_flows", "new_flow_limit", false)
}

#[test]
fn new_flows_of_a_source_v4() -> Result<()> {
    new_flows(Family::V4, "max_new_flows_per_source", "source_limit", true)
}

/// Of IPv6 a /64 is one source, which is all of the client's network.
#[test]
fn new_flows_of_a_source_v6() -> Result<()> {
    new_flows(
        Family::V6,
        "max_new_flows_per_source",
        "source_limit",
        false,
    )
}

/// A connection over which a page was got, and who sent it.
fn hold(scenario: &Scenario) -> Result<(TcpStream, String)> {
    let mut stream = scenario
        .topology
        .client
        .enter(|| TcpStream::connect_timeout(&scenario.listener, SOON))??;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let name = client::request_kept(&mut stream)?;
    Ok((stream, name))
}

fn flows_of_a_target(family: Family) -> Result<()> {
    let scenario = start(family, Mode::Local, |config| {
        config.settings = "timeouts.tcp_closing = \"1s\"\n".into();
        config.target_groups[0].settings = "max_flows_per_target = 3\n".into();
    })?;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(hold(&scenario).context("a connection below the limit")?);
    }
    for name in ["web1", "web2"] {
        let count = held.iter().filter(|(_, other)| other == name).count();
        ensure!(count == 3, "{name} has {count} connections");
    }
    ensure!(hold(&scenario).is_err(), "a seventh connection");
    ensure!(scenario.drops("target_limit")? > 0, "no drop was counted");
    // Those that are there go on, and the end of one makes room.
    for (stream, name) in &mut held {
        ensure!(client::request_kept(stream)? == *name, "another target");
    }
    held.pop();
    xlb_tests::wait::until("room", Duration::from_secs(12), || {
        Ok(hold(&scenario).ok().map(drop))
    })
}

#[test]
fn flows_of_a_target_v4() -> Result<()> {
    flows_of_a_target(Family::V4)
}

#[test]
fn flows_of_a_target_v6() -> Result<()> {
    flows_of_a_target(Family::V6)
}

/// Every port of a range, and none beside it, leads to the target's one.
fn a_range_of_ports(family: Family) -> Result<()> {
    let scenario = start(family, Mode::OneArm, |config| {
        config.listeners[0].ports = Some("8000-8999");
    })?;
    let url = |port| {
        let at = SocketAddr::new(scenario.listener.ip(), port);
        format!("http://{at}/")
    };
    for port in [8000, 8001, 8511, 8512, 8999] {
        let url = url(port);
        let spread = client::spread(&scenario.topology.client, &url, 20)?;
        ensure!(spread.failed == 0, "port {port}: {spread:?}");
    }
    for port in [80, 7999, 9000] {
        ensure!(
            client::get(&scenario.topology.client, &url(port)).is_err(),
            "port {port} answers"
        );
    }
    Ok(())
}

#[test]
fn a_range_of_ports_v4() -> Result<()> {
    a_range_of_ports(Family::V4)
}

#[test]
fn a_range_of_ports_v6() -> Result<()> {
    a_range_of_ports(Family::V6)
}

/// A target without a port of its own has the client's.
fn the_clients_port(family: Family) -> Result<()> {
    let scenario = start(family, Mode::OneArm, |config| {
        config.listeners[0].ports = Some("*");
        let group = &mut config.target_groups[0];
        group.health_port = Some(8080);
        for (address, _) in &mut group.targets {
            address.set_port(0);
        }
    })?;
    let page = |port| {
        let at = SocketAddr::new(scenario.listener.ip(), port);
        client::get(&scenario.topology.client, &format!("http://{at}/"))
    };
    ensure!(page(8080)?.starts_with("web"), "no page");
    // The targets refuse it.
    ensure!(page(8081).is_err(), "port 8081 answers");
    let flows = scenario.xlb.status()?.listeners[0].traffic.new_flows;
    ensure!(flows == 2, "{flows} flows");
    Ok(())
}

#[test]
fn the_clients_port_v4() -> Result<()> {
    the_clients_port(Family::V4)
}

#[test]
fn the_clients_port_v6() -> Result<()> {
    the_clients_port(Family::V6)
}

/// A client stays at its target; clients as such spread.
fn a_source_stays_at_its_target(family: Family) -> Result<()> {
    let scenario = start(family, Mode::Local, |config| {
        config.target_groups[0].settings = "hash = \"source_ip\"\n".into();
    })?;
    let spread = scenario.spread(100)?;
    ensure!(spread.by_name.len() == 1, "one client: {spread:?}");

    let client = &scenario.topology.client;
    let mut names = Vec::new();
    // That 25 clients are at the same of two targets: one in 17 million.
    for host in 30..55 {
        let (source, bits) = (family.of([10, 0, 2, host].into()), family.bits());
        client.ip(&format!("address add {source}/{bits} dev eth0"))?;
        let spread = spread_from(client, source, &scenario.url("/"), 3)?;
        ensure!(
            spread.failed == 0 && spread.by_name.len() == 1,
            "{source}: {spread:?}"
        );
        names.extend(spread.by_name.into_keys());
    }
    names.sort();
    names.dedup();
    ensure!(names.len() == 2, "all clients are at {names:?}");
    Ok(())
}

#[test]
fn a_source_stays_at_its_target_v4() -> Result<()> {
    a_source_stays_at_its_target(Family::V4)
}

#[test]
fn a_source_stays_at_its_target_v6() -> Result<()> {
    a_source_stays_at_its_target(Family::V6)
}
