//! `mss_clamp`: the largest segment that a SYN may offer.

use std::time::Duration;

use anyhow::{Context as _, Result};
use xlb_tests::{
    client::request_kept,
    netns::Namespace,
    topology::{Family, Far, Topology},
    tunnel::Encapsulation,
    wait,
};

use super::{
    dsr::{Dsr, Way},
    scenario::{Mode, SMALL, Scenario, Setup},
};

const CLAMP: u16 = 1000;
const SETTING: &str = "mss_clamp = 1000\n";
/// What a client may offer by itself.
const LESS: u16 = 700;

/// Without timestamps a segment is as large as the other side's SYN has
/// offered.
fn without_timestamps(topology: &Topology) -> Result<()> {
    let mut targets = topology.targets.iter();
    targets.try_for_each(|place| place.namespace.sysctl("ipv4/tcp_timestamps", "0"))
}

/// Waits until there is one connection, with segments of this size: health
/// checks come and go.
fn expect_segments(host: &Namespace, size: u16) -> Result<()> {
    let mut connections = String::new();
    let poll = || {
        connections = host.run("ss -H -t -i -n state established")?;
        let words = connections.split_whitespace();
        let sizes = words.filter_map(|word| word.strip_prefix("mss:"));
        Ok(sizes.eq([size.to_string()]).then_some(()))
    };
    let what = format!("segments of {size} bytes from {}", host.name());
    wait::until(&what, Duration::from_secs(3), poll).with_context(|| connections)
}

/// The sizes of segments that client and target send on a new connection.
fn expect(scenario: &Scenario, client: u16, target: u16) -> Result<()> {
    let topology = &scenario.topology;
    let mut stream = scenario.connect()?;
    request_kept(&mut stream)?;
    expect_segments(&topology.client, client)?;
    expect_segments(&topology.targets[0].namespace, target)
}

/// Both sides' SYNs pass here.
fn by_nat(family: Family, mode: Mode) -> Result<()> {
    let setup = Setup::in_family(family, mode, 1);
    let topology = setup.topology()?;
    without_timestamps(&topology)?;
    let mut config = setup.config(&topology);
    config.target_groups[0].settings = SETTING.into();
    let scenario = setup.start_with(topology, &config)?;
    expect(&scenario, CLAMP, CLAMP)?;
    scenario.download(SMALL)?;
    let (vip, bits) = (scenario.listener.ip(), family.bits());
    let route = format!("route add {vip}/{bits} dev eth0 advmss {LESS}");
    scenario.topology.client.ip(&route)?;
    expect(&scenario, CLAMP, LESS)
}

#[test]
fn local_v4() -> Result<()> {
    by_nat(Family::V4, Mode::Local)
}

#[test]
fn local_v6() -> Result<()> {
    by_nat(Family::V6, Mode::Local)
}

#[test]
fn source_nat_v4() -> Result<()> {
    by_nat(Family::V4, Mode::OneArm)
}

#[test]
fn preserve_client_ip_v6() -> Result<()> {
    by_nat(Family::V6, Mode::Preserve)
}

/// The target's SYN goes past the balancer.
fn by_dsr(way: Way, unclamped: u16) -> Result<()> {
    let dsr = Dsr::start_with(way, 1, Far::Nobody, |topology, config| {
        config.target_groups[0].settings += SETTING;
        without_timestamps(topology)
    })?;
    expect(&dsr.scenario, unclamped, CLAMP)
}

#[test]
fn dsr_direct_v6() -> Result<()> {
    by_dsr(Way::plain(Family::V6), 1440)
}

#[test]
fn dsr_ipip_v4() -> Result<()> {
    let way = Way::by(Encapsulation::Ipip, Family::V4, Family::V4);
    by_dsr(way, 1460)
}
