//! `cargo xtask package`: a Debian package, and a tarball with a static binary.
//! What they bring beside the binary is made by the binary.

mod binary;
mod installed;

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use bpf_build::on_path;

use crate::{build, command, setup};

const CARGO_DEB: &str = "3.8.0";
/// Shells, and how they want their file to be named.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "xlb.bash"), ("zsh", "_xlb"), ("fish", "xlb.fish")];
const DOCUMENTS: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Makes both in `target/package`, and prints where they are. With `test`
/// installs the package in a Debian of its own and runs it there.
///
/// # Errors
/// If something can't be built or doesn't work there.
pub fn run(workspace: &Path, test: bool) -> Result<()> {
    let folder = workspace.join("target/package");
    // What is there may be of another version.
    if folder.exists() {
        fs::remove_dir_all(&folder).context("can't empty target/package")?;
    }
    fs::create_dir_all(&folder).context("can't make target/package")?;
    let xlb = build::release(workspace)?;
    accompany(&xlb, &folder)?;
    let package = debian(workspace, &folder)?;
    let tarball = tarball(workspace, &folder)?;
    if test {
        installed::test(workspace, &package)?;
        runs_alone(&folder)?;
    }
    println!("{}\n{}", package.display(), tarball.display());
    Ok(())
}

/// Runs the tarball's binary where there is nothing else.
fn runs_alone(folder: &Path) -> Result<()> {
    let nothing_else = folder.join(tarball_name()).join("bin");
    let mut chroot = Command::new("chroot");
    command::run(chroot.arg(nothing_else).args(["/xlb", "--version"]))
}

/// Has xlb write its manual pages and completions.
fn accompany(xlb: &Path, folder: &Path) -> Result<()> {
    let manual = folder.join("man");
    fs::create_dir(&manual)?;
    command::run(Command::new(xlb).arg("manual").arg(&manual))?;
    let completions = folder.join("completions");
    fs::create_dir(&completions)?;
    for (shell, name) in COMPLETIONS {
        let file = File::create(completions.join(name))?;
        command::run(Command::new(xlb).args(["completions", shell]).stdout(file))?;
    }
    Ok(())
}

fn debian(workspace: &Path, folder: &Path) -> Result<PathBuf> {
    let tools = workspace.join(".xlb/tools");
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [tools.join("bin")]
        .into_iter()
        .chain(env::split_paths(&path));
    let path = env::join_paths(folders.collect::<Vec<_>>())?;
    if on_path("cargo-deb").is_none() && !tools.join("bin/cargo-deb").exists() {
        let mut cargo = command::cargo(workspace);
        cargo.args([
            "install",
            "cargo-deb",
            "--version",
            CARGO_DEB,
            "--locked",
            "--root",
        ]);
        setup::step(workspace, cargo.arg(&tools))?;
    }
    let mut cargo = command::cargo(workspace);
    cargo.env("PATH", path);
    cargo.args([
        "deb",
        "--package",
        "lb-user",
        "--no-build",
        "--strip",
        "--output",
    ]);
    command::run(cargo.arg(folder))?;
    let mut files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = files.find(|path| path.extension().is_some_and(|it| it == "deb"));
    package.context("cargo-deb has made no package")
}

/// That of the folder in it.
fn tarball_name() -> String {
    format!("xlb-{}", env!("CARGO_PKG_VERSION"))
}

/// `xlb-VERSION-ARCHITECTURE-linux.tar.gz`, with one folder.
fn tarball(workspace: &Path, folder: &Path) -> Result<PathBuf> {
    let name = tarball_name();
    let root = folder.join(&name);
    fs::create_dir_all(root.join("bin"))?;
    fs::copy(binary::build(workspace)?, root.join("bin/xlb"))?;
    for document in DOCUMENTS {
        fs::copy(workspace.join(document), root.join(document))?;
    }
    for file in ["xlb.service", "xlb.toml"] {
        fs::copy(workspace.join("packaging").join(file), root.join(file))?;
    }
    for part in ["man", "completions"] {
        command::run(
            Command::new("cp")
                .arg("-r")
                .arg(folder.join(part))
                .arg(&root),
        )?;
    }
    let file = format!("{name}-{}-linux.tar.gz", env::consts::ARCH);
    let mut tar = Command::new("tar");
    tar.current_dir(folder);
    // Whoever builds it: the files are root's where it is unpacked by root.
    tar.args(["--owner=0", "--group=0", "-czf", &file, &name]);
    command::run(&mut tar)?;
    Ok(folder.join(file))
}
