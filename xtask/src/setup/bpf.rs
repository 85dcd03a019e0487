//! Installs a compiler and a linker for the BPF target.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use bpf_build::{Compiler, LINKED, Toolchain, on_path};

use super::{packages, step};
use crate::command;

const LINKER_VERSION: &str = "0.13.0";
/// LLVM versions that this `bpf-linker` has a cargo feature for.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// rustup retries for long when its server can't be reached.
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);
/// Debian's newer Rust, which comes with the browser; with its library source.
const DEBIAN_RUST: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];

/// Installs what is missing: a nightly if its linker can be had, else
/// Debian's Rust, for which we build the linker ourselves.
///
/// # Errors
/// If neither way works.
pub fn install(workspace: &Path) -> Result<Toolchain> {
    println!("setup: no toolchain for the BPF target is here");
    // A nightly is of little use alone: its LLVM is mostly newer than any
    // that the distribution has for building a linker.
    if on_path("bpf-linker").is_some()
        || on_path("cargo-binstall").is_some()
        || !packages::has_apt()
    {
        if let Err(error) = nightly(workspace) {
            println!("setup: going on without a nightly: {error:#}");
        }
        if let Some(toolchain) = Toolchain::find(workspace)? {
            return Ok(toolchain);
        }
    }
    if !packages::has_apt() {
        bail!(
            "install bpf-linker (https://github.com/aya-rs/bpf-linker#installation) \
             and `rustup toolchain install nightly --component rust-src`, then run this again"
        );
    }
    let compiler = debian(workspace)?;
    build_linker(workspace, compiler.llvm)?;
    Toolchain::find(workspace)?.context("set-up has installed a toolchain but can't find it")
}

fn nightly(workspace: &Path) -> Result<()> {
    let has_nightly = Command::new("rustup")
        .args(["which", "--toolchain", "nightly", "rustc"])
        .output();
    let mut rustup = Command::new("rustup");
    if has_nightly.is_ok_and(|output| output.status.success()) {
        // Not `install`: that would move the user's nightly to a newer one.
        rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    } else {
        rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        rustup.args(["--component", "rust-src", "--no-self-update"]);
    }
    step::run_within(workspace, &mut rustup, RUSTUP_LIMIT)?;
    if on_path("bpf-linker").is_some() || on_path("cargo-binstall").is_none() {
        return Ok(());
    }
    let compiler = Compiler::probe("nightly").context("the nightly has no library source")?;
    let mut binstall = command::cargo(workspace);
    binstall.args(["binstall", "bpf-linker", "--no-confirm", "--root"]);
    step::run(
        workspace,
        binstall.arg(Toolchain::tools(workspace, compiler.llvm)),
    )
}

fn debian(workspace: &Path) -> Result<Compiler> {
    if let Some(compiler) = Compiler::probe(LINKED) {
        return Ok(compiler);
    }
    packages::install(workspace, &DEBIAN_RUST)?;
    let mut rustup = Command::new("rustup");
    step::run(
        workspace,
        rustup.args(["toolchain", "link", LINKED, "/usr"]),
    )?;
    Compiler::probe(LINKED).context("Debian's Rust (rustc-web) is too old for this project")
}

/// A linker reads only its own LLVM's bitcode, so it's built with the LLVM of
/// Debian's rustc.
fn build_linker(workspace: &Path, llvm: u32) -> Result<()> {
    if !LINKER_LLVM.contains(&llvm) {
        bail!("bpf-linker {LINKER_VERSION} knows no LLVM {llvm}: this project needs a newer one");
    }
    let development = format!("llvm-{llvm}-dev");
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("include/llvm-c").exists() || on_path("g++").is_none() {
        packages::install(workspace, &[&development, "g++"])?;
    }
    let mut cargo = command::cargo(workspace);
    cargo
        .env("LLVM_PREFIX", &prefix)
        .env_remove("CARGO_TARGET_DIR");
    cargo.args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
    ]);
    cargo.args([
        "--no-default-features",
        "--features",
        &format!("llvm-{llvm}"),
        "--root",
    ]);
    step::run(workspace, cargo.arg(Toolchain::tools(workspace, llvm)))
}
