//! Agents come and go, and traffic doesn't notice.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xlb_tests::{
    process::Process,
    steady::{self, MAKERS, Plan, Report},
    topology::{Family, Far, Topology},
    tunnel::Encapsulation,
    wait,
    xlb::{self, Config, Xlb},
};

use super::{
    dsr::{Dsr, Way},
    scenario::{Mode, Scenario, Setup},
};

const PLAN: Plan = Plan {
    kept: 500,
    pause: Duration::from_millis(250),
    rate: 1_000,
};
/// How often an agent is ended by SIGTERM, and how often it is killed.
const ENDED: usize = 10;
const KILLED: usize = 3;

/// What a restart has to do with: the agent, and where it is started again.
struct Restarts<'a> {
    topology: &'a Topology,
    config: Config,
    xlb: Option<Xlb>,
}

impl Restarts<'_> {
    fn start(&mut self) -> Result<&Xlb> {
        let topology = self.topology;
        let xlb = Xlb::start(&topology.balancer, &self.config, topology.directory())?;
        Ok(self.xlb.insert(xlb))
    }

    fn restart(&mut self, kill: bool) -> Result<()> {
        let xlb = self.xlb.take().context("no agent")?;
        match kill {
            true => drop(xlb),
            false => xlb.stop()?,
        }
        // Nobody is there for a while.
        wait::pause(Duration::from_millis(300))?;
        let status = self.start()?.status()?;
        // At once, before any check can have been made.
        for (_, target) in status.targets() {
            ensure!(target.health == "healthy", "{target:?}");
        }
        wait::pause(Duration::from_millis(700))
    }
}

/// What becomes of the configuration before the nth restart.
type Change = fn(usize, &mut Config);

const NOTHING: Change = |_, _| {};

/// Restarts the scenario's agent again and again under load.
fn restarts(scenario: Scenario, config: Config, change: Change) -> Result<Report> {
    let Scenario {
        xlb,
        servers: _servers,
        topology,
        listener,
    } = scenario;
    let before = attached(&topology, &xlb)?;
    let mut restarts = Restarts {
        topology: &topology,
        config,
        xlb: Some(xlb),
    };
    let (after, report) = steady::during(&topology.client, listener, PLAN, || {
        wait::pause(Duration::from_secs(1))?;
        for n in 0..ENDED + KILLED {
            change(n, &mut restarts.config);
            restarts
                .restart(n % 4 == 3)
                .with_context(|| format!("restart {n}"))?;
        }
        attached(&topology, restarts.xlb.as_ref().context("no agent")?)
    })?;
    eprintln!(
        "{} requests on {} connections, {} new connections ({:.0} a second, {} slow)",
        report.requests, PLAN.kept, report.new, report.rate, report.slow
    );
    let xlb = restarts.xlb.take().context("no agent")?;
    let drops = xlb.status()?.drops;
    report.check().with_context(|| format!("{drops:?}"))?;
    for (before, after) in before.iter().zip(&after) {
        ensure!(
            before.link == after.link && before.program != after.program,
            "not replaced in its place: {before:?}, then {after:?}"
        );
    }
    for reason in [
        "flow_reset",
        "no_target",
        "flow_collision",
        "internal_error",
    ] {
        ensure!(
            drops.get(reason).is_none_or(|&count| count == 0),
            "{drops:?}"
        );
    }
    xlb.unload()?;
    let links = topology.balancer.run("ip -d -o link show")?;
    ensure!(!links.contains("prog/xdp"), "left behind: {links}");
    Ok(report)
}

/// Whether there were as many new connections as there should be, and none of
/// them waited.
fn keeps_up(report: &Report) -> Result<()> {
    ensure!(report.rate > 800.0, "too few new ones: {report:?}");
    ensure!(report.slow * 100 <= report.new, "too slow: {report:?}");
    Ok(())
}

/// A program and what holds it.
#[derive(Debug)]
struct Attached {
    link: u64,
    program: u64,
}

