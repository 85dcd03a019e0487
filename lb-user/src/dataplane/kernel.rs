//! What the running kernel is, and what xlb goes without on an older one.

use std::fs;

use aya::programs::{SchedClassifier, TcAttachType};

use super::error::{LoadError, errno};

/// The oldest release that xlb is tested on.
const OLDEST: (u32, u32) = (6, 1);

/// What the running kernel can do beyond what xlb can't do without. Found by
/// asking it, not by its release: distributions add to old releases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub release: String,
    /// TCX, since Linux 6.6.
    pub tcx: bool,
    /// The kernel tells what a driver can do with XDP, since Linux 6.3.
    pub xdp_features: bool,
}

impl Kernel {
    /// Asks the kernel. `xdp_features`: whether it has told those of any
    /// interface.
    #[must_use]
    pub fn probe(xdp_features: bool) -> Self {
        // A kernel without TCX doesn't know the hook that is asked about.
        let unknown = SchedClassifier::query_tcx("lo", TcAttachType::Ingress)
            .is_err_and(|error| errno(&error) == Some(libc::EINVAL));
        Self {
            release: release(),
            tcx: !unknown,
            xdp_features,
        }
    }

    /// What xlb goes without here, in a sentence; `None` if nothing.
    #[must_use]
    pub fn lacks(&self) -> Option<String> {
        let mut lacks = Vec::new();
        if !self.tcx {
            lacks.push(
                "has no TCX (Linux 6.6), so the tc programs are attached by a clsact qdisc, \
                 which others can remove",
            );
        }
        if !self.xdp_features {
            lacks.push(
                "doesn't tell what drivers can do with XDP (Linux 6.3), so packets for another \
                 interface are handed to tc, which is slower than to redirect them",
            );
        }
        (!lacks.is_empty()).then(|| format!("Linux {} {}", self.release, lacks.join(", and ")))
    }
}

/// Fails on a kernel that is older than those that xlb is tested on. By its
/// release: that a program loads doesn't say that all of it works.
pub(super) fn require_supported() -> Result<(), LoadError> {
    let release = release();
    match version(&release) {
        Some(version) if version < OLDEST => Err(LoadError::TooOld { release }),
        // Nor is a release that can't be read a reason to refuse to run.
        _ => Ok(()),
    }
}

fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// The first two numbers of a release such as `6.1.0-56-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Kernel, OLDEST, version};

    #[test]
    fn releases() {
        assert_eq!(version("6.1.0-56-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("6.18.44"), Some((6, 18)));
        assert_eq!(version("6.12+deb"), Some((6, 12)));
        assert_eq!(version(""), None);
        assert_eq!(version("six.one"), None);
        assert!(version("5.15.0-generic") < Some(OLDEST));
        assert!(version("6.10.1") > Some(OLDEST));
    }

    #[test]
    fn only_what_is_lacking_is_said() {
        let kernel = |tcx, xdp_features| Kernel {
            release: "6.5.0".to_owned(),
            tcx,
            xdp_features,
        };
        assert_eq!(kernel(true, true).lacks(), None);
        let sentence = kernel(false, true).lacks().unwrap();
        assert!(sentence.starts_with("Linux 6.5.0 has no TCX"), "{sentence}");
        assert!(!sentence.contains("drivers"), "{sentence}");
        let sentence = kernel(false, false).lacks().unwrap();
        assert!(sentence.contains("clsact") && sentence.contains("drivers"));
    }
}
