//! `xlb capture`: what it writes, what it leaves out, and that nothing notices.

use std::{
    fs,
    net::{IpAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use xlb_tests::{
    client::{Load, request_kept},
    pcapng::{self, File, Frame},
    topology::{BALANCER, CLIENT, Family, Far},
    tunnel::Encapsulation,
    wait,
    xlb::Xlb,
};

use super::{
    captured::{Running, ends, is_syn, pairs, program, said},
    dsr::{Dsr, Way},
    scenario::{MEDIUM, Mode, Scenario, Setup, VIP},
};

pub const SOON: Duration = Duration::from_secs(10);
pub const BEGINS: &str = "a capture begins";
const ENDED: &str = "the capture has ended";

#[test]
fn packets_of_source_nat_before_and_after() -> Result<()> {
    let scenario = Setup::new(Mode::OneArm, 2).start()?;
    let client = IpAddr::from(CLIENT);
    let usual = program(&scenario.topology, "eth0")?;
    let filter = ["tcp", "and", "host", "10.0.2.2"];
    let running = Running::start(&scenario, "nat", &filter)?;
    ensure!(
        program(&scenario.topology, "eth0")? != usual,
        "nothing was replaced"
    );
    scenario.spread(20)?;
    let file = running.end()?;
    // At once, and not some time after the command.
    ensure!(
        program(&scenario.topology, "eth0")? == usual,
        "not put back"
    );

    let (mut begun, mut answers) = (0, 0);
    for (before, after) in pairs(&file)? {
        let (came, goes) = (ends(before)?, ends(after)?);
        ensure!(before.interface == "eth0 before" && after.interface == "eth0 after");
        ensure!((before.direction, after.direction) == (1, 2), "{before:?}");
        let comment = &after.comment;
        ensure!(
            comment.contains("ingress eth0; ") && comment.contains(" by eth0; "),
            "{comment}"
        );
        ensure!(
            comment.contains("; listener web; target 10.0.2.2"),
            "{comment}"
        );
        let target = scenario.servers.iter().map(|it| it.place.address);
        let mut target = target.filter(|it| comment.contains(&format!("target {it} of web")));
        let target = target.next().with_context(|| comment.clone())?;
        if came.1 == VIP {
            ensure!(
                came.0.ip() == client && goes.1 == target,
                "{came:?} {goes:?}"
            );
            ensure!(goes.0.ip() == IpAddr::from(BALANCER), "{goes:?}");
            ensure!(comment.ends_with("; to the target"), "{comment}");
            begun += usize::from(is_syn(before));
        } else {
            // It has the client's address only now.
            ensure!(came.0 == target && goes.0 == VIP, "{came:?} {goes:?}");
            ensure!(goes.1.ip() == client, "{goes:?}");
            ensure!(comment.ends_with("; to the client"), "{comment}");
            answers += 1;
        }
    }
    ensure!(begun == 20, "{begun} SYNs");
    ensure!(answers >= 60, "{answers} answers");
    ensure!(
        file.statistics == Some((file.frames.len() as u64 / 2, 0)),
        "{:?}",
        file.statistics
    );
    Ok(())
}

#[test]
fn packets_of_local_targets_and_dropped_ones_tcx() -> Result<()> {
    local(None)
}

#[test]
fn packets_of_local_targets_and_dropped_ones_clsact() -> Result<()> {
    local(Some("clsact"))
}

fn local(tc_mode: Option<&'static str>) -> Result<()> {
    let setup = Setup {
        tc_mode,
        ..Setup::new(Mode::Local, 1)
    };
    let topology = setup.topology()?;
    topology
        .client
        .ip("address add 10.0.2.3/24 dev eth0 preferred_lft 0")?;
    let mut config = setup.config(&topology);
    config.tables = "[[security_group]]\nname = \"some\"\ndeny = \"10.0.2.3/32\"\n".into();
    config.listeners[0].settings = "security_group = \"some\"\n".into();
    let scenario = setup.start_with(topology, &config)?;
    let target = scenario.servers[0].place.address;
    let denied = || {
        let source = IpAddr::from([10, 0, 2, 3]);
        xlb_tests::client::spread_from(&scenario.topology.client, source, &scenario.url("/"), 1)
    };

    let running = Running::start(&scenario, "all", &[])?;
    scenario.spread(3)?;
    ensure!(denied()?.failed == 1, "it wasn't denied");
    let file = running.end()?;
    let (drops, ways): (Vec<_>, Vec<_>) = file.frames.iter().cloned().partition(is_drop);
    ensure!(!drops.is_empty(), "no drop");
    let file = File {
        frames: ways,
        ..file
    };
    let (mut forward, mut replies) = (0, 0);
    for (before, after) in pairs(&file)? {
        let (came, goes) = (ends(before)?, ends(after)?);
        if came.1 == VIP {
            ensure!(goes == (came.0, target), "{goes:?}");
            ensure!(
                after
                    .comment
                    .starts_with("after; ingress eth0; pass; listener web; ")
            );
            ensure!(after.direction == 1, "it stays here");
            forward += 1;
        } else {
            ensure!(
                came == (target, goes.1) && goes.0 == VIP,
                "{came:?} {goes:?}"
            );
            ensure!(
                after
                    .comment
                    .starts_with("after; egress eth0; pass by eth0; listener web; ")
            );
            ensure!((before.direction, after.direction) == (2, 2));
            replies += 1;
        }
    }
    ensure!(forward >= 12 && replies >= 9, "{forward} {replies}");

    let running = Running::start(&scenario, "denied", &["dropped", "and", "reason", "denied"])?;
    scenario.spread(3)?;
    ensure!(denied()?.failed == 1, "it wasn't denied");
    let file = running.end()?;
    ensure!(!file.frames.is_empty(), "no drop");
    for frame in &file.frames {
        ensure!(
            frame.comment == "before; ingress eth0; drop: denied; listener web",
            "{frame:?}"
        );
        ensure!(
            ends(frame)?.0.ip() == IpAddr::from([10, 0, 2, 3]),
            "{frame:?}"
        );
    }
    Ok(())
}

fn is_drop(frame: &Frame) -> bool {
    frame.comment.contains("; drop: ")
}

/// The outer packet is in the second frame, and its target is found.
#[test]
fn packets_in_a_tunnel() -> Result<()> {
    let way = Way::by(Encapsulation::Ipip, Family::V4, Family::V4);
    let dsr = Dsr::start(way, 1, Far::Nobody)?;
    let target = dsr.scenario.servers[0].place.address;
    let filter = format!("dst host {}", target.ip());
    let running = Running::start(&dsr.scenario, "dsr", &[&filter])?;
    dsr.scenario.spread(2)?;
    let file = running.end()?;
    ensure!(file.frames.len() >= 16, "{} frames", file.frames.len());
    for (before, after) in pairs(&file)? {
        ensure!(after.length == before.length + 20, "{after:?}");
        let protocol = after.bytes.get(14 + 9);
        ensure!(protocol == Some(&4), "{after:?}");
        ensure!(ends(after)?.1.ip() == target.ip(), "{after:?}");
        ensure!(after.bytes[34 + 12..34 + 20] == before.bytes[14 + 12..14 + 20]);
    }
    Ok(())
}

#[test]
fn a_capture_is_bounded() -> Result<()> {
    let scenario = Setup::new(Mode::OneArm, 1).start()?;
    let mut running = Running::start(&scenario, "count", &["--count", "7", "--json"])?;
    scenario.spread(5)?;
    ensure!(running.wait()?.success(), "{}", running.process.output());
    ensure!(running.read()?.frames.len() == 14, "not seven packets");
    let summary: Value = serde_json::from_str(&running.process.output())?;
    ensure!(
        summary["packets"] == 7 && summary["ended"] == "packets",
        "{summary}"
    );
    let length = fs::metadata(&running.file)?.len();
    ensure!(
        summary["bytes"] == length,
        "{summary}, and the file has {length}"
    );
    let mode = fs::metadata(&running.file)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "mode {mode:o}");

    let mut running = Running::start(&scenario, "seconds", &["--seconds", "1", "--snaplen", "60"])?;
    scenario.spread(5)?;
    ensure!(running.wait()?.success(), "{}", running.process.output());
    ensure!(running.process.output().contains("its time is over"));
    let frames = running.read()?.frames;
    ensure!(
        !frames.is_empty() && frames.iter().all(|it| it.bytes.len() <= 60),
        "{frames:?}"
    );
    ensure!(frames.iter().any(|it| it.length > 60), "all were short");

    let mut running = Running::start(&scenario, "size", &["--size", "1"])?;
    scenario.download(MEDIUM)?;
    ensure!(running.wait()?.success(), "{}", running.process.output());
    ensure!(running.process.output().contains("its size is reached"));
    let length = fs::metadata(&running.file)?.len();
    ensure!((900_000..=1 << 20).contains(&length), "{length} bytes");
    running.read()?;
    Ok(())
}

#[test]
fn what_cant_be_captured_is_said() -> Result<()> {
    let scenario = Setup::new(Mode::OneArm, 1).start()?;
    let file = scenario.topology.directory().join("no.pcapng");
    let path = file.to_string_lossy();
    let refused = |words: &[&str], code: i32, sentence: &str| -> Result<()> {
        let output = scenario
            .xlb
            .ask(&[&["capture", "-w", &path], words].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(code) && said.contains(sentence),
            "{words:?}: {}: {said}",
            output.status
        );
        ensure!(!file.exists(), "{words:?} left a file");
        Ok(())
    };
    refused(&["tpc"], 2, "`tpc` is no word of a filter")?;
    refused(&["listener", "mail"], 2, "no listener `mail`")?;
    refused(&["target", "10.0.2.99:80"], 2, "10.0.2.99:80")?;
    refused(&["--seconds", "301"], 2, "301")?;
    let running = Running::start(&scenario, "first", &[])?;
    refused(&["tcp"], 1, "another capture is under way")?;
    scenario.spread(1)?;
    ensure!(
        running.end()?.frames.len() > 10,
        "the first one was disturbed"
    );

    fs::write(&file, "mine")?;
    let output = scenario
        .xlb
        .ask(&["capture", "-w", &path, "--seconds", "1"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2) && said.contains("--force"),
        "{said}"
    );
    ensure!(fs::read(&file)? == b"mine", "it was written over");
    scenario
        .xlb
        .answer(&["capture", "-w", &path, "--seconds", "1", "--force"])?;
    pcapng::read(&fs::read(&file)?)?;
    // A pipe.
    let output = scenario
        .xlb
        .ask(&["capture", "-w", "-", "--seconds", "1", "--json"])?;
    pcapng::read(&output.stdout)?;
    let summary: Value = serde_json::from_slice(&output.stderr)?;
    ensure!(summary["ended"] == "seconds", "{summary}");
    Ok(())
}

/// Connections go on while captures begin and end, also one that began before.
#[test]
fn nothing_notices_a_capture() -> Result<()> {
    let scenario = Setup::new(Mode::OtherInterface, 2).start()?;
    let usual = program(&scenario.topology, "eth1")?;
    let mut kept = scenario.connect()?;
    let served = request_kept(&mut kept)?;
    let client = &scenario.topology.client;
    let pause = Duration::from_millis(5);
    let (files, attempts) = Load::during(client, scenario.listener, 2, pause, |_| {
        let mut files = Vec::new();
        for round in 0..3 {
            let running = Running::start(&scenario, &format!("round{round}"), &["tcp"])?;
            ensure!(request_kept(&mut kept)? == served, "another target");
            let explained =
                scenario
                    .xlb
                    .answer(&["explain", "tcp", "10.0.2.9:99", "10.0.2.15:80"])?;
            ensure!(
                explained.contains("verdict         sent by eth"),
                "{explained}"
            );
            files.push(running.end()?);
            ensure!(
                program(&scenario.topology, "eth1")? == usual,
                "not put back"
            );
        }
        Ok(files)
    })?;
    ensure!(request_kept(&mut kept)? == served, "another target");
    let failed: Vec<_> = attempts.iter().filter(|it| it.answer.is_err()).collect();
    ensure!(attempts.len() > 100 && failed.is_empty(), "{failed:?}");
    for file in &files {
        ensure!(file.frames.len() > 50, "{} frames", file.frames.len());
        let redirected = file.frames.iter().any(|it| it.interface == "eth1 after");
        ensure!(redirected, "{:?}", file.interfaces);
    }
    Ok(())
}

/// A reload, and an interface that comes back.
#[test]
fn a_capture_lives_through_changes() -> Result<()> {
    let setup = Setup::new(Mode::Local, 1);
    let topology = setup.topology()?;
    let mut config = setup.config(&topology);
    let scenario = setup.start_with(topology, &config)?;
    let running = Running::start(&scenario, "changes", &[])?;
    config.listeners[0].settings = "max_new_flows = 1000\n".into();
    scenario.xlb.reload(&config)?;
    scenario.spread(1)?;
    let attached = said(&scenario.xlb, "attached");
    scenario.topology.balancer.ip("link delete eth0")?;
    scenario.topology.reconnect_client()?;
    wait::until("the agent to attach again", SOON, || {
        Ok((said(&scenario.xlb, "attached") > attached).then_some(()))
    })?;
    wait::until("the listener to answer again", SOON, || {
        Ok(scenario.get("/").is_ok().then_some(()))
    })?;
    let file = running.end()?;
    let names: Vec<_> = file.frames.iter().map(|it| it.interface.as_str()).collect();
    // The new one has an index that had no name when the capture began.
    ensure!(names.contains(&"eth0 before"), "{names:?}");
    ensure!(
        names.iter().any(|it| it.starts_with("interface ")),
        "{names:?}"
    );
    scenario.get("/").map(drop)
}

/// Whoever ends: the usual programs are back.
#[test]
fn the_usual_programs_come_back() -> Result<()> {
    let setup = Setup::new(Mode::OneArm, 1);
    let topology = setup.topology()?;
    let config = setup.config(&topology);
    let mut scenario = setup.start_with(topology, &config)?;
    let usual = program(&scenario.topology, "eth0")?;
    // The command is killed.
    let ended = said(&scenario.xlb, ENDED);
    let mut running = Running::start(&scenario, "killed", &[])?;
    running.process.kill();
    wait::until("the agent to notice", SOON, || {
        Ok((said(&scenario.xlb, ENDED) > ended).then_some(()))
    })?;
    ensure!(
        program(&scenario.topology, "eth0")? == usual,
        "not put back"
    );

    // The agent ends.
    let mut running = Running::start(&scenario, "stopped", &[])?;
    scenario.spread(1)?;
    let directory = scenario.topology.directory().to_owned();
    let balancer = scenario.topology.balancer.clone();
    scenario.xlb.stop()?;
    ensure!(
        program(&scenario.topology, "eth0")? == usual,
        "not put back"
    );
    let status = running.wait()?;
    ensure!(status.success(), "{status}: {}", running.process.output());
    ensure!(
        running.read()?.frames.len() > 10,
        "what was captured is lost"
    );

    // The agent is killed: its programs stay until there is another one.
    scenario.xlb = Xlb::start(&balancer, &config, &directory)?;
    let usual = program(&scenario.topology, "eth0")?;
    let mut kept = connect(&scenario)?;
    let mut running = Running::start(&scenario, "agent", &[])?;
    let capturing = program(&scenario.topology, "eth0")?;
    let id = nix::unistd::Pid::from_raw(scenario.xlb.id().try_into()?);
    nix::sys::signal::kill(id, Signal::SIGKILL)?;
    let status = running.wait()?;
    ensure!(
        status.code() == Some(1),
        "{status}: {}",
        running.process.output()
    );
    ensure!(
        program(&scenario.topology, "eth0")? == capturing,
        "who has replaced it?"
    );
    request_kept(&mut kept)?;
    scenario.xlb = Xlb::start(&balancer, &config, &directory)?;
    let next = program(&scenario.topology, "eth0")?;
    ensure!(
        next != capturing && next != usual,
        "{next} {capturing} {usual}"
    );
    request_kept(&mut kept)?;
    Ok(())
}

fn connect(scenario: &Scenario) -> Result<TcpStream> {
    let mut stream = scenario.connect()?;
    request_kept(&mut stream)?;
    Ok(stream)
}

/// As for Wireshark.
#[test]
fn a_capture_in_a_pipe_comes_at_once() -> Result<()> {
    let scenario = Setup::new(Mode::OneArm, 1).start()?;
    let begun = said(&scenario.xlb, BEGINS);
    let mut command = scenario.xlb.command("capture")?;
    command.args(["-w", "-", "--count", "8", "tcp"]);
    let output = thread::scope(|scope| -> Result<_> {
        let output = scope.spawn(move || command.output());
        wait::until("a capture to begin", SOON, || {
            Ok((said(&scenario.xlb, BEGINS) > begun).then_some(()))
        })?;
        scenario.spread(2)?;
        let output = output.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
        Ok(output?)
    })?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(pcapng::read(&output.stdout)?.frames.len() == 16);
    Ok(())
}
