//! The CPU that a test runs on.

use anyhow::Result;
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

/// Keeps the calling thread on the CPU that it is on, for what each CPU has of
/// its own.
///
/// # Errors
/// If the kernel refuses.
pub fn stay() -> Result<()> {
    let mut one = CpuSet::new();
    one.set(sched_getcpu()?)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    Ok(())
}
