//! A capture under way, and what is in its file.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    process::ExitStatus,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use xlb_tests::{
    pcapng::{self, File, Frame},
    process::Process,
    topology::Topology,
    wait,
    xlb::Xlb,
};

use super::{
    capture::{BEGINS, SOON},
    scenario::Scenario,
};

/// How often the agent has logged something.
pub fn said(xlb: &Xlb, words: &str) -> usize {
    xlb.log().matches(words).count()
}

/// A capture that runs beside the test.
pub struct Running {
    pub process: Process,
    pub file: PathBuf,
}

impl Running {
    /// Starts one and waits until its programs run.
    pub fn start(scenario: &Scenario, name: &str, words: &[&str]) -> Result<Self> {
        let before = said(&scenario.xlb, BEGINS);
        let file = scenario.topology.directory().join(format!("{name}.pcapng"));
        let mut command = scenario.xlb.command("capture")?;
        command.arg("-w").arg(&file).args(words);
        let mut process = Process::spawn(&mut command, &file.with_extension("log"))?;
        wait::until("a capture to begin", SOON, || {
            if let Some(status) = process.ended()? {
                anyhow::bail!("it ended with {status}: {}", process.output());
            }
            Ok((said(&scenario.xlb, BEGINS) > before).then_some(()))
        })?;
        Ok(Self { process, file })
    }

    /// Ends it as an operator does, and gives what it has written.
    pub fn end(mut self) -> Result<File> {
        self.process.end_by(Signal::SIGINT, SOON)?;
        self.read()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.process.wait(SOON)
    }

    pub fn read(&self) -> Result<File> {
        let file = pcapng::read(&fs::read(&self.file)?);
        file.with_context(|| format!("{}: {}", self.file.display(), self.process.output()))
    }
}

/// Source and destination of a frame over IPv4 without a tag.
pub fn ends(frame: &Frame) -> Result<(SocketAddr, SocketAddr)> {
    let ip = frame.bytes.get(14..).context("no IP header")?;
    ensure!(
        frame.bytes[12..14] == [8, 0] && ip[0] == 0x45,
        "not plain IPv4"
    );
    let at = |address: usize, port: usize| -> Result<SocketAddr> {
        let octets: [u8; 4] = ip[address..address + 4].try_into()?;
        let port = u16::from_be_bytes(ip[port..port + 2].try_into()?);
        Ok(SocketAddrV4::new(Ipv4Addr::from(octets), port).into())
    };
    Ok((at(12, 20)?, at(16, 22)?))
}

pub fn is_syn(frame: &Frame) -> bool {
    frame
        .bytes
        .get(14 + 20 + 13)
        .is_some_and(|flags| flags & 0x12 == 2)
}

/// The frames two by two: a packet before and after.
pub fn pairs(file: &File) -> Result<Vec<(&Frame, &Frame)>> {
    let pairs = file.frames.chunks(2).map(|pair| {
        let [before, after] = pair else {
            anyhow::bail!("a frame alone: {pair:?}");
        };
        ensure!(before.comment.starts_with("before; "), "{before:?}");
        ensure!(after.comment.starts_with("after; "), "{after:?}");
        ensure!(before.time == after.time, "of two packets");
        Ok((before, after))
    });
    pairs.collect()
}

/// Id of the XDP program of the balancer's interface.
pub fn program(topology: &Topology, device: &str) -> Result<u64> {
    let json = topology.balancer.ip(&format!("-j link show {device}"))?;
    let links: Value = serde_json::from_str(&json)?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64();
    id.with_context(|| format!("no program: {json}"))
}
