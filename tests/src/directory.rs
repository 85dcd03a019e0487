//! A directory for a test: logs, files, and all that an agent leaves for the
//! next one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::netns;

const BPFFS: &str = "bpf";

/// A temporary directory with a BPF filesystem in it. What is pinned there goes
/// with it.
#[derive(Debug)]
pub struct Directory(TempDir);

impl Directory {
    /// # Errors
    /// If it can't be made, or nothing mounted there.
    pub fn create() -> Result<Self> {
        let directory = TempDir::with_prefix(netns::prefix()).context("no temporary directory")?;
        let point = bpffs(directory.path());
        std::fs::create_dir(&point)?;
        mount(
            Some("bpf"),
            &point,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .with_context(|| format!("no BPF filesystem at {}", point.display()))?;
        Ok(Self(directory))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        unmount(self.path());
    }
}

/// Where an agent whose directory this is has its BPF filesystem.
#[must_use]
pub fn bpffs(directory: &Path) -> PathBuf {
    directory.join(BPFFS)
}

/// Unmounts what is mounted in a directory of a test. Processes that still have
/// it in a mount namespace of their own keep it until they end.
pub fn unmount(directory: &Path) {
    // It may be unmounted already.
    let _ = umount2(&bpffs(directory), MntFlags::MNT_DETACH);
}
