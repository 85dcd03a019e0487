//! Network namespaces of this run, named `xlb-<pid>-<n>-<role>`.

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    command::{run, run_words},
    directory,
};

/// A namespace, deleted with everything in it when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    name: String,
}

/// Numbers one rig's namespaces, so that several rigs fit into one process.
#[derive(Clone, Copy, Debug)]
pub struct Series(u32);

impl Series {
    /// A number that no other rig of this process has.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for Series {
    fn default() -> Self {
        Self::new()
    }
}

impl Namespace {
    /// Creates a namespace with its loopback up.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn create(series: Series, role: &str) -> Result<Self> {
        let name = format!("{}{}-{role}", prefix(), series.0);
        run_words(&["ip", "netns", "add", &name])?;
        let namespace = Self(Arc::new(Owned { name }));
        namespace.ip("link set lo up")?;
        // Link-local addresses are there at once, instead of after a second.
        if Path::new("/proc/sys/net/ipv6").exists() {
            namespace.sysctl("ipv6/conf/default/accept_dad", "0")?;
        }
        Ok(namespace)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A command that will run in the namespace. It has the process id that
    /// the spawn returns: `ip netns exec` replaces itself.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name()]).arg(program);
        command
    }

    /// Runs a command given as words separated by spaces, to its end.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&self, words: &str) -> Result<String> {
        let mut words = words.split_whitespace();
        let program = words.next().context("no command given")?;
        run(self.command(program).args(words))
    }

    /// Runs `ip` with these words on the namespace.
    ///
    /// # Errors
    /// As [`run`].
    pub fn ip(&self, words: &str) -> Result<String> {
        run(Command::new("ip")
            .args(["-n", self.name()])
            .args(words.split_whitespace()))
    }

    /// Its network devices but the loopback.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn devices(&self) -> Result<Vec<String>> {
        // A line begins as "2: eth0@if3: <BROADCAST".
        let name = |line: &str| {
            let name = line.split_whitespace().nth(1)?;
            Some(name.split(['@', ':']).next()?.to_owned())
        };
        let links = self.ip("-o link show")?;
        let mut devices: Vec<String> = links.lines().filter_map(name).collect();
        devices.retain(|device| device != "lo");
        Ok(devices)
    }

    /// The processes in it.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn processes(&self) -> Result<Vec<u32>> {
        processes(self.name())
    }

    /// A device's link-layer address.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn mac(&self, device: &str) -> Result<[u8; 6]> {
        let link = self.ip(&format!("-o link show dev {device}"))?;
        mac_after(&link, "link/ether")
    }

    /// Calls a function on a thread of its own that is in the namespace, so
    /// that the sockets that it opens are there. Don't spawn processes in it:
    /// they end with the thread ([`crate::process`]).
    ///
    /// # Errors
    /// If the namespace can't be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.join()?;
                    Ok(work())
                })
                .join()
                .map_err(|_| anyhow!("a thread in {} panicked", self.name()))?
        })
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Errors
    /// If it can't be entered.
    pub fn join(&self) -> Result<()> {
        let path = Path::new("/run/netns").join(self.name());
        let file = File::open(&path).with_context(|| format!("{} is gone", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("namespace {} can't be entered", self.name()))
    }

    /// Writes a setting below `/proc/sys/net`.
    ///
    /// # Errors
    /// If there is no such setting, or it doesn't take the value.
    pub fn sysctl(&self, setting: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(setting);
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("{} can't be written in {}", path.display(), self.name()))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            eprintln!("left behind: namespace {}: {error:#}", self.name);
        }
    }
}

/// The link-layer address that `ip` prints behind a word.
///
/// # Errors
/// If there is none.
pub fn mac_after(text: &str, word: &str) -> Result<[u8; 6]> {
    let mut words = text.split_whitespace().skip_while(|other| *other != word);
    let mac = words.nth(1).with_context(|| format!("no {word}: {text}"))?;
    let mut bytes = [0; 6];
    for (byte, hex) in bytes.iter_mut().zip(mac.split(':')) {
        *byte = u8::from_str_radix(hex, 16)?;
    }
    Ok(bytes)
}

/// Namespaces that exist and were made by process `pid`.
///
/// # Errors
/// If `ip` fails.
pub fn of_process(pid: u32) -> Result<Vec<String>> {
    Ok(all()?
        .into_iter()
        .filter(|name| owner(name) == Some(pid))
        .collect())
}

/// What names of this process's namespaces and temporary directories begin
/// with.
#[must_use]
pub fn prefix() -> String {
    format!("xlb-{}-", std::process::id())
}

/// Deletes what runs that were killed have left: namespaces whose maker is
/// dead, with the processes in them, and temporary directories.
///
/// # Errors
/// If `ip` fails, or the directory of temporary files can't be read.
pub fn sweep() -> Result<()> {
    let orphan = |name: &str| {
        owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    for name in all()?.iter().filter(|name| orphan(name)) {
        // Another run may be sweeping too.
        delete(name).or_else(|error| if exists(name) { Err(error) } else { Ok(()) })?;
    }
    for entry in fs::read_dir(env::temp_dir())? {
        let entry = entry?;
        if orphan(&entry.file_name().to_string_lossy()) {
            directory::unmount(&entry.path());
            // As above; and what can't be deleted harms nobody.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

fn all() -> Result<Vec<String>> {
    // A line is "name" or "name (id: 3)".
    Ok(run_words(&["ip", "netns", "list"])?
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect())
}

/// The process that made a namespace or a directory, if its name is one of
/// ours.
fn owner(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix("xlb-")?.split('-');
    let pid = parts.next()?.parse().ok()?;
    parts.next().map(|_rest| pid)
}

/// Deletes a namespace and what still runs in it. Whatever does was started by
/// the run that made the namespace.
fn delete(name: &str) -> Result<()> {
    for pid in processes(name)? {
        // It may be gone by now: then there is nothing to do.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    run_words(&["ip", "netns", "del", name]).map(drop)
}

fn processes(name: &str) -> Result<Vec<u32>> {
    let pids = run_words(&["ip", "netns", "pids", name])?;
    let pids = pids.lines().filter_map(|pid| pid.trim().parse().ok());
    Ok(pids.collect())
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_our_names_have_an_owner() {
        assert_eq!(owner("xlb-17-0-client"), Some(17));
        for other in ["xlb", "xlb-17", "xlb-a-0-client", "web-17-0-client"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
