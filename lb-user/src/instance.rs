//! An instance of xlb: what its agent keeps and where, for as long as the
//! machine runs. Several can be at work on one host, each on interfaces of its
//! own.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

/// Where the folders of all instances are.
pub const DEFAULT_RUN_DIR: &str = "/run/xlb";
/// Where the BPF filesystem is mounted.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
pub const DEFAULT_NAME: &str = "default";

const LONGEST_NAME: usize = 64;
const POLL: Duration = Duration::from_millis(20);

/// An instance's name: letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {LONGEST_NAME} letters, digits, `-` and `_`")]
pub struct NameError;

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // A dot is what the BPF filesystem allows in no name.
        let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(is_fine) {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError),
        }
    }
}

/// Which instance, and where it is.
#[derive(Clone, Debug)]
pub struct Instance {
    pub name: Name,
    /// Has a folder for each instance.
    pub run_dir: PathBuf,
    /// The mount point of the BPF filesystem.
    pub bpffs: PathBuf,
    /// The agent's socket, if not in the instance's folder.
    pub socket: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "another xlb is at work as instance {name}{}: give this one another --instance and \
         interfaces of its own, or stop that one",
        .process.as_ref().map_or_else(String::new, |process| format!(" (process {process})"))
    )]
    Taken {
        name: String,
        process: Option<String>,
    },
    #[error("could not {action} {} ({source}): run xlb as root", .path.display())]
    Denied {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("could not {action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Instance {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name.0
    }

    /// Its folder: the lock, the socket and the state.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.run_dir.join(&self.name.0)
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        let socket = self.socket.clone();
        socket.unwrap_or_else(|| self.folder().join("xlb.sock"))
    }

    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder().join("state.json")
    }

    /// Makes its folder, and keeps everybody else from being this instance.
    ///
    /// # Errors
    /// If somebody else is, or the folder can't be made.
    pub fn claim(&self) -> Result<Claim, ClaimError> {
        let folder = self.folder();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let path = folder.join("lock");
        loop {
            // Who ends removes them: the folder may go just when it is found to
            // be there, and before there is a lock in it.
            match builder.create(&folder) {
                Err(error) if is_gone(&error, &folder) => continue,
                created => created.map_err(failed("create", &folder))?,
            }
            let mut options = File::options();
            options.read(true).write(true).create(true).mode(0o600);
            let mut file = match options.open(&path) {
                Err(error) if is_gone(&error, &folder) => continue,
                opened => opened.map_err(failed("open", &path))?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut process = String::new();
                    let read = file.read_to_string(&mut process);
                    let process = process.trim().to_owned();
                    return Err(ClaimError::Taken {
                        name: self.name.0.clone(),
                        process: (read.is_ok() && !process.is_empty()).then_some(process),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
            }
            // Who had it may have removed it in the meantime.
            if is_at(&file, &path) {
                // To be told to others; it is claimed without it, too.
                let _ = file.set_len(0);
                let _ = write!(file, "{}", std::process::id());
                return Ok(Claim {
                    folder,
                    _lock: file,
                });
            }
        }
    }

    /// The same once whoever is this instance has ended.
    ///
    /// # Errors
    /// As [`claim`](Self::claim), if that takes longer than `timeout`.
    pub fn claim_within(&self, timeout: Duration) -> Result<Claim, ClaimError> {
        let end = Instant::now() + timeout;
        loop {
            match self.claim() {
                Err(ClaimError::Taken { .. }) if Instant::now() < end => std::thread::sleep(POLL),
                claimed => return claimed,
            }
        }
    }
}

/// The right to be an instance. Dropping it gives it up.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    _lock: File,
}

impl Claim {
    /// Removes the instance's folder, unless somebody has put something there.
    pub fn remove(self) {
        // Whoever waits for the lock sees that it is gone.
        let _ = fs::remove_file(self.folder.join("lock"));
        let _ = fs::remove_dir(&self.folder);
        if let Some(parent) = self.folder.parent() {
            // Other instances' may be there.
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Whether a folder was there a moment ago and isn't any more, or is again.
fn is_gone(error: &io::Error, folder: &Path) -> bool {
    use io::ErrorKind::{AlreadyExists, NotFound};
    match (error.kind(), fs::symlink_metadata(folder)) {
        (AlreadyExists, Ok(found)) => found.is_dir(),
        (AlreadyExists | NotFound, Err(found)) => found.kind() == NotFound,
        _ => false,
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (own, there) = (file.metadata().map(id), fs::metadata(path).map(id));
    matches!((own, there), (Ok(own), Ok(there)) if own == there)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClaimError {
    move |source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClaimError::Denied {
                action,
                path,
                source,
            },
            _ => ClaimError::Io {
                action,
                path,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str) -> Instance {
        Instance {
            name: name.parse().unwrap(),
            run_dir: std::env::temp_dir().join(format!("xlb-instance-{}", std::process::id())),
            bpffs: PathBuf::new(),
            socket: None,
        }
    }

    #[test]
    fn names() {
        for good in ["default", "a", "edge-1", "A_b"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        let long = "a".repeat(65);
        for bad in ["", ".", "..", "a.b", "a/b", "a b", "ä", &long] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_at_a_time() {
        let (one, other) = (instance("one"), instance("other"));
        let claim = one.claim().unwrap();
        let taken = one.claim().unwrap_err();
        let process = std::process::id().to_string();
        assert!(taken.to_string().contains(&process), "{taken}");
        let second = other.claim().expect("another instance is free");
        second.remove();
        assert!(!other.folder().exists());

        drop(claim);
        let claim = one.claim().expect("the first has ended");
        claim.remove();
        assert!(!one.run_dir.exists(), "nothing is left");
    }

    #[test]
    fn a_lock_that_was_removed_is_none() {
        let instance = instance("removed");
        let first = instance.claim().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| instance.claim_within(Duration::from_secs(10)));
            std::thread::sleep(POLL * 3);
            first.remove();
            let claim = waiting.join().unwrap().unwrap();
            assert!(instance.claim().is_err(), "two have it");
            claim.remove();
        });
    }
}
