//! An emulator and other kernels, unpacked below `.xlb/kernels`. Nothing of it
//! is installed: an emulator of another version may be, and must stay.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{packages, step};
use crate::command;

/// The emulator, and the programs of a guest.
const EMULATOR: [&str; 2] = ["qemu-system-x86", "busybox-static"];

/// Fetches the emulator unless it is there.
///
/// # Errors
/// If apt-get is missing, isn't allowed or fails.
pub fn emulator(workspace: &Path, folder: &Path) -> Result<()> {
    unpack(workspace, &folder.join("emulator"), &EMULATOR, true)
}

/// Fetches the newest of the kernel packages that `pattern` names, unless one
/// is there.
///
/// # Errors
/// As [`emulator`], and if there is no such package.
pub fn kernel(workspace: &Path, folder: &Path, name: &str, pattern: &str) -> Result<()> {
    let folder = folder.join(name);
    if folder.is_dir() {
        return Ok(());
    }
    let mut search = Command::new("apt-cache");
    let output = search.args(["search", "--names-only", pattern]).output();
    let output = output.context("can't start apt-cache")?;
    let list = String::from_utf8_lossy(&output.stdout);
    let newest = newest(&list)
        .with_context(|| format!("apt knows no Debian package of Linux {name}: {pattern}"))?;
    unpack(workspace, &folder, &[newest], false)
}

fn unpack(workspace: &Path, folder: &Path, packages: &[&str], dependencies: bool) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !packages::has_apt() {
        bail!("this machine has no apt-get to fetch these Debian packages with: {list}");
    }
    if !command::is_root() {
        bail!("to fetch these Debian packages needs root: {list}");
    }
    let shown = folder.strip_prefix(workspace).unwrap_or(folder).display();
    println!("setup: will unpack these Debian packages into {shown}, not install them: {list}");
    let mut script = Command::new("sh");
    script
        .arg(workspace.join("xtask/src/setup/unpack.sh"))
        .arg(folder);
    if dependencies {
        script.env("WITH_DEPENDENCIES", "1");
    }
    step::run(workspace, script.args(packages))
}

/// The package with the highest numbers in its name, of apt-cache's lines
/// `name - description`.
fn newest(list: &str) -> Option<&str> {
    let names = list.lines().filter_map(|line| line.split(' ').next());
    names.max_by_key(|name| {
        let numbers = name.split(|c: char| !c.is_ascii_digit());
        numbers
            .filter_map(|number| number.parse().ok())
            .collect::<Vec<u64>>()
    })
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_package() {
        let list = "linux-image-6.12.9+deb12-cloud-amd64 - Linux 6.12\n\
                    linux-image-6.12.117+deb12-cloud-amd64 - Linux 6.12\n\
                    linux-image-6.12.95+deb12-cloud-amd64 - Linux 6.12\n";
        assert_eq!(newest(list), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest(""), None);
    }
}
