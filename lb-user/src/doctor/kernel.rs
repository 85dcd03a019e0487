//! The kernel, and whether it takes the programs.

use std::{fs, path::Path};

use super::Finding;
use crate::{
    config::Capacity,
    dataplane::{Dataplane, Kernel},
    host::Host,
};

const BTF: &str = "/sys/kernel/btf/vmlinux";
const BPFFS: &str = "/sys/fs/bpf";

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
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    match is_bpffs(&mounts) {
        true => Finding::ok("bpffs", format!("a BPF file system is mounted at {BPFFS}")),
        false => {
            let message = format!(
                "no BPF file system is mounted at {BPFFS}, where what outlives the agent has its \
                 place"
            );
            Finding::warning("bpffs", message).advice(format!("`mount -t bpf bpf {BPFFS}`"))
        }
    }
}

/// A line has the device, where it is mounted, and the type (man 5 fstab).
fn is_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    })
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

#[cfg(test)]
mod tests {
    use super::is_bpffs;

    #[test]
    fn mounts_are_read_by_place_and_type() {
        let sysfs = "sysfs /sys sysfs rw,nosuid 0 0\n";
        let bpf = "bpf /sys/fs/bpf bpf rw,nosuid,mode=700 0 0\n";
        let elsewhere = "bpf /run/bpf bpf rw 0 0\n";
        let other = "tmpfs /sys/fs/bpf tmpfs rw 0 0\n";
        assert!(is_bpffs(&format!("{sysfs}{bpf}")));
        for mounts in ["", sysfs, elsewhere, other] {
            assert!(!is_bpffs(mounts), "{mounts}");
        }
    }
}
