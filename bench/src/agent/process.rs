//! What the kernel tells of a process: time, memory, maps, programs.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};

/// Listeners at up to 16,371 ports, and connections to them.
const FILES: u64 = 18_000;

/// Makes room for many sockets, here and in processes that are started.
pub fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        hard >= FILES,
        "at most {hard} files may be open, {FILES} are needed: raise the hard limit (ulimit -Hn)"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        .context("the limit of open files can't be raised")
}

/// CLOCK_MONOTONIC.
pub fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// The calling thread's time on a CPU.
pub fn own_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Time on a CPU of all threads, in user space and in the kernel.
pub fn cpu_time(pid: u32) -> Result<(Duration, Duration)> {
    let stat = read(pid, "stat")?;
    // The command's name, in parentheses, may contain anything.
    let (_, fields) = stat.rsplit_once(')').context("no command in stat")?;
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")? as f64;
    let mut fields = fields.split_whitespace().skip(11);
    let mut time = || {
        let field: f64 = fields.next().context("too few fields in stat")?.parse()?;
        Ok::<_, anyhow::Error>(Duration::from_secs_f64(field / ticks))
    };
    Ok((time()?, time()?))
}

/// Resident memory in megabytes.
pub fn resident(pid: u32) -> Result<f64> {
    let rollup = read(pid, "smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = kilobytes.context("no Rss in smaps_rollup")?.parse()?;
    Ok(kilobytes * 1_024.0 / 1e6)
}

/// The memory of every map that a process has a descriptor of, in bytes, by the
/// map's id.
pub fn maps(pid: u32) -> Result<BTreeMap<u32, u64>> {
    let mut maps = BTreeMap::new();
    each_descriptor(pid, |info| {
        if let (Some(id), Some(memory)) = (field(info, "map_id:"), field(info, "memlock:")) {
            maps.insert(u32::try_from(id)?, memory);
        }
        Ok(())
    })?;
    Ok(maps)
}

/// The ids of the BPF programs that a process has descriptors of.
pub fn programs(pid: u32) -> Result<Vec<u32>> {
    let mut programs = Vec::new();
    each_descriptor(pid, |info| {
        if let Some(id) = field(info, "prog_id:") {
            programs.push(u32::try_from(id)?);
        }
        Ok(())
    })?;
    Ok(programs)
}

fn each_descriptor(pid: u32, mut see: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let folder = format!("/proc/{pid}/fdinfo");
    for entry in fs::read_dir(&folder).with_context(|| format!("can't read {folder}"))? {
        // A descriptor may be closed meanwhile.
        if let Ok(info) = fs::read_to_string(entry?.path()) {
            see(&info)?;
        }
    }
    Ok(())
}

fn field(info: &str, name: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("can't read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_of_itself() -> Result<()> {
        let pid = std::process::id();
        assert!(resident(pid)? > 0.1);
        let (user, system) = cpu_time(pid)?;
        assert!(user + system < Duration::from_secs(3_600));
        Ok(())
    }

    #[test]
    fn fields_of_a_descriptor() {
        let info = "pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t17\n";
        assert_eq!(field(info, "map_id:"), Some(17));
        assert_eq!(field(info, "memlock:"), Some(4_096));
        assert_eq!(field(info, "prog_id:"), None);
    }
}
