//! What goes into a guest: a kernel and its modules as Debian packs them, and
//! programs of this machine with the libraries that they load.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// An unpacked kernel package.
#[derive(Debug)]
pub struct Image {
    pub kernel: PathBuf,
    modules: PathBuf,
}

impl Image {
    /// # Errors
    /// If the folder doesn't have a kernel and its modules.
    pub fn find(folder: &Path) -> Result<Self> {
        let kernel = entry(&folder.join("boot"), "vmlinuz-")?;
        // Newer packages have only usr/lib.
        let modules = ["lib/modules", "usr/lib/modules"].map(|modules| folder.join(modules));
        let modules = modules.iter().find(|modules| modules.is_dir());
        let modules = modules.with_context(|| format!("{} has no modules", folder.display()))?;
        Ok(Self {
            kernel,
            modules: entry(modules, "")?.join("kernel"),
        })
    }

    /// A module by its path without an ending: where it lies, and its contents.
    ///
    /// # Errors
    /// If it isn't there.
    pub fn module(&self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        for ending in ["ko", "ko.xz"] {
            let path = self.modules.join(format!("{name}.{ending}"));
            if path.exists() {
                let contents = read(&path)?;
                return Ok((path, contents));
            }
        }
        bail!("{} has no module {name}", self.modules.display())
    }
}

/// The shared libraries that a program loads.
///
/// # Errors
/// If `ldd` fails.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.context("can't start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(library).map(Into::into).collect())
}

/// The path in a line of ldd's: `libc.so.6 => /lib/libc.so.6 (0x7f…)` or
/// `/lib64/ld-linux.so.2 (0x7f…)`.
fn library(line: &str) -> Option<&str> {
    let path = line.trim().split(' ').find(|word| word.starts_with('/'));
    path.filter(|path| !path.is_empty())
}

/// # Errors
/// If it can't be read; the path is in the error.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

/// What in a folder has a name that begins so.
fn entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder);
    let mut entries = entries.with_context(|| format!("can't read {}", folder.display()))?;
    entries
        .find_map(|entry| {
            let entry = entry.ok()?;
            let found = entry.file_name().to_string_lossy().starts_with(prefix);
            found.then(|| entry.path())
        })
        .with_context(|| format!("{} has no {prefix}…", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::library;

    #[test]
    fn what_ldd_says() {
        let line = "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f9b7821e000)";
        assert_eq!(library(line), Some("/lib/x86_64-linux-gnu/libc.so.6"));
        let loader = "\t/lib64/ld-linux-x86-64.so.2 (0x00007f9b78d55000)";
        assert_eq!(library(loader), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f9b78d53000)"), None);
        assert_eq!(library("\tstatically linked"), None);
    }
}
