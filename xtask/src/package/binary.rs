//! A binary that needs no library of the machine it runs on.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use bpf_build::on_path;

use crate::{build, command};

/// Builds it for release, by musl if its Rust library and its compiler for C are
/// here, else with the parts of glibc that it needs inside.
///
/// # Errors
/// If it doesn't build, or is not static.
pub fn build(workspace: &Path) -> Result<PathBuf> {
    let musl = format!("{}-unknown-linux-musl", env::consts::ARCH);
    let gnu = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut cargo = command::cargo(workspace);
    cargo.args(["build", "--release", "--package", "lb-user", "--bin", "xlb"]);
    cargo.args(["--config", "profile.release.strip=\"debuginfo\""]);
    if on_path("musl-gcc").is_some() && has_library(workspace, &musl) {
        cargo.args(["--target", &musl]);
    } else {
        // Of the target alone: build scripts and the kernel programs have theirs.
        let flags = gnu.replace('-', "_").to_uppercase();
        let flags = format!("CARGO_TARGET_{flags}_RUSTFLAGS");
        cargo.env(flags, "-C target-feature=+crt-static");
        cargo.args(["--target", &gnu]);
    }
    let built = build::executables(&mut cargo)?;
    let xlb = built.into_iter().find(|(name, _)| name == "xlb");
    let (_, path) = xlb.context("cargo didn't say where it put xlb")?;
    ensure!(is_static(&path)?, "{} is not static", path.display());
    Ok(path)
}

/// Whether Rust's library for a target is installed.
fn has_library(workspace: &Path, target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(workspace);
    rustc.args(["--print", "target-libdir", "--target", target]);
    let output = rustc.output().ok().filter(|output| output.status.success());
    output.is_some_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).exists())
}

fn is_static(binary: &Path) -> Result<bool> {
    let output = Command::new("ldd").arg(binary).output();
    let output = output.context("can't start ldd")?;
    // Of one that isn't even position-independent it says so on the other.
    let said = [output.stdout, output.stderr].concat();
    Ok(says_static(&String::from_utf8_lossy(&said)))
}

fn says_static(ldd: &str) -> bool {
    ldd.contains("statically linked") || ldd.contains("not a dynamic executable")
}

#[cfg(test)]
mod tests {
    use super::says_static;

    #[test]
    fn what_ldd_says() {
        assert!(says_static("\tstatically linked\n"));
        assert!(says_static("\tnot a dynamic executable\n"));
        assert!(!says_static(
            "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n"
        ));
    }
}
