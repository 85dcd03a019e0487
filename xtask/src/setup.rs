//! `cargo xtask setup`: finds or installs what building and testing needs.

mod bpf;
mod emulated;
mod packages;
mod step;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use bpf_build::Toolchain;

pub use emulated::{emulator, kernel};
use packages::Program;
pub use packages::{Purpose, install};
pub use step::run as step;

/// Reports what is there and what is missing, and changes nothing.
///
/// # Errors
/// If something is missing.
pub fn check(workspace: &Path, purpose: Purpose) -> Result<()> {
    let toolchain = Toolchain::find(workspace)?;
    let programs = packages::missing(purpose);
    match &toolchain {
        Some(toolchain) => report(toolchain),
        None => println!("missing: a toolchain for the BPF target"),
    }
    for Program { name, package } in &programs {
        println!("missing: {name} (Debian package {package})");
    }
    if toolchain.is_none() || !programs.is_empty() {
        let option = match purpose {
            Purpose::Tests => "",
            Purpose::Balancers => " --bench",
        };
        bail!("something is missing: `cargo xtask setup{option}` installs it");
    }
    println!("nothing is missing");
    Ok(())
}

/// Installs what is missing and records the toolchain for lb-user's build.
///
/// # Errors
/// If something can't be installed; what could be installed stays.
pub fn run(workspace: &Path, purpose: Purpose) -> Result<()> {
    let programs = packages::missing(purpose);
    if !programs.is_empty() {
        packages::install_programs(workspace, &programs)?;
    }
    let toolchain = match Toolchain::find(workspace)? {
        Some(toolchain) => toolchain,
        None => bpf::install(workspace)?,
    };
    report(&toolchain);
    record(workspace, &toolchain)
}

fn report(toolchain: &Toolchain) {
    println!(
        "setup: toolchain {}, linker {}",
        toolchain.name,
        toolchain.linker.display()
    );
}

/// Written only if it changes: lb-user's build script runs again when it does.
fn record(workspace: &Path, toolchain: &Toolchain) -> Result<()> {
    let path = Toolchain::record(workspace);
    let Toolchain {
        name,
        bootstrap,
        linker,
    } = toolchain;
    let text = format!(
        "# Written by `cargo xtask setup`; may be deleted.\n\
         toolchain = \"{name}\"\nbootstrap = {bootstrap}\nlinker = \"{}\"\n",
        linker.display()
    );
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(workspace);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("can't write {}", path.display()))
}
