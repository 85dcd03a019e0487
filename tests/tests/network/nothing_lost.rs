//! What an agent knows survives it, and what doesn't fit is refused.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use xlb_tests::{
    client::{self, request_kept},
    process::Process,
    topology::{FREE, Family},
    wait,
    xlb::{self, Config, TargetStatus, Xlb},
};

use super::scenario::{HEALTH, LARGE, Mode, Scenario, Setup, VIP};

/// A scenario whose agent is started again.
struct Run {
    scenario: Option<Scenario>,
    config: Config,
}

impl Run {
    fn start(mode: Mode, targets: usize, settings: &str) -> Result<Self> {
        let setup = Setup::new(mode, targets);
        let topology = setup.topology()?;
        let mut config = setup.config(&topology);
        config.target_groups[0].settings = settings.into();
        let scenario = setup.start_with(topology, &config)?;
        Ok(Self {
            scenario: Some(scenario),
            config,
        })
    }

    fn scenario(&self) -> Result<&Scenario> {
        self.scenario.as_ref().context("no scenario")
    }

    /// Ends the agent, does something, and starts another with the present
    /// configuration.
    fn restart(&mut self, between: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let scenario = self.scenario.take().context("no scenario")?;
        let folder = scenario.xlb.folder();
        scenario.xlb.stop()?;
        between(&folder)?;
        let topology = &scenario.topology;
        let xlb = Xlb::start(&topology.balancer, &self.config, topology.directory())?;
        self.scenario = Some(Scenario { xlb, ..scenario });
        Ok(())
    }

    fn target(&self, n: usize) -> Result<TargetStatus> {
        let scenario = self.scenario()?;
        let address = scenario.servers[n].place.address;
        Ok(scenario.xlb.status()?.target(address)?.clone())
    }

    /// What an agent says that starts now and can't.
    fn refused(&self) -> Result<String> {
        let topology = &self.scenario()?.topology;
        let error = Xlb::start(&topology.balancer, &self.config, topology.directory()).err();
        let error = format!("{:#}", error.context("it started")?);
        ensure!(!error.contains("panicked"), "{error}");
        Ok(error)
    }
}

/// What is in a folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let name = |entry: std::io::Result<fs::DirEntry>| {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    fs::read_dir(folder)?.map(name).collect()
}

fn nothing(_: &Path) -> Result<()> {
    Ok(())
}

/// A removed target drains on for as long as it had left.
#[test]
fn drains() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 2, "deregistration_delay = \"10s\"\n")?;
    let mut download = run.scenario()?.download_from("web1", LARGE)?;
    run.config.target_groups[0].targets.remove(0);
    run.scenario()?.xlb.reload(&run.config)?;
    wait::pause(Duration::from_secs(2))?;
    run.restart(|_| wait::pause(Duration::from_secs(1)))?;
    let target = run.target(0)?;
    let remaining = target.remaining.context("no remaining time")?;
    ensure!(
        target.health == "draining" && (1.0..7.0).contains(&remaining),
        "{target:?}"
    );
    ensure!(run.scenario()?.spread(50)?.of("web2") == 50);
    ensure!(download.is_running()?, "its flow has ended");
    let ended = download.wait(Duration::from_secs(20))?;
    ensure!(ended.is_err(), "it went on after the delay: {ended:?}");
    Ok(())
}

/// A target that the configuration has lost while no agent ran drains, too.
#[test]
fn a_target_that_was_removed_meanwhile() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 2, "")?;
    let mut stream = run.scenario()?.connect()?;
    let name = request_kept(&mut stream)?;
    let n = usize::from(name == "web2");
    run.config.target_groups[0].targets.remove(n);
    run.restart(nothing)?;
    let target = run.target(n)?;
    ensure!(target.health == "draining", "{target:?}");
    ensure!(request_kept(&mut stream)? == name, "another target");
    ensure!(run.scenario()?.spread(50)?.of(&name) == 0);
    Ok(())
}

