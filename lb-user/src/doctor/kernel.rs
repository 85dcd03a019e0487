//! The kernel, and whether it takes the programs.

use std::path::Path;

use super::Finding;
use crate::{
    config::Capacity,
    dataplane::{Dataplane, Kernel, is_bpffs},
    host::Host,
    instance::DEFAULT_BPFFS,
};

const BTF: &str = "/sys/kernel/btf/vmlinux";

pub(super) fn check(host: &Host, capacity: &Capacity) -> Vec<Finding> {
    let kernel = Kernel::probe(host.tells_xdp_features());
    let release = match kernel.lacks() {
        Some(lacks) => Finding::note("kernel", lacks).advice("a later kernel has it"),
        None => Finding::ok("kernel", format!("Linux {}", kernel.release)),
    };
    let mut findings = vec![release, btf(), bpffs()];
    findings.extend(programs(capacity));
    findings
}

fn btf() -> Finding {
    match Path::new(BTF).exists() {
        true => Finding::ok("btf", "the kernel tells its types (BTF)"),
        false => Finding::error("btf", "the kernel doesn't tell its types (BTF)")
            .advice("use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions have it"),
    }
}

fn bpffs() -> Finding {
    match is_bpffs(Path::new(DEFAULT_BPFFS)) {
        true => Finding::ok(
            "bpffs",
            format!("a BPF file system is mounted at {DEFAULT_BPFFS}"),
        ),
        false => {
            let message = format!(
                "no BPF file system is mounted at {DEFAULT_BPFFS}, where what outlives the agent \
                 has its place"
            );
            let advice = format!("`mount -t bpf bpf {DEFAULT_BPFFS}`");
            Finding::warning("bpffs", message).advice(advice)
        }
    }
}

/// Loads the programs and makes the maps, and lets go of them.
fn programs(capacity: &Capacity) -> Vec<Finding> {
    let mut dataplane = match Dataplane::load(capacity) {
        Ok(dataplane) => dataplane,
        Err(error) => {
            let message = format!("{:#}", anyhow::Error::from(error));
            return vec![Finding::error("programs", message)];
        }
    };
    let flows = capacity.flows;
    let message = format!("the kernel takes the programs, and has memory for {flows} flows");
    let mut findings = vec![Finding::ok("programs", message)];
    let ingress = dataplane.ingress().ok();
    let info = ingress.and_then(|program| program.info().ok());
    findings.extend(info.map(|info| {
        match info.size_jitted() {
            0 => Finding::warning(
                "jit",
                "the kernel interprets BPF, which is several times slower",
            )
            .advice("`sysctl -w net.core.bpf_jit_enable=1`"),
            _ => Finding::ok("jit", "the kernel compiles BPF (JIT)"),
        }
    }));
    findings
}
