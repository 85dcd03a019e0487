//! The BPF filesystem.

use std::{ffi::CString, fs, io, mem, os::unix::ffi::OsStrExt as _, path::Path};

use tracing::{info, warn};

use super::error::PinError;

/// Of linux/magic.h.
const BPF_FS_MAGIC: u32 = 0xCAFE_4A11;

/// Whether a BPF filesystem is mounted there.
#[must_use]
pub fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: a statfs of zeros is one; the call fills it.
    let mut found: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: `path` is a live string and `found` a live statfs.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut found) };
    result == 0 && u32::try_from(found.f_type) == Ok(BPF_FS_MAGIC)
}

/// Mounts a BPF filesystem at `path` unless one is there.
///
/// # Errors
/// If that can't be done.
pub fn mount(path: &Path) -> Result<(), PinError> {
    if is_bpffs(path) {
        return Ok(());
    }
    let not_mounted = |source| PinError::NotMounted {
        path: path.to_owned(),
        source,
    };
    if !path.exists() {
        fs::create_dir_all(path).map_err(not_mounted)?;
    }
    let target =
        CString::new(path.as_os_str().as_bytes()).map_err(|error| not_mounted(error.into()))?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all strings are live; the kernel keeps no pointer.
    let result = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            flags,
            c"mode=0700".as_ptr().cast(),
        )
    };
    if result != 0 {
        return Err(not_mounted(io::Error::last_os_error()));
    }
    info!(path = %path.display(), "mounted the BPF filesystem, which wasn't");
    if has_own_mounts() {
        warn!(
            path = %path.display(),
            "this process has mounts of its own (as under `ip netns exec`), so the BPF filesystem \
             goes with it, and a restart will interrupt traffic: mount one before, and name it \
             with --bpffs"
        );
    }
    Ok(())
}

/// Whether mounts made here are seen by this process and its children only.
fn has_own_mounts() -> bool {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    matches!((of("self"), of("1")), (Some(own), Some(first)) if own != first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A real one is in the network tests: of doctor, and of the agent without.
    #[test]
    fn others_are_none() {
        for path in ["/", "/proc", "/sys", "/nowhere", "/a\0b"] {
            assert!(!is_bpffs(Path::new(path)), "{path}");
        }
    }
}
