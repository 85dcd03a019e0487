//! What this process may do.

use std::fs;

use super::Finding;
use crate::{
    capabilities::{self, NEEDED},
    config::Config,
};

/// Descriptors that the agent has besides those of its checks, generously.
const OTHER_FILES: u64 = 256;

pub(super) fn check(config: Option<&Config>) -> Vec<Finding> {
    let mut findings = rights();
    findings.push(locked_memory());
    findings.extend(config.and_then(open_files));
    findings
}

fn rights() -> Vec<Finding> {
    let mut findings = Vec::new();
    for needed in NEEDED.iter().filter(|needed| !needed.is_held()) {
        let (name, purpose) = (needed.capability, needed.purpose);
        let message = format!("this process lacks {name}, {purpose}");
        let finding = match needed.required {
            true => Finding::error("capabilities", message),
            false => Finding::warning("capabilities", message),
        };
        findings.push(finding.advice("run as root, or by the systemd unit, which grants it"));
    }
    if findings.is_empty() {
        let message = format!("this process has {}", capabilities::names());
        findings.push(Finding::ok("capabilities", message));
    }
    findings
}

/// Since Linux 5.11 the limit is that of the control group's memory.
fn locked_memory() -> Finding {
    let message = "RLIMIT_MEMLOCK doesn't limit BPF maps here, the control group's memory does";
    match cgroup_limit() {
        Some(limit) => {
            let mib = limit >> 20;
            Finding::note("locked_memory", format!("{message}: {mib} MiB"))
                .advice("leave room for the flows of `capacity.flows`, at most 400 bytes each")
        }
        None => Finding::ok(
            "locked_memory",
            format!("{message}, and no limit of that was found"),
        ),
    }
}

/// The smallest limit (bytes) on the way from this process's control group to
/// the root (Linux: Documentation/admin-guide/cgroup-v2.rst).
fn cgroup_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let leaf = root.join(path);
    let folders = leaf.ancestors().take_while(|it| it.starts_with(root));
    let limit = |folder: &std::path::Path| fs::read_to_string(folder.join("memory.max")).ok();
    folders
        .filter_map(|folder| limit(folder)?.trim().parse().ok())
        .min()
}

/// Every check under way has a socket.
fn open_files(config: &Config) -> Option<Finding> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    // The words behind the name: the soft limit and the hard one.
    let hard: u64 = line.split_whitespace().nth(4)?.parse().ok()?;
    let needed = config.targets() as u64 + OTHER_FILES;
    Some(match hard < needed {
        true => {
            let message = format!(
                "at most {hard} files may be open, and checks of all targets at once need {needed}"
            );
            Finding::warning("open_files", message).advice(format!(
                "`ulimit -Hn {needed}`, or `LimitNOFILE={needed}` in the unit"
            ))
        }
        false => Finding::ok("open_files", format!("up to {hard} files may be open")),
    })
}