/// Healthy and unhealthy, with the reason and the counters.
#[test]
fn health() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 3, "on_unhealthy = \"keep\"\n")?;
    run.scenario()?.set_health(0, false)?;
    run.scenario()?.spread(60)?;
    wait::pause(Duration::from_millis(1_500))?;
    let before = [run.target(0)?, run.target(1)?];
    ensure!(before[1].traffic.new_flows > 0, "{before:?}");
    run.restart(nothing)?;
    let after = [run.target(0)?, run.target(1)?];
    for (before, after) in before.iter().zip(&after) {
        ensure!(
            (&before.health, &before.reason) == (&after.health, &after.reason)
                && before.traffic.new_flows == after.traffic.new_flows
                && before.checks.successes <= after.checks.successes,
            "{before:?}, then {after:?}"
        );
    }
    ensure!(after[0].health == "unhealthy", "{after:?}");
    // None of them to the unhealthy one, from the first moment on.
    ensure!(run.scenario()?.spread(60)?.of("web1") == 0);
    Ok(())
}

/// Without the file the maps tell who took flows, and whose they are.
#[test]
fn the_state_is_lost() -> Result<()> {
    for damage in [
        |folder: &Path| Ok(fs::remove_file(folder.join("state.json"))?),
        |folder: &Path| Ok(fs::write(folder.join("state.json"), "{\"ids\": [")?),
    ] {
        let mut run = Run::start(Mode::OneArm, 2, "")?;
        let mut streams = Vec::new();
        for _ in 0..10 {
            let mut stream = run.scenario()?.connect()?;
            let name = request_kept(&mut stream)?;
            streams.push((stream, name));
        }
        run.restart(damage)?;
        for n in [0, 1] {
            let target = run.target(n)?;
            ensure!(target.health == "healthy", "{target:?}");
        }
        for (stream, name) in &mut streams {
            ensure!(request_kept(stream)? == *name, "another target");
        }
        let spread = run.scenario()?.spread(100)?;
        ensure!(
            spread.of("web1") > 20 && spread.of("web2") > 20,
            "{spread:?}"
        );
    }
    Ok(())
}

/// An address that xlb has added goes when its time is over, or with xlb.
#[test]
fn a_managed_address() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 1, "deregistration_delay = \"6s\"\n")?;
    let balancer = run.scenario()?.topology.balancer.clone();
    let has_address =
        || -> Result<bool> { Ok(balancer.ip("-o address show")?.contains(&FREE.to_string())) };
    let one = run.config.clone();
    let mut more = one.listeners[0].clone();
    more.name = "more".into();
    more.address = Family::V4.at(FREE, 80);
    run.config.listeners.push(more.clone());
    run.scenario()?.xlb.reload(&run.config)?;
    ensure!(has_address()?, "no address");
    run.restart(nothing)?;
    ensure!(has_address()?, "the address went with the agent");
    run.scenario()?.xlb.reload(&one)?;
    run.config = one;
    run.restart(nothing)?;
    ensure!(has_address()?, "the address went before its time");
    let goes = || {
        wait::until("the address to go", Duration::from_secs(8), || {
            Ok((!has_address()?).then_some(()))
        })
    };
    goes()?;

    // It isn't wanted any more when the next agent comes.
    let one = run.config.clone();
    run.config.listeners.push(more);
    run.scenario()?.xlb.reload(&run.config)?;
    ensure!(has_address()?, "no address");
    run.config = one;
    run.restart(nothing)?;
    goes()
}

/// An interface that isn't configured any more is left.
#[test]
fn an_interface_less() -> Result<()> {
    let mut run = Run::start(Mode::Preserve, 2, "")?;
    let balancer = run.scenario()?.topology.balancer.clone();
    let programs = || -> Result<usize> {
        let links = balancer.run("ip -d -o link show")?;
        Ok(links.matches("prog/xdp").count())
    };
    ensure!(programs()? == 3);
    run.config.interfaces.truncate(1);
    run.restart(nothing)?;
    ensure!(programs()? == 1, "{} programs", programs()?);
    ensure!(run.scenario()?.spread(20)?.failed == 0);
    Ok(())
}

