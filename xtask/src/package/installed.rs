//! The package on a Debian that has nothing but what every Debian has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use bpf_build::on_path;

use crate::{command, setup};

/// Installs `package` in a folder with a fresh Debian and runs it there, in
/// namespaces that end with it.
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
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--net", "--pid", "--fork", "--kill-child"]);
    let script = workspace.join("xtask/src/package/installed.sh");
    unshare.arg("sh").arg(script).arg(&root).arg(name);
    let tested = command::run(&mut unshare);
    fs::remove_dir_all(&root).context("can't remove the Debian of the test")?;
    tested
}

/// A minimal one of this machine's release, from where this machine's packages
/// come.
fn debian(workspace: &Path) -> Result<PathBuf> {
    if on_path("debootstrap").is_none() {
        setup::install(workspace, &["debootstrap"])?;
    }
    let root = workspace.join("target/package/debian");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", &codename()?]);
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
