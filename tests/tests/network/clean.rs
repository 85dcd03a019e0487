//! The agent leaves the host as it found it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use xlb_tests::{
    client,
    netns::Namespace,
    programs,
    topology::{FREE, Family, Topology},
    wait,
    xlb::{Config, Xlb},
};

use super::scenario::{HEALTH, Mode, Scenario, Setup, VIP};

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
    leaves_nothing_after(setup, Xlb::unload)
}

fn leaves_nothing_after(setup: &Setup, end: impl FnOnce(Xlb) -> Result<()>) -> Result<()> {
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
    let folders = [scenario.xlb.folder(), scenario.xlb.pins()];
    for folder in &folders {
        ensure!(folder.exists(), "no {}", folder.display());
    }
    end(scenario.xlb)?;

    same(&before, &state(&balancer, &config.interfaces)?)?;
    for folder in &folders {
        // Nor the folder that it is in.
        let folder = folder.parent().context("no parent")?;
        ensure!(!folder.exists(), "{} is left behind", folder.display());
    }
    Ok(())
}

fn same(before: &str, after: &str) -> Result<()> {
    ensure!(
        after == before,
        "left behind:\n{}",
        difference(before, after)
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
    let setup = Setup::new(Mode::Local, 2);
    let setup = Setup {
        tc_mode: Some("clsact"),
        ..setup
    };
    leaves_nothing_after(&setup, |xlb| xlb.stop_by(Signal::SIGINT))
}

/// Started with flags there is no file to read again.
#[test]
fn without_a_file_a_lost_terminal_ends_it() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let flags = [
        "--interface",
        "eth0",
        "--listen",
        ":80",
        "--target",
        ":8081",
        "--tc-mode",
        "clsact",
    ];
    let interfaces = ["eth0".to_owned()];
    let before = settled_state(&topology.balancer, &interfaces)?;
    let xlb = Xlb::run(&topology.balancer, &flags, topology.directory())?;
    xlb.stop_by(Signal::SIGHUP)?;
    let after = state(&topology.balancer, &interfaces)?;
    ensure!(
        after == before,
        "left behind:\n{}",
        difference(&before, &after)
    );
    Ok(())
}

/// Neither the interface that it failed at keeps anything, nor one before it.
#[test]
fn a_start_that_fails() -> Result<()> {
    let setup = Setup {
        tc_mode: Some("clsact"),
        ..Setup::new(Mode::OtherInterface, 1)
    };
    let topology = setup.topology()?;
    let balancer = topology.balancer.clone();
    let config = setup.config(&topology);
    for taken in &config.interfaces {
        let _other = programs::pass(&balancer, taken)?;
        let before = settled_state(&balancer, &config.interfaces)?;
        let started = Xlb::start(&balancer, &config, topology.directory());
        ensure!(started.is_err(), "it attached to {taken}, which is taken");
        same(&before, &state(&balancer, &config.interfaces)?)?;
    }
    Ok(())
}

/// An agent is killed, which leaves its clsact filters, and another one is
/// started with `tc_mode` and ended. `between` may do more harm.
fn after_a_killed_one(
    tc_mode: &'static str,
    others: &[&str],
    between: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let setup = Setup {
        tc_mode: Some("clsact"),
        ..Setup::new(Mode::Local, 2)
    };
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    let balancer = topology.balancer.clone();
    let before = settled_state(&balancer, &config.interfaces)?;
    let Scenario {
        xlb,
        servers: _servers,
        topology,
        ..
    } = setup.start_with(topology, &config)?;
    let pins = xlb.pins();
    drop(xlb); // kills it
    between(&pins)?;
    let filters = |direction| balancer.run(&format!("tc filter show dev eth0 {direction}"));
    ensure!(
        filters("ingress")?.contains("xlb_handoff") && filters("egress")?.contains("xlb_egress"),
        "a killed agent left no filters: this test sees nothing"
    );
    for filter in others {
        balancer.run(&format!("tc filter add dev eth0 {filter}"))?;
    }

    config.tc_mode = Some(tc_mode);
    let xlb = Xlb::start(&balancer, &config, topology.directory())?;
    xlb.wait_until_healthy(HEALTH)?;
    client::get(&topology.client, &format!("http://{VIP}/"))?;
    let own = usize::from(tc_mode == "clsact");
    for direction in ["ingress", "egress"] {
        let filters = filters(direction)?;
        ensure!(
            filters.matches(" name xlb_").count() == own,
            "stale filters on {direction}: {filters}"
        );
    }
    xlb.unload()?;
    if !others.is_empty() {
        // Others' filters stay, and with them the qdisc that they are in.
        ensure!(
            filters("ingress")?.contains(" u32 "),
            "another's filter is gone"
        );
        balancer.run("tc qdisc del dev eth0 clsact")?;
    }
    same(&before, &state(&balancer, &config.interfaces)?)
}

#[test]
fn after_a_kill_with_clsact() -> Result<()> {
    after_a_killed_one("clsact", &[], |_| Ok(()))?;
    after_a_killed_one("tcx", &[], |_| Ok(()))
}

/// As if the BPF filesystem had been unmounted: XDP goes with its link, and the
/// filters are nobody's.
#[test]
fn after_the_pins_are_lost() -> Result<()> {
    let lose = |pins: &Path| {
        for folder in ["links", "maps"] {
            for pin in fs::read_dir(pins.join(folder))? {
                fs::remove_file(pin?.path())?;
            }
            fs::remove_dir(pins.join(folder))?;
        }
        // The kernel takes a moment to let go of a link.
        wait::pause(Duration::from_millis(500))
    };
    after_a_killed_one("clsact", &[], lose)?;
    after_a_killed_one("tcx", &[], lose)
}

#[test]
fn other_filters_stay() -> Result<()> {
    let other = "ingress protocol ip prio 5 u32 match ip dst 203.0.113.9/32 flowid 1:1";
    after_a_killed_one("clsact", &[other], |_| Ok(()))
}

/// An address that no interface has is there while the agent runs.
#[test]
fn managed_address() -> Result<()> {
    for mode in [Mode::Local, Mode::OneArm] {
        for family in Family::BOTH {
            leaves_nothing(&Setup {
                listener: family.at(FREE, 80),
                ..Setup::in_family(family, mode, 2)
            })?;
        }
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
        scenario.xlb.unload()?;
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