/// Another way to attach: there is a gap, and what was there goes.
#[test]
fn other_modes() -> Result<()> {
    let mut run = Run::start(Mode::Local, 2, "")?;
    for (xdp, tc) in [
        ("native", "clsact"),
        ("generic", "tcx"),
        ("generic", "clsact"),
        ("native", "tcx"),
    ] {
        (run.config.xdp_mode, run.config.tc_mode) = (Some(xdp), Some(tc));
        run.restart(nothing)?;
        let scenario = run.scenario()?;
        let status = scenario.xlb.status()?;
        let interface = &status.interfaces[0];
        ensure!(interface.xdp == xdp && interface.tc == tc, "{interface:?}");
        ensure!(scenario.spread(20)?.failed == 0);
        let (pins, filters) = match tc {
            "tcx" => (vec!["tcx-egress", "tcx-ingress"], 0),
            _ => (Vec::new(), 1),
        };
        let xdp = format!("xdp-{xdp}");
        let expected: BTreeSet<&str> = pins.into_iter().chain([xdp.as_str()]).collect();
        let pinned = names(&scenario.xlb.pins().join("links"))?;
        let hooks = pinned.iter().filter_map(|name| name.split_once('-'));
        let found: BTreeSet<&str> = hooks.map(|(_, hook)| hook).collect();
        ensure!(found == expected, "{pinned:?}");
        for direction in ["ingress", "egress"] {
            let show = format!("tc filter show dev eth0 {direction}");
            let shown = scenario.topology.balancer.run(&show)?;
            ensure!(shown.matches(" name xlb_").count() == filters, "{shown}");
        }
    }
    Ok(())
}

/// Maps that don't fit are left alone, and so is what uses them.
fn refuses(run: &mut Run, words: &[&str]) -> Result<()> {
    let scenario = run.scenario.take().context("no scenario")?;
    let mut stream = scenario.connect()?;
    let name = request_kept(&mut stream)?;
    scenario.xlb.stop()?;
    let topology = &scenario.topology;
    let start = |arguments: &[&str]| {
        let file = topology.directory().join("xlb.toml");
        fs::write(&file, run.config.to_string())?;
        let file = file.to_string_lossy();
        let arguments = [&["--config", &file], arguments].concat();
        Xlb::run(&topology.balancer, &arguments, topology.directory())
    };
    let error = start(&[]).err().context("it has adopted them")?;
    let error = format!("{error:#}");
    for word in words.iter().chain(&["--replace"]) {
        ensure!(error.contains(word), "nothing of “{word}” in: {error}");
    }
    ensure!(request_kept(&mut stream)? == name, "another target");

    let xlb = start(&["--replace"])?;
    xlb.wait_until_healthy(HEALTH)?;
    client::get(&topology.client, &format!("http://{VIP}/"))?;
    xlb.unload()
}

#[test]
fn another_layout() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 2, "")?;
    let scenario = run.scenario()?;
    let layout = scenario.xlb.pins().join("maps/LAYOUT");
    // Behind the version is the network namespace.
    let balancer = &scenario.topology.balancer;
    let network = fs::metadata(Path::new("/run/netns").join(balancer.name()))?.ino();
    let value = [77, network].map(u64::to_le_bytes).concat();
    let value: Vec<String> = value.iter().map(u8::to_string).collect();
    balancer.run(&format!(
        "bpftool map update pinned {} key 0 0 0 0 value {}",
        layout.display(),
        value.join(" ")
    ))?;
    refuses(&mut run, &["layout 77"])
}

#[test]
fn another_shape() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 2, "")?;
    let scenario = run.scenario()?;
    let targets = scenario.xlb.pins().join("maps/TARGETS");
    fs::remove_file(&targets)?;
    scenario.topology.balancer.run(&format!(
        "bpftool map create {} type array key 4 value 8 entries 16 name TARGETS",
        targets.display()
    ))?;
    refuses(&mut run, &["TARGETS", "8 bytes", "64 bytes"])
}

/// Another build counts other reasons: they begin anew, and no flow ends.
#[test]
fn another_shape_of_what_passes() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 2, "")?;
    let scenario = run.scenario()?;
    let mut stream = scenario.connect()?;
    let name = request_kept(&mut stream)?;
    let maps = scenario.xlb.pins().join("maps");
    let create = "type percpu_array key 4 value 8 entries 7 name";
    for map in ["DROPS", "FRAGMENTS_V4"] {
        let path = maps.join(map);
        fs::remove_file(&path)?;
        let create = format!("bpftool map create {} {create} {map}", path.display());
        scenario.topology.balancer.run(&create)?;
    }
    run.restart(nothing)?;
    ensure!(request_kept(&mut stream)? == name, "another target");
    let scenario = run.scenario()?;
    ensure!(scenario.spread(20)?.failed == 0);
    let shown = format!("bpftool map show pinned {}", maps.join("DROPS").display());
    let shown = scenario.topology.balancer.run(&shown)?;
    ensure!(!shown.contains("max_entries 7 "), "{shown}");
    Ok(())
}

