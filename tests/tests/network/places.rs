//! Where an agent keeps its pins and its state: taken, lost, full or missing.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use xlb_tests::{
    client::request_kept,
    process::Process,
    topology::Topology,
    wait,
    xlb::{self, Xlb},
};

use super::restarted::Run;
use super::scenario::{Mode, Setup};

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
    let file = topology.directory().join("wrong.toml");
    fs::write(&file, wrong.to_string())?;
    let file = file.to_string_lossy();
    for more in [&[][..], &["--replace"]] {
        let arguments = [&["--config", &file][..], more].concat();
        let error = Xlb::run(&topology.balancer, &arguments, topology.directory()).err();
        let error = format!("{:#}", error.context("it started")?);
        ensure!(error.contains("eth7"), "{error}");
        ensure!(request_kept(&mut stream)? == name, "another target");
    }
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

/// systemd waits for an agent that it starts, so that `systemctl start` fails if
/// that does.
#[test]
fn systemd_is_told() -> Result<()> {
    let setup = Setup::new(Mode::Local, 1);
    let topology = setup.topology()?;
    let path = topology.directory().join("notify");
    let systemd = UnixDatagram::bind(&path)?;
    systemd.set_read_timeout(Some(Duration::from_secs(5)))?;
    let told = || -> Result<String> {
        let mut message = [0; 64];
        let length = systemd.recv(&mut message)?;
        Ok(String::from_utf8_lossy(&message[..length])
            .trim()
            .to_owned())
    };
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let config = setup.config(&topology);
    let starter = ["env", &variable];
    let xlb = Xlb::start_by(&starter, &topology.balancer, &config, topology.directory())?;
    ensure!(told()? == "READY=1");
    xlb.unload()?;
    ensure!(told()? == "STOPPING=1");
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
    let asleep = (0..60).try_for_each(|_| {
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
    let mut command = by_who_cant_mount(&topology, &elsewhere)?;
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
        let mut command = by_who_cant_mount(&topology, &directory.join("bpf"))?;
        let log = directory.join(format!("{n}.log"));
        let mut process = Process::spawn(&mut command, &log)?;
        process.wait_for_line("ready", Duration::from_secs(20))?;
        let has_adopted = process.output().contains("adopted");
        ensure!(has_adopted == (n == 1), "{}", process.output());
        process.terminate(Duration::from_secs(10))?;
    }
    Ok(())
}

/// An agent that has every right but to mount.
fn by_who_cant_mount(topology: &Topology, bpffs: &Path) -> Result<Command> {
    let mut command = topology.balancer.command("setpriv");
    command.arg("--bounding-set=-sys_admin");
    command
        .arg(xlb::binary()?)
        .args(["run", "--interface", "eth0"]);
    command.args(["--listen", ":80", "--target", ":8081"]);
    command
        .arg("--run-dir")
        .arg(topology.directory().join("run"));
    command.arg("--bpffs").arg(bpffs);
    Ok(command)
}
