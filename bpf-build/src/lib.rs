//! Finds what builds the BPF object: a rustc that may use unstable features,
//! the source of its `core`, and a `bpf-linker`.
//!
//! Build scripts and `cargo xtask` both ask here, so that they can never
//! disagree. It must build on a machine that has nothing but stable cargo.

#[cfg(feature = "object")]
mod object;

#[cfg(feature = "object")]
pub use object::build;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

/// The only target that xlb builds for: the hosts it runs on are little-endian.
pub const TARGET: &str = "bpfel-unknown-none";

/// The name under which set-up makes Debian's rustc known to rustup.
pub const LINKED: &str = "xlb-bpf";

/// The first Rust release that the workspace builds with: 1.95.
const MINIMUM_MINOR: u32 = 95;

/// What builds the BPF object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// As in `rustup run <name>`.
    pub name: String,
    /// A stable compiler, which takes unstable options with `RUSTC_BOOTSTRAP=1`.
    pub bootstrap: bool,
    /// The `bpf-linker` for this compiler's LLVM.
    pub linker: PathBuf,
}

/// A compiler that rustup knows, with its library source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    pub name: String,
    pub release: String,
    pub llvm: u32,
}

impl Toolchain {
    /// The toolchain that set-up recorded, if it's still whole; else any that
    /// can be found.
    ///
    /// # Errors
    /// If rustup is missing or can't list its toolchains.
    pub fn find(workspace: &Path) -> Result<Option<Self>> {
        if let Some(recorded) = Self::recorded(workspace)
            && let Some(compiler) = Compiler::probe(&recorded.name)
            && Self::of(workspace, &compiler).as_ref() == Some(&recorded)
        {
            return Ok(Some(recorded));
        }
        let compilers = Compiler::all()?;
        let own = compilers
            .iter()
            .find_map(|compiler| Self::with_own_linker(workspace, compiler));
        // Which LLVM a linker on PATH reads can't be asked, so ours comes first.
        Ok(own.or_else(|| {
            compilers
                .iter()
                .find_map(|compiler| Self::of(workspace, compiler))
        }))
    }

    /// Sets the environment that a cargo build of the BPF object needs. Only
    /// a BPF build may have it, and rustup must run it: `rustup run <name>`.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        // An absolute path: rustup puts cargo's own folder first in PATH, and
        // a bpf-linker for another LLVM may be there.
        let mut environment = vec![
            (
                "CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER",
                self.linker.clone().into(),
            ),
            // aya-build sets the other flags, without a way to add to them, so
            // these come by the profile; the host's build scripts and macros
            // don't take them.
            ("CARGO_UNSTABLE_PROFILE_RUSTFLAGS", "true".into()),
            ("CARGO_PROFILE_RELEASE_RUSTFLAGS", CODE_GENERATION.into()),
            ("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_RUSTFLAGS", "".into()),
        ];
        if self.bootstrap {
            environment.push(("RUSTC_BOOTSTRAP", "1".into()));
        }
        environment
    }

    /// Where set-up records what it found.
    pub fn record(workspace: &Path) -> PathBuf {
        workspace.join(".xlb/toolchain.toml")
    }

    /// Where set-up installs the `bpf-linker` for an LLVM version. The version
    /// is in the path because a linker reads only its own LLVM's bitcode.
    pub fn tools(workspace: &Path, llvm: u32) -> PathBuf {
        workspace.join(format!(".xlb/tools/llvm-{llvm}"))
    }

    fn recorded(workspace: &Path) -> Option<Self> {
        let text = fs::read_to_string(Self::record(workspace)).ok()?;
        Some(Self {
            name: value(&text, "toolchain")?.to_owned(),
            bootstrap: value(&text, "bootstrap")? == "true",
            linker: value(&text, "linker")?.into(),
        })
    }

    fn of(workspace: &Path, compiler: &Compiler) -> Option<Self> {
        Self::with_own_linker(workspace, compiler)
            .or_else(|| Some(Self::new(compiler, on_path("bpf-linker")?)))
    }

    fn with_own_linker(workspace: &Path, compiler: &Compiler) -> Option<Self> {
        let linker = Self::tools(workspace, compiler.llvm).join("bin/bpf-linker");
        linker.is_file().then(|| Self::new(compiler, linker))
    }

    fn new(compiler: &Compiler, linker: PathBuf) -> Self {
        let bootstrap = !compiler.release.contains("-nightly");
        Self {
            name: compiler.name.clone(),
            bootstrap,
            linker,
        }
    }
}

/// `v3` has 32-bit registers and jumps (Linux 5.1).
///
/// Not `allows-misaligned-mem-access`, though it makes one load of a packet's
/// unaligned field: it also makes misaligned accesses to the stack, which the
/// verifier refuses on every architecture.
const CODE_GENERATION: &str = "-Ctarget-cpu=v3";

impl Compiler {
    /// Every compiler that can build for BPF, the preferred first.
    ///
    /// # Errors
    /// If rustup is missing or can't list its toolchains.
    pub fn all() -> Result<Vec<Self>> {
        let list = output(Command::new("rustup").args(["toolchain", "list", "--quiet"]))
            .context("rustup is needed; it comes from https://rustup.rs")?;
        let usable = |name: &&str| name.starts_with("nightly") || *name == LINKED;
        // A nightly sorts before LINKED, and the plain one before dated ones.
        let mut names: Vec<_> = list.lines().map(str::trim).filter(usable).collect();
        names.sort_by_key(|name| (*name == LINKED, name.starts_with("nightly-2")));
        Ok(names.into_iter().filter_map(Self::probe).collect())
    }

    /// `None` if rustup doesn't know it, it's too old or it has no library
    /// source.
    pub fn probe(name: &str) -> Option<Self> {
        let rustc = output(Command::new("rustup").args(["which", "--toolchain", name, "rustc"]));
        let rustc = PathBuf::from(rustc.ok()?.trim());
        let sysroot = rustc.parent()?.parent()?;
        if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            return None;
        }
        let version = output(Command::new(&rustc).arg("-vV")).ok()?;
        let (release, llvm) = parse_version(&version)?;
        if minor(&release)? < MINIMUM_MINOR {
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            release,
            llvm,
        })
    }
}

/// The release and the LLVM major version in what `rustc -vV` prints.
pub fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm))
}

fn minor(release: &str) -> Option<u32> {
    release.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

/// The value of a top-level `key = value` line, unquoted: all of TOML that
/// the record uses.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches('"'))
    })
}

/// The executable that a shell would start for `program`.
pub fn on_path(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(program.as_ref()))
        .find(|candidate| candidate.is_file())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::null()).output()?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{minor, parse_version, value};

    #[test]
    fn versions() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(text), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(parse_version("release: 1.96.0\n"), None);
        assert_eq!(
            parse_version("release: 1.96.0\nLLVM version: unknown\n"),
            None
        );
    }

    #[test]
    fn minor_versions() {
        assert_eq!(minor("1.96.0"), Some(96));
        assert_eq!(minor("1.100.0-nightly"), Some(100));
        assert_eq!(minor("nonsense"), None);
    }

    #[test]
    fn record_values() {
        let text = "# comment\ntoolchain = \"xlb-bpf\"\nbootstrap = true\n";
        assert_eq!(value(text, "toolchain"), Some("xlb-bpf"));
        assert_eq!(value(text, "bootstrap"), Some("true"));
        assert_eq!(value(text, "linker"), None);
    }
}