/// Flows move to maps of another size, larger or smaller, with all counters.
#[test]
fn another_capacity() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 2, "")?;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = run.scenario()?.connect()?;
        let name = request_kept(&mut stream)?;
        streams.push((stream, name));
    }
    for (targets, flows) in [(2_048, 2_000_000), (64, 10_000)] {
        let before = [run.target(0)?, run.target(1)?];
        run.config.settings = format!(
            "capacity.targets = {targets}\ncapacity.flows = {flows}\n\
             capacity.half_open_flows = {flows}\ncapacity.listeners = {targets}\n"
        )
        .replace("listeners = 2048", "listeners = 1024");
        run.restart(nothing)?;
        let after = [run.target(0)?, run.target(1)?];
        for (before, after) in before.iter().zip(&after) {
            ensure!(
                after.health == "healthy" && before.traffic.new_flows == after.traffic.new_flows,
                "{before:?}, then {after:?}"
            );
        }
        for (stream, name) in &mut streams {
            ensure!(request_kept(stream)? == *name, "another target");
        }
        ensure!(run.scenario()?.spread(50)?.failed == 0);
        let scenario = run.scenario()?;
        for (map, entries) in [("TARGETS", targets), ("ESTABLISHED_V4", 2 * flows)] {
            let pin = scenario.xlb.pins().join("maps").join(map);
            let shown = format!("bpftool map show pinned {}", pin.display());
            let shown = scenario.topology.balancer.run(&shown)?;
            let expected = format!("max_entries {entries} ");
            ensure!(shown.contains(&expected), "{map}: {shown}");
        }
    }
    // The agent after the last goes on with the new ones.
    run.restart(nothing)?;
    for (stream, name) in &mut streams {
        ensure!(request_kept(stream)? == *name, "another target");
    }
    Ok(())
}

/// An agent that can't start leaves what another has begun.
#[test]
fn a_start_that_fails_ends_nothing() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 2, "")?;
    let scenario = run.scenario.take().context("no scenario")?;
    let mut stream = scenario.connect()?;
    let name = request_kept(&mut stream)?;
    scenario.xlb.stop()?;
    let topology = &scenario.topology;
    let mut wrong = run.config.clone();
    wrong.interfaces.push("eth7".into());
    let error = Xlb::start(&topology.balancer, &wrong, topology.directory()).err();
    let error = format!("{:#}", error.context("it started")?);
    ensure!(error.contains("eth7"), "{error}");
    ensure!(request_kept(&mut stream)? == name, "another target");
    let xlb = Xlb::start(&topology.balancer, &run.config, topology.directory())?;
    ensure!(request_kept(&mut stream)? == name, "another target");
    xlb.unload()
}

#[test]
fn one_agent_an_instance() -> Result<()> {
    let run = Run::start(Mode::Local, 2, "")?;
    let error = run.refused()?;
    let id = run.scenario()?.xlb.id().to_string();
    for word in ["default", "--instance", &id] {
        ensure!(error.contains(word), "nothing of “{word}” in: {error}");
    }
    ensure!(run.scenario()?.get("/")?.starts_with("web"));
    Ok(())
}

/// Somebody has removed the pins: an agent that is alive doesn't need them.
#[test]
fn pins_that_are_lost() -> Result<()> {
    let mut run = Run::start(Mode::OneArm, 2, "")?;
    let scenario = run.scenario.take().context("no scenario")?;
    let mut stream = scenario.connect()?;
    let name = request_kept(&mut stream)?;
    for folder in ["links", "maps"] {
        for pin in fs::read_dir(scenario.xlb.pins().join(folder))? {
            fs::remove_file(pin?.path())?;
        }
    }
    wait::pause(Duration::from_secs(1))?;
    ensure!(request_kept(&mut stream)? == name, "another target");
    ensure!(scenario.spread(20)?.failed == 0);
    scenario.xlb.unload()?;
    let links = scenario.topology.balancer.run("ip -d -o link show")?;
    ensure!(!links.contains("prog/xdp"), "left behind: {links}");
    Ok(())
}

