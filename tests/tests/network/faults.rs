//! What can go wrong around xlb, and what comes of it.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use xlb_tests::{
    client::{self, request_kept},
    server::{Kind, WebServer},
    topology::Place,
    wait,
    xlb::{TargetGroup, Xlb},
};

use super::scenario::{HEALTH, Mode, Setup};

/// Targets that hang, in groups.
const HANGING_GROUPS: u8 = 10;
const HANGING: u16 = 1_000;
const HANGING_PORT: u16 = 9_090;

/// Every target dies, and then they come back.
#[test]
fn all_targets() -> Result<()> {
    let mut scenario = Setup::new(Mode::OneArm, 2).start()?;
    let mut stream = scenario.connect()?;
    request_kept(&mut stream)?;
    for server in &mut scenario.servers {
        server.kill();
    }
    for n in [0, 1] {
        scenario.wait_for_health(n, "unhealthy")?;
    }
    let groups = scenario.xlb.status()?.target_groups;
    ensure!(groups[0].fail_open, "{groups:?}");
    // Whoever asks is refused by the targets' hosts, and doesn't wait.
    let asked = Instant::now();
    ensure!(scenario.get("/").is_err() && request_kept(&mut stream).is_err());
    let took = asked.elapsed();
    ensure!(took < Duration::from_secs(2), "it took {took:?}");

    for server in &mut scenario.servers {
        server.start_again()?;
    }
    scenario.xlb.wait_until_healthy(HEALTH)?;
    let spread = scenario.spread(60)?;
    ensure!(
        spread.of("web1") > 10 && spread.of("web2") > 10,
        "{spread:?}"
    );
    Ok(())
}

/// More connections than there is room for: those without stay among the
/// half-open ones, and that is counted.
#[test]
fn a_full_flow_table() -> Result<()> {
    let setup = Setup::new(Mode::OneArm, 2);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    config.settings = "capacity.flows = 10\n".into();
    let scenario = setup.start_with(topology, &config)?;
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = scenario.connect()?;
        let name = request_kept(&mut stream)?;
        streams.push((stream, name));
    }
    for _ in 0..3 {
        wait::pause(Duration::from_millis(1_200))?;
        for (stream, name) in &mut streams {
            ensure!(request_kept(stream)? == *name, "another target");
        }
    }
    let full = scenario.drops("flow_table_full")?;
    ensure!(full >= 40, "only {full} flows found it full");
    Ok(())
}

/// A target's host goes from the network: nobody answers for its address.
#[test]
fn a_neighbour() -> Result<()> {
    let scenario = Setup::new(Mode::OneArm, 2).start()?;
    let Place { namespace, .. } = &scenario.topology.targets[0];
    namespace.ip("link set eth0 down")?;
    // As after the time that the kernel believes what it has heard once.
    scenario.topology.balancer.ip("neighbour flush all")?;
    scenario.wait_for_health(0, "unhealthy")?;
    let spread = scenario.spread(50)?;
    ensure!(spread.of("web2") == 50, "{spread:?}");
    namespace.ip("link set eth0 up")?;
    scenario.wait_for_health(0, "healthy")?;
    wait::until("its share", HEALTH, || {
        let spread = scenario.spread(40)?;
        Ok((spread.of("web1") > 5).then_some(()))
    })
}

/// Megabytes that are no configuration: refused in no time, and the agent goes
/// on meanwhile.
#[test]
fn noise_for_a_configuration() -> Result<()> {
    let scenario = Setup::new(Mode::Local, 2).start()?;
    let keys =
        |count: u32| -> String { (0..count).map(|n| format!("k{n} = \"noise\"\n")).collect() };
    for (text, words) in [
        (keys(300_000), "too large"),
        (keys(180_000), "unknown key"),
        ("\u{1}[=\"'".repeat(700_000), "xlb.toml:1:1"),
    ] {
        let asked = Instant::now();
        let output = scenario.xlb.try_reload(&text)?;
        let took = asked.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2) && said.contains(words) && said.len() < 64 << 10,
            "{}: {} bytes: {:.200}",
            output.status,
            said.len(),
            said
        );
        ensure!(took < Duration::from_secs(8), "it took {took:?}");
    }
    let output = scenario.xlb.try_reload(&"\u{7}".repeat(5 << 20))?;
    ensure!(output.status.code() == Some(2));
    ensure!(scenario.get("/")?.starts_with("web"));
    scenario.xlb.wait_until_healthy(HEALTH)
}

/// 10,000 targets are checked every second, and all of them hang: the others
/// don't notice, and the agent answers.
#[test]
fn ten_thousand_targets_hang() -> Result<()> {
    let setup = Setup::new(Mode::OneArm, 1);
    let topology = setup.topology()?;
    let host = &topology.targets[0];
    host.namespace.ip("route add local 10.50.0.0/16 dev lo")?;
    let via = host.address.ip();
    topology
        .balancer
        .ip(&format!("route add 10.50.0.0/16 via {via}"))?;
    // The kernel takes connections until its queue is full; nobody answers.
    let hanging = (Ipv4Addr::UNSPECIFIED, HANGING_PORT);
    let _hanging = host.namespace.enter(|| TcpListener::bind(hanging))??;

    let mut config = setup.config(&topology);
    config.settings = "capacity.targets = 12000\n".into();
    for group in 0..HANGING_GROUPS {
        let address = |n: u16| Ipv4Addr::new(10, 50, group * 4 + (n / 256) as u8, n as u8);
        let targets = (0..HANGING).map(|n| ((address(n), HANGING_PORT).into(), 1));
        let name = format!("hanging{group}");
        let mut listener = config.listeners[0].clone();
        listener.name.clone_from(&name);
        listener.target_group.clone_from(&name);
        listener.address.set_port(1_000 + u16::from(group));
        config.listeners.push(listener);
        config.target_groups.push(TargetGroup {
            name,
            targets: targets.collect(),
            preserve_client_ip: false,
            health_port: None,
            settings: "fail_open = false\n".into(),
        });
    }
    let server = WebServer::start(Kind::Nginx, "web1", host, None, topology.directory())?;
    let xlb = Xlb::start(&topology.balancer, &config, topology.directory())?;
    let hanging = |health: &str| -> Result<usize> {
        let asked = Instant::now();
        let status = xlb.status()?;
        let took = asked.elapsed();
        ensure!(took < Duration::from_secs(3), "status took {took:?}");
        let of = status.targets().filter(|(group, _)| *group != "web");
        Ok(of.filter(|(_, target)| target.health == health).count())
    };
    let all = usize::from(HANGING_GROUPS) * usize::from(HANGING);
    wait::until("all to be unhealthy", Duration::from_secs(30), || {
        Ok((hanging("unhealthy")? == all).then_some(()))
    })?;
    let address = server.place.address;
    xlb.wait_for_health(address, "healthy", HEALTH)?;
    wait::pause(Duration::from_secs(5))?;
    ensure!(hanging("unhealthy")? == all);
    let web = xlb.status()?.target(address)?.clone();
    ensure!(
        web.health == "healthy" && web.checks.failures == 0,
        "{web:?}"
    );
    let url = format!("http://{}/", config.listeners[0].address);
    ensure!(client::get(&topology.client, &url)?.starts_with("web1"));

    let status = fs::read_to_string(format!("/proc/{}/status", xlb.id()))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|line| line.split_whitespace().next());
    let megabytes = resident.context("no VmRSS")?.parse::<u64>()? / 1_024;
    ensure!(megabytes < 400, "{megabytes} MB");
    Ok(())
}
