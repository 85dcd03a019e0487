//! `xlb doctor` on hosts with one thing wrong, and on the same ones without.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use xlb_tests::{
    command::output,
    netns::Namespace,
    programs,
    topology::{BALANCER, Peers, Topology},
    xlb::{self, Config, Xlb},
};

use super::scenario::{Mode, Setup};

#[derive(Debug, Deserialize)]
struct Report {
    worst: String,
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    severity: String,
    check: String,
    interface: Option<String>,
    message: String,
    advice: Option<String>,
}

/// What it says of a namespace, where a BPF file system is mounted, and its exit
/// code. `around` is a command that runs it.
fn examine(host: &Namespace, around: &str, arguments: &str) -> Result<(Report, Option<i32>)> {
    let xlb = xlb::binary()?;
    let xlb = xlb.display();
    let script =
        format!("mount -t bpf bpf /sys/fs/bpf && exec {around} {xlb} doctor --json {arguments}");
    let output = output(host.command("sh").args(["-c", &script]))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&said).with_context(|| format!("{said}{errors}"))?;
    Ok((report, output.status.code()))
}

impl Report {
    /// Those that are worse than a note, each as `severity check interface`.
    fn bad(&self) -> BTreeSet<String> {
        let bad = |it: &&Finding| it.severity == "warning" || it.severity == "error";
        let findings = self.findings.iter().filter(bad);
        findings.map(Finding::key).collect()
    }

    fn of(&self, check: &str) -> Result<&Finding> {
        let mut findings = self.findings.iter();
        findings
            .find(|it| it.check == check)
            .with_context(|| format!("nothing about {check}: {self:?}"))
    }
}

impl Finding {
    fn key(&self) -> String {
        let interface = self.interface.as_deref().unwrap_or("-");
        format!("{} {} {interface}", self.severity, self.check)
    }
}

/// A host that balances to a target behind it and one that clients' addresses
/// are hidden from, and its configuration file.
struct Rig {
    topology: Topology,
    config: Config,
}

impl Rig {
    fn new(peers: Peers) -> Result<Self> {
        Self::of(Setup::new(Mode::OtherInterface, 2), peers)
    }

    fn of(setup: Setup, peers: Peers) -> Result<Self> {
        let topology = setup.mode.topology(2, peers)?;
        let config = setup.config(&topology);
        Ok(Self { topology, config })
    }

    fn host(&self) -> &Namespace {
        &self.topology.balancer
    }

    /// What is wrong, by its configuration.
    fn report(&self) -> Result<(Report, Option<i32>)> {
        let file = self.topology.directory().join("xlb.toml");
        fs::write(&file, self.config.to_string())?;
        examine(self.host(), "", &format!("--config {}", file.display()))
    }

    fn shows(&self, expected: &[&str]) -> Result<Report> {
        let (report, code) = self.report()?;
        let expected: BTreeSet<String> = expected.iter().map(|&it| it.to_owned()).collect();
        ensure!(report.bad() == expected, "want {expected:?} in {report:#?}");
        let severities = ["warning", "error"];
        let worst = severities.map(|severity| expected.iter().any(|it| it.starts_with(severity)));
        let (code_of, worst) = match worst {
            [_, true] => (2, "error"),
            [true, false] => (1, "warning"),
            [false, false] => (0, "note"),
        };
        ensure!(code == Some(code_of), "exit code {code:?}, {report:#?}");
        ensure!(report.worst == worst, "{report:#?}");
        Ok(report)
    }
}

#[test]
fn a_host_in_order() -> Result<()> {
    let rig = Rig::new(Peers::TakeXdp)?;
    let report = rig.shows(&[])?;
    for check in [
        "kernel",
        "btf",
        "bpffs",
        "programs",
        "jit",
        "capabilities",
        "locked_memory",
        "open_files",
        "xdp_mode",
        "mtu",
        "redirect",
        "lro",
        "configuration",
    ] {
        let finding = report.of(check)?;
        ensure!(finding.severity == "ok", "{finding:?}");
    }
    // Nothing is left: an agent can start.
    let xlb = Xlb::start(rig.host(), &rig.config, rig.topology.directory())?;
    let report = rig.shows(&[])?;
    let finding = report.of("xdp_program")?;
    ensure!(finding.severity == "note", "{finding:?}");
    xlb.stop()
}

#[test]
fn a_veth_whose_peer_is_not_ready() -> Result<()> {
    let rig = Rig::new(Peers::Plain)?;
    let target = &rig.topology.targets[0].namespace;
    target.run("ethtool -K eth0 gro off")?;
    let report = rig.shows(&["warning redirect eth1"])?;
    let finding = report
        .findings
        .iter()
        .find(|it| it.check == "redirect" && it.severity == "warning");
    let advice = finding
        .and_then(|it| it.advice.as_deref())
        .unwrap_or_default();
    ensure!(advice.contains("gro on"), "{advice}");
    target.run("ethtool -K eth0 gro on")?;
    rig.shows(&[]).map(drop)
}

#[test]
fn forwarding_is_off() -> Result<()> {
    let rig = Rig::new(Peers::TakeXdp)?;
    rig.host().sysctl("ipv4/ip_forward", "0")?;
    let interfaces = &rig.config.interfaces;
    let expected: Vec<String> = interfaces
        .iter()
        .map(|it| format!("error forwarding {it}"))
        .collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let report = rig.shows(&expected)?;
    let message = &report.of("forwarding")?.message;
    ensure!(
        message.contains("sysctl -w net.ipv4.ip_forward=1"),
        "{message}"
    );
    rig.host().sysctl("ipv4/ip_forward", "1")?;
    rig.shows(&[]).map(drop)
}