/// Stopped for a while, as by a debugger or a frozen control group.
#[test]
fn an_agent_that_stands_still() -> Result<()> {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    let run = Run::start(Mode::OneArm, 2, "")?;
    let scenario = run.scenario()?;
    let mut stream = scenario.connect()?;
    let name = request_kept(&mut stream)?;
    let agent = Pid::from_raw(scenario.xlb.id().cast_signed());
    kill(agent, Signal::SIGSTOP)?;
    let asleep = (0..20).try_for_each(|_| {
        wait::pause(Duration::from_secs(1))?;
        ensure!(request_kept(&mut stream)? == name, "another target");
        ensure!(scenario.spread(20)?.failed == 0);
        Ok(())
    });
    kill(agent, Signal::SIGCONT)?;
    asleep?;
    // It goes on where it was: nobody is unhealthy for checks that were late.
    for _ in 0..5 {
        for n in [0, 1] {
            let target = run.target(n)?;
            ensure!(target.health == "healthy", "{target:?}");
        }
        wait::pause(Duration::from_millis(500))?;
    }
    ensure!(request_kept(&mut stream)? == name, "another target");
    Ok(())
}

/// A small filesystem where the state is written, full.
struct Full<'a>(&'a Path);

impl<'a> Full<'a> {
    fn mount(folder: &'a Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let size = Some("size=64k,mode=0700");
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), size)?;
        Ok(Self(folder))
    }

    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("ballast"))?;
        while file.write_all(&[0; 4_096]).is_ok() {}
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("ballast"))?)
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

/// No room for the state: the agent goes on, says so, and writes it later.
#[test]
fn a_full_disk() -> Result<()> {
    let setup = Setup::new(Mode::OneArm, 2);
    let topology = setup.topology()?;
    let config = setup.config(&topology);
    let folder = topology.directory().join("run");
    let full = Full::mount(&folder)?;
    let scenario = setup.start_with(topology, &config)?;
    full.fill()?;
    scenario.set_health(0, false)?;
    let wait_for_problem = |there: bool| {
        wait::until("a word about the state", Duration::from_secs(10), || {
            let problems = scenario.xlb.status()?.problems;
            let found = problems.iter().any(|it| it.contains("state.json"));
            Ok((found == there).then_some(()))
        })
    };
    wait_for_problem(true)?;
    ensure!(scenario.spread(20)?.of("web2") == 20, "it doesn't go on");
    full.free()?;
    wait_for_problem(false)?;
    let state = fs::read_to_string(scenario.xlb.folder().join("state.json"))?;
    ensure!(state.contains("unhealthy"), "{state}");
    scenario.xlb.unload()
}

/// No BPF filesystem, and no right to mount one.
#[test]
fn no_bpf_filesystem() -> Result<()> {
    let topology = Setup::new(Mode::Local, 1).topology()?;
    let directory = topology.directory();
    let elsewhere = directory.join("elsewhere");
    fs::create_dir(&elsewhere)?;
    let mut command = topology.balancer.command("setpriv");
    command.arg("--bounding-set=-sys_admin");
    command
        .arg(xlb::binary()?)
        .args(["run", "--interface", "eth0"]);
    command.args(["--listen", ":80", "--target", ":8081"]);
    command.arg("--run-dir").arg(directory.join("run"));
    command.arg("--bpffs").arg(&elsewhere);
    let mut process = Process::spawn(&mut command, &directory.join("unmounted.log"))?;
    let status = process.wait(Duration::from_secs(10))?;
    let output = process.output();
    ensure!(status.code() == Some(1), "{status}: {output}");
    for word in ["BPF filesystem", "mount -t bpf", "--bpffs", "elsewhere"] {
        ensure!(output.contains(word), "nothing of “{word}” in: {output}");
    }
    ensure!(!directory.join("run").exists(), "a folder is left behind");
    Ok(())
}

/// Where one is mounted, that right isn't needed, not to adopt maps either.
#[test]
fn without_the_right_to_mount() -> Result<()> {
    let topology = Setup::new(Mode::Local, 1).topology()?;
    let directory = topology.directory();
    for n in 0..2 {
        let mut command = topology.balancer.command("setpriv");
        command.arg("--bounding-set=-sys_admin");
        command
            .arg(xlb::binary()?)
            .args(["run", "--interface", "eth0"]);
        command.args(["--listen", ":80", "--target", ":8081"]);
        command.arg("--run-dir").arg(directory.join("run"));
        command.arg("--bpffs").arg(directory.join("bpf"));
        let log = directory.join(format!("{n}.log"));
        let mut process = Process::spawn(&mut command, &log)?;
        process.wait_for_line("ready", Duration::from_secs(20))?;
        let has_adopted = process.output().contains("adopted");
        ensure!(has_adopted == (n == 1), "{}", process.output());
        process.terminate(Duration::from_secs(10))?;
    }
    Ok(())
}
