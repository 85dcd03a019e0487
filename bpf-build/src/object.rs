//! The work of a build script: a package for the BPF target → its object in
//! `OUT_DIR`.

use std::{env, fs, os::unix, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::Toolchain;

/// Builds the binaries of `package`, which lies in `folder` of the workspace.
/// Says on standard error what is wrong, if it can't.
#[must_use]
pub fn build(package: &str, folder: &str) -> ExitCode {
    match run(package, folder) {
        Ok(()) => ExitCode::SUCCESS,
        // Not by returning it: that would add a backtrace to a plain sentence.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(package: &str, folder: &str) -> Result<()> {
    // This crate's own folder: the workspace is the one above.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("bpf-build lies in a workspace")?;
    rerun_if_changed(workspace);
    share_target_folder(package)?;

    let toolchain = Toolchain::find(workspace)?
        .context("no toolchain for the BPF target was found: run `cargo xtask setup` once")?;
    for (name, value) in toolchain.environment() {
        // SAFETY: a build script has one thread until aya-build starts its own.
        unsafe { env::set_var(name, value) };
    }
    // Without it each line of cargo's progress would show up as a warning.
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };

    let root_dir = workspace.join(folder);
    let package = aya_build::Package {
        name: package,
        root_dir: root_dir
            .to_str()
            .context("the workspace's path isn't UTF-8")?,
        ..Default::default()
    };
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(&toolchain.name))
}

/// Lets every profile's build of the object use one folder, `target/bpf`:
/// `core` takes most of a minute to compile, and build, test and clippy each
/// have an `OUT_DIR` of their own.
fn share_target_folder(package: &str) -> Result<()> {
    let out = env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?;
    // <target>/<profile>/build/<package>/out
    let target = Path::new(&out)
        .ancestors()
        .nth(4)
        .context("OUT_DIR lies in a target folder")?;
    let (shared, own) = (target.join("bpf"), Path::new(&out).join("aya-build/target"));
    for folder in [&shared, &own] {
        fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    }
    let link = own.join(package);
    if fs::symlink_metadata(&link).is_err() {
        unix::fs::symlink(&shared, &link)
            .with_context(|| format!("can't create {}", link.display()))?;
    }
    Ok(())
}

/// aya-build names the package itself; these are the object's other ingredients.
fn rerun_if_changed(workspace: &Path) {
    let record = Toolchain::record(workspace);
    let sources = ["Cargo.toml", "Cargo.lock", "lb-common", "bpf-build"];
    let sources = sources.map(|source| workspace.join(source));
    // To name a file that doesn't exist means to run every time.
    for path in sources.iter().chain([&record]).filter(|path| path.exists()) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}