#[test]
fn ports_of_source_nat_that_the_host_uses() -> Result<()> {
    let rig = Rig::new(Peers::TakeXdp)?;
    rig.host()
        .sysctl("ipv4/ip_local_port_range", "2000 60999")?;
    rig.shows(&["warning source_ports -"])?;
    rig.host()
        .sysctl("ipv4/ip_local_reserved_ports", "2000-32767")?;
    rig.shows(&[]).map(drop)
}

#[test]
fn a_strict_filter_of_reverse_paths() -> Result<()> {
    let mut rig = Rig::of(Setup::new(Mode::OtherInterface, 2), Peers::TakeXdp)?;
    rig.config.target_groups[0].targets = vec![(([10, 0, 2, 15], 8081).into(), 1)];
    rig.host().sysctl("ipv4/conf/eth1/rp_filter", "1")?;
    rig.host().sysctl("ipv4/conf/all/rp_filter", "0")?;
    rig.host().sysctl("ipv4/conf/eth0/rp_filter", "0")?;
    for interface in &rig.config.interfaces[2..] {
        rig.host()
            .sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "2")?;
    }
    rig.shows(&["warning rp_filter eth1"])?;
    rig.host().sysctl("ipv4/conf/eth1/rp_filter", "2")?;
    rig.shows(&[]).map(drop)
}

#[test]
fn an_interface_that_is_down_missing_or_taken() -> Result<()> {
    let rig = Rig::new(Peers::TakeXdp)?;
    let host = rig.host();
    let taken = programs::pass(host, "eth0")?;
    rig.shows(&["error xdp_program eth0"])?;
    drop(taken);
    rig.shows(&[])?;

    let (report, code) = examine(host, "", "--interface nosuch")?;
    ensure!(
        report.bad() == BTreeSet::from(["error interface nosuch".to_owned()]),
        "{report:?}"
    );
    ensure!(code == Some(2), "{code:?}");
    host.ip("link set eth1 down")?;
    let (report, _) = examine(host, "", "--interface eth1")?;
    ensure!(
        report.bad() == BTreeSet::from(["error interface eth1".to_owned()]),
        "{report:?}"
    );
    // Its target can't be reached then.
    let (report, code) = rig.report()?;
    let bad = report.bad();
    ensure!(
        bad.contains("error interface eth1") && bad.contains("error target -"),
        "{report:?}"
    );
    ensure!(code == Some(2), "{code:?}");
    host.ip("link set eth1 up")?;
    rig.shows(&[]).map(drop)
}

#[test]
fn a_bridge_has_no_native_xdp_and_its_ports_see_their_own_only() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let host = &topology.balancer;
    host.ip("link add br0 type bridge mcast_snooping 0")?;
    host.ip("link add other0 type veth peer name other1")?;
    for (port, controller) in [("eth0", "br0"), ("other0", "br0")] {
        host.ip(&format!("link set {port} master {controller}"))?;
    }
    for device in ["br0", "other0", "other1"] {
        host.ip(&format!("link set {device} up"))?;
    }
    host.ip(&format!("address add {BALANCER}/24 dev br0"))?;
    let (report, code) = examine(host, "", "--interface br0")?;
    ensure!(
        report.bad() == BTreeSet::from(["warning xdp_mode br0".to_owned()]),
        "{report:?}"
    );
    ensure!(code == Some(1), "{code:?}");
    let (report, code) = examine(host, "", "--interface eth0")?;
    let finding = report.of("bridge")?;
    ensure!(
        finding.severity == "note" && finding.message.ends_with(": other0"),
        "{finding:?}"
    );
    ensure!(code == Some(0), "{code:?} {report:?}");
    Ok(())
}

#[test]
fn rights_that_are_missing() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let host = &topology.balancer;
    let interface = "--interface eth0";
    let (report, code) = examine(host, "setpriv --bounding-set=-net_raw", interface)?;
    ensure!(
        report.bad() == BTreeSet::from(["warning capabilities -".to_owned()]),
        "{report:?}"
    );
    ensure!(code == Some(1), "{code:?}");
    let (report, code) = examine(host, "setpriv --bounding-set=-all", interface)?;
    let bad = report.bad();
    ensure!(
        bad.contains("error capabilities -") && bad.contains("error programs -"),
        "{report:?}"
    );
    ensure!(code == Some(2), "{code:?}");
    Ok(())
}

#[test]
fn for_people_and_with_a_file_that_is_none() -> Result<()> {
    let topology = Topology::one_host(1)?;
    let host = &topology.balancer;
    let doctor =
        |arguments: &[&str]| output(host.command(xlb::binary()?).arg("doctor").args(arguments));
    // `ip netns exec` mounts a /sys without a BPF file system in it.
    let said = doctor(&["--interface", "eth0"])?;
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(said.status.code() == Some(1), "{text}");
    for line in [
        "warning  bpffs: no BPF file system is mounted",
        "         -> `mount -t bpf bpf /sys/fs/bpf`",
        "ok       eth0: xdp_mode: the driver veth has native XDP",
        "0 errors, 1 warnings, ",
    ] {
        ensure!(text.contains(line), "no {line:?} in\n{text}");
    }
    let file = topology.directory().join("xlb.toml");
    fs::write(&file, "interface = 7\n")?;
    let said = doctor(&["--config", path(&file)?])?;
    let errors = String::from_utf8_lossy(&said.stderr);
    ensure!(
        said.status.code() == Some(2) && errors.contains(":1:13: error"),
        "{errors}"
    );
    Ok(())
}

fn path(file: &Path) -> Result<&str> {
    file.to_str().context("not UTF-8")
}
