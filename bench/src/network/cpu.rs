//! Which CPU does what, and how long.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use xlb_tests::netns::Namespace;

/// The CPU of what is measured, and that of everything else.
pub const MEASURED: usize = 1;
pub const OTHERS: usize = 0;

/// Keeps the calling thread, and what it starts, on a CPU.
pub fn pin(cpu: usize) -> Result<()> {
    pin_task(0, cpu)
}

fn pin_task(pid: i32, cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(pid), &cpus)
        .with_context(|| format!("can't be kept on CPU {cpu}: this needs two"))
}

/// Has a kernel thread receive what comes by a device, keeps it on a CPU, and
/// gives its id.
pub fn receive_by_thread(namespace: &Namespace, device: &str, cpu: usize) -> Result<u32> {
    let before = kernel_threads(device)?;
    // By a shell in the namespace, whose /sys has the device.
    let script = format!("echo 1 > /sys/class/net/{device}/threaded");
    xlb_tests::command::run(namespace.command("sh").args(["-c", &script]))
        .context("no threaded NAPI (Linux 5.12 has it)")?;
    let mut new = kernel_threads(device)?;
    new.retain(|thread| !before.contains(thread));
    ensure!(
        new.len() == 1,
        "{} threads instead of one receive for {device} of {}",
        new.len(),
        namespace.name()
    );
    pin_task(new[0].cast_signed(), cpu)?;
    Ok(new[0])
}

/// Those that receive for devices of this name, in any namespace.
fn kernel_threads(device: &str) -> Result<Vec<u32>> {
    let prefix = format!("napi/{device}-");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended.
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        if comm.is_ok_and(|comm| comm.starts_with(&prefix)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Nanoseconds that all threads of these processes have run.
pub fn time(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.with_context(|| format!("process {pid} is gone"))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            sum += ran(&stat).with_context(|| format!("a schedstat that says {stat}"))?;
        }
    }
    Ok(sum)
}

/// Its first number: nanoseconds on a CPU.
fn ran(schedstat: &str) -> Option<u64> {
    schedstat.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::ran;

    #[test]
    fn what_the_kernel_says() {
        assert_eq!(ran("1234567 89 10\n"), Some(1_234_567));
        assert_eq!(ran("\n"), None);
    }
}
