//! The agent leaves the host as it found it.

use std::{net::SocketAddrV4, path::Path, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use xlb_tests::{client, netns::Namespace, topology::FREE, wait, xlb::Config};

use super::scenario::{Mode, Setup, VIP};

/// What of the host's state the agent could leave something in, in words that
/// don't change by themselves.
fn state(namespace: &Namespace, interfaces: &[String]) -> Result<String> {
    let mut state = String::new();
    for command in [
        "ip -o address show",
        "ip -d -o link show",
        "ip route show table all",
        "ip rule show",
        "tc qdisc show",
        "bpftool net show",
    ] {
        state += &format!("$ {command}\n{}", namespace.run(command)?);
    }
    for interface in interfaces {
        for command in [
            format!("tc filter show dev {interface} ingress"),
            format!("tc filter show dev {interface} egress"),
            format!("ethtool -k {interface}"),
        ] {
            state += &format!("$ {command}\n{}", namespace.run(&command)?);
        }
    }
    Ok(state)
}

/// The state once new links have come up.
fn settled_state(namespace: &Namespace, interfaces: &[String]) -> Result<String> {
    let mut last = state(namespace, interfaces)?;
    wait::until("the namespace to settle", Duration::from_secs(10), || {
        wait::pause(Duration::from_millis(300))?;
        let now = state(namespace, interfaces)?;
        let settled = now == last && !now.contains("NO-CARRIER");
        last = now;
        Ok(settled.then(|| last.clone()))
    })
}

fn leaves_nothing(setup: &Setup) -> Result<()> {
    leaves_nothing_after(setup, Signal::SIGTERM)
}

fn leaves_nothing_after(setup: &Setup, signal: Signal) -> Result<()> {
    let topology = setup.topology()?;
    let config: Config = setup.config(&topology);
    let balancer = topology.balancer.clone();
    let before = settled_state(&balancer, &config.interfaces)?;
    let scenario = setup.start_with(topology, &config)?;
    let url = format!("http://{}/", setup.listener);
    client::get(&scenario.topology.client, &url)?;

    let during = state(&balancer, &config.interfaces)?;
    ensure!(
        during != before,
        "a running agent left no trace: this test sees nothing"
    );
    let socket = scenario.xlb.socket.clone();
    ensure!(socket.exists(), "no socket at {}", socket.display());
    scenario.xlb.stop_by(signal)?;

    let after = state(&balancer, &config.interfaces)?;
    ensure!(
        after == before,
        "left behind:\n{}",
        difference(&before, &after)
    );
    ensure!(
        !Path::new(&socket).exists(),
        "{} is left behind",
        socket.display()
    );
    Ok(())
}

/// Lines that only one of the two has.
fn difference(before: &str, after: &str) -> String {
    let only = |sign: &str, these: &str, those: &str| {
        these
            .lines()
            .filter(|line| !those.lines().any(|other| other == *line))
            .map(|line| format!("{sign} {line}\n"))
            .collect::<String>()
    };
    only("-", before, after) + &only("+", after, before)
}

#[test]
fn native_and_tcx() -> Result<()> {
    leaves_nothing(&Setup {
        xdp_mode: Some("native"),
        ..Setup::new(Mode::Preserve, 2)
    })
}

#[test]
fn generic_and_clsact() -> Result<()> {
    let setup = Setup::new(Mode::Local, 2);
    leaves_nothing(&Setup {
        xdp_mode: Some("generic"),
        tc_mode: Some("clsact"),
        ..setup
    })
}

/// clsact's filters aren't links, which end with their process.
#[test]
fn after_every_signal_that_ends_it() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        let setup = Setup::new(Mode::Local, 2);
        let setup = Setup {
            tc_mode: Some("clsact"),
            ..setup
        };
        leaves_nothing_after(&setup, signal)?;
    }
    Ok(())
}

/// An address that no interface has is there while the agent runs.
#[test]
fn managed_address() -> Result<()> {
    for mode in [Mode::Local, Mode::OneArm] {
        let listener = SocketAddrV4::new(FREE, 80);
        leaves_nothing(&Setup {
            listener,
            ..Setup::new(mode, 2)
        })?;
    }
    Ok(())
}

/// It can be started and stopped again and again.
#[test]
fn again_and_again() -> Result<()> {
    let setup = Setup::new(Mode::OtherInterface, 2);
    let mut scenario = setup.start()?;
    for _ in 0..3 {
        ensure!(
            scenario.get("/")?.starts_with("web"),
            "no answer through {VIP}"
        );
        scenario.xlb.stop()?;
        ensure!(
            scenario
                .topology
                .client
                .run(&format!("curl -s -m 1 http://{VIP}/"))
                .is_err()
        );
        let config = setup.config(&scenario.topology);
        let topology = &scenario.topology;
        scenario.xlb =
            xlb_tests::xlb::Xlb::start(&topology.balancer, &config, topology.directory())?;
        scenario.xlb.wait_until_healthy(super::scenario::HEALTH)?;
    }
    Ok(())
}
