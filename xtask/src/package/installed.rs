//! The package on a Debian that has nothing but what every Debian has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use bpf_build::on_path;

use crate::{command, setup};

/// Installs `package` in a folder with a fresh Debian and runs it there: by hand
/// in namespaces that end with it, then as the service of a systemd that boots.
///
/// # Errors
/// If we aren't root, or something doesn't work there.
pub fn test(workspace: &Path, package: &Path) -> Result<()> {
    if !command::is_root() {
        bail!("--test installs the package in a Debian of its own: run it as root");
    }
    let root = debian(workspace)?;
    let name = package.file_name().context("the package has no name")?;
    let inside = root.join(name);
    fs::copy(package, &inside).context("can't copy the package")?;
    let script = |name: &str| workspace.join("xtask/src/package").join(name);
    let mut by_hand = Command::new("unshare");
    by_hand.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh"]);
    by_hand.arg(script("installed.sh")).arg(&root).arg(name);
    let mut service = Command::new("sh");
    service.arg(script("service.sh")).arg(&root).arg(name);
    let tested = command::run(&mut by_hand).and_then(|()| command::run(&mut service));
    fs::remove_dir_all(&root).context("can't remove the Debian of the test")?;
    tested
}

/// A minimal one of this machine's release with systemd, from where this
/// machine's packages come.
fn debian(workspace: &Path) -> Result<PathBuf> {
    for (program, package) in [
        ("debootstrap", "debootstrap"),
        ("systemd-nspawn", "systemd-container"),
    ] {
        if on_path(program).is_none() {
            setup::install(workspace, &[package])?;
        }
    }
    let root = workspace.join("target/package/debian");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", "--include=systemd-sysv", &codename()?]);
    debootstrap.arg(&root).arg(mirror()?);
    setup::step(workspace, &mut debootstrap)?;
    Ok(root)
}

fn codename() -> Result<String> {
    let text =
        fs::read_to_string("/etc/os-release").context("can't tell this machine's release")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(line.context("this machine is no Debian")?.to_owned())
}

fn mirror() -> Result<String> {
    let mut apt = Command::new("apt-get");
    let release = format!("Codename: {}", codename()?);
    apt.args(["indextargets", "--format", "$(SITE)", &release]);
    let output = apt.output().context("can't start apt-get")?;
    let sites = String::from_utf8_lossy(&output.stdout);
    let site = sites.lines().next();
    Ok(site
        .context("apt-get has no source of packages: run `apt-get update`")?
        .to_owned())
}