/// What is pinned, in a stable order.
fn attached(topology: &Topology, xlb: &Xlb) -> Result<Vec<Attached>> {
    let folder = xlb.pins().join("links");
    let mut pins: Vec<_> = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    pins.sort();
    ensure!(!pins.is_empty(), "nothing in {}", folder.display());
    let show = |pin: &std::path::PathBuf| {
        let json = topology
            .balancer
            .run(&format!("bpftool -j link show pinned {}", pin.display()))?;
        let json: Value = serde_json::from_str(&json)?;
        // Some versions make a list of it.
        let link = json
            .as_array()
            .and_then(|list| list.first())
            .unwrap_or(&json);
        let number = |key| link.get(key).and_then(Value::as_u64).context("no number");
        Ok(Attached {
            link: number("id")?,
            program: number("prog_id")?,
        })
    };
    pins.iter().map(show).collect()
}

fn nat(setup: &Setup, change: Change) -> Result<Report> {
    let topology = setup.topology()?;
    let config = setup.config(&topology);
    restarts(setup.start_with(topology, &config)?, config, change)
}

/// Agents are killed before they have started, at whatever they were.
fn crash_loop(setup: &Setup) -> Result<()> {
    const CRASHES: u64 = 30;
    let plan = Plan {
        kept: 100,
        rate: 200,
        ..PLAN
    };
    let topology = setup.topology()?;
    let config = setup.config(&topology);
    let Scenario {
        xlb,
        servers: _servers,
        topology,
        listener,
    } = setup.start_with(topology, &config)?;
    let file = xlb.config();
    drop(xlb);
    let (xlb, report) = steady::during(&topology.client, listener, plan, || {
        let directory = topology.directory();
        for n in 0..CRASHES {
            let mut command = xlb::command(&topology.balancer, directory, "run")?;
            command.arg("--config").arg(&file);
            let log = directory.join(format!("crash{n}.log"));
            let agent = Process::spawn(&mut command, &log)?;
            // A start takes between a tenth and half a second here.
            wait::pause(Duration::from_millis(10 + n * 17))?;
            drop(agent);
        }
        let xlb = Xlb::start(&topology.balancer, &config, directory)?;
        for (_, target) in xlb.status()?.targets() {
            ensure!(target.health == "healthy", "{target:?}");
        }
        Ok(xlb)
    })?;
    report.check()?;
    xlb.unload()
}

#[test]
fn crash_loop_tcx() -> Result<()> {
    crash_loop(&Setup::new(Mode::OneArm, 2))
}

#[test]
fn crash_loop_clsact() -> Result<()> {
    crash_loop(&Setup {
        tc_mode: Some("clsact"),
        ..Setup::new(Mode::Local, 2)
    })
}

#[test]
fn source_nat_tcx() -> Result<()> {
    keeps_up(&nat(&Setup::new(Mode::OneArm, 2), NOTHING)?)
}

/// Each agent has maps of another size. All flows move, and none begins until
/// they have: each thread waits once for a SYN that is sent again.
#[test]
fn source_nat_with_other_maps() -> Result<()> {
    let report = nat(&Setup::new(Mode::OneArm, 2), |n, config| {
        let flows = [500_000, 1_000_000][n % 2];
        config.settings = format!("capacity.flows = {flows}\n");
    })?;
    let waits = (MAKERS * (ENDED + KILLED)) as u64;
    // Makers that wait a second in each of 1.5 to 3 leave less than half.
    ensure!(
        report.rate > 200.0 && report.slow <= waits,
        "too slow: {report:?}"
    );
    Ok(())
}

#[test]
fn local_clsact() -> Result<()> {
    let setup = Setup {
        tc_mode: Some("clsact"),
        ..Setup::new(Mode::Local, 2)
    };
    keeps_up(&nat(&setup, NOTHING)?)
}

#[test]
fn dsr_ipip() -> Result<()> {
    let way = Way::by(Encapsulation::Ipip, Family::V4, Family::V4);
    let Dsr {
        scenario,
        config,
        tunnels: _tunnels,
    } = Dsr::start(way, 2, Far::Nobody)?;
    keeps_up(&restarts(scenario, config, NOTHING)?)
}
