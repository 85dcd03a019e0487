//! Maps that another build or another configuration has left: what doesn't fit is
//! refused, and what can be is taken over.

use std::{
    fs::{self},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use xlb_tests::{
    client::{self, request_kept},
    xlb::Xlb,
};

use super::restarted::{Run, nothing};
use super::scenario::{HEALTH, Mode, VIP};

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
