//! What can go wrong between the agent and the kernel, in the words that the
//! operator gets to read.

use std::{error::Error, io, path::PathBuf};

use aya::{EbpfError, maps::perf::PerfBufferError, programs::ProgramError};

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "the kernel doesn't let this process use BPF: run xlb as root, or with the \
         capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    NotPermitted,
    #[error("this kernel has no BPF (CONFIG_BPF_SYSCALL): xlb needs Linux 6.1 or later with it")]
    NoBpf,
    #[error("xlb needs Linux 6.1 or later, and this is {release}")]
    TooOld { release: String },
    #[error("there is not enough memory for the maps: lower `flows` under [capacity]")]
    OutOfMemory,
    #[error("the kernel's verifier refused the program {name}:\n{log}")]
    Verifier { name: &'static str, log: String },
    #[error("the kernel refused the program {name}")]
    Program {
        name: &'static str,
        #[source]
        source: ProgramError,
    },
    #[error("the kernel refused a map or the program file")]
    Object(#[source] EbpfError),
    #[error("the BPF object has no {name}: this build of xlb is broken")]
    Incomplete { name: &'static str },
    #[error("the verifier's statistics of {name} aren't in the form that is known: {log}")]
    Statistics { name: &'static str, log: String },
    #[error("could not find out which CPUs there are")]
    Cpus(#[source] io::Error),
    #[error("the kernel gives no buffer for what CPU {cpu} captures")]
    Buffer {
        cpu: u32,
        #[source]
        source: PerfBufferError,
    },
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl LoadError {
    pub(super) fn from_object(error: EbpfError) -> Self {
        Self::from_errno(&error).unwrap_or(Self::Object(error))
    }

    pub(super) fn from_program(name: &'static str, error: ProgramError) -> Self {
        if let Some(error) = Self::from_errno(&error) {
            return error;
        }
        match error {
            ProgramError::LoadError { verifier_log, .. } => Self::Verifier {
                name,
                log: verifier_log.to_string(),
            },
            source => Self::Program { name, source },
        }
    }

    fn from_errno(error: &(dyn Error + 'static)) -> Option<Self> {
        match errno(error)? {
            libc::EPERM => Some(Self::NotPermitted),
            libc::ENOSYS => Some(Self::NoBpf),
            libc::ENOMEM => Some(Self::OutOfMemory),
            _ => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(
        "another XDP program is attached to {interface}: is another xlb running there? \
         `ip link show {interface}` shows it, `ip link set {interface} xdp off` removes a stale one"
    )]
    XdpTaken { interface: String },
    #[error(
        "the driver of {interface} has no native XDP for its present settings ({reason}): \
         use `xdp_mode = \"auto\"` or \"generic\""
    )]
    NoNativeXdp { interface: String, reason: String },
    #[error("{interface} takes no XDP program: {reason}")]
    NoXdp { interface: String, reason: String },
    #[error(
        "{interface} takes no tc program with TCX, which needs Linux 6.6: {reason}; \
         use `tc_mode = \"auto\"` or \"clsact\""
    )]
    NoTcx { interface: String, reason: String },
    #[error("{interface} takes no tc program: {reason}")]
    NoTc { interface: String, reason: String },
    #[error(
        "the program on {interface} could not be replaced ({reason}): `xlb unload` removes it, \
         which ends all flows"
    )]
    Swap { interface: String, reason: String },
    #[error("a program could not be detached from {interface}: {reason}")]
    Detach { interface: String, reason: String },
    #[error(transparent)]
    Program(#[from] LoadError),
    #[error(transparent)]
    Pin(#[from] PinError),
}

#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("the BPF object has no map {name}: this build of xlb is broken")]
    Missing { name: &'static str },
    #[error("the BPF object has a map {name} that nobody knows: this build of xlb is broken")]
    Unclassified { name: String },
    #[error("the map {name} can't be shared")]
    Share {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("the map {name} is full: raise {setting} and restart xlb")]
    Full {
        name: &'static str,
        setting: &'static str,
    },
    #[error("could not {action} the map {name}")]
    Access {
        action: &'static str,
        name: &'static str,
        #[source]
        source: aya::maps::MapError,
    },
    #[error("could not {action} the map {name}")]
    System {
        action: &'static str,
        name: &'static str,
        #[source]
        source: io::Error,
    },
}

/// What is wrong with what is pinned, or where it should be.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error(
        "no BPF filesystem is mounted at {}, where xlb keeps what outlives it, and none can be \
         mounted ({source}): run xlb as root, or `mount -t bpf bpf {}` before, or name another \
         with --bpffs",
        .path.display(), .path.display()
    )]
    NotMounted {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "another version of xlb is at work in the kernel: the maps in {} have layout {found}, and \
         this version's is {expected}. `xlb run --replace` removes them and starts anew, which \
         ends all flows",
        .folder.display()
    )]
    Layout {
        folder: PathBuf,
        found: u64,
        expected: u64,
    },
    #[error(
        "the maps in {} don't fit: {name} has {found}, and should have {expected}. `xlb run \
         --replace` removes them and starts anew, which ends all flows",
        .folder.display()
    )]
    Shape {
        folder: PathBuf,
        name: String,
        found: String,
        expected: String,
    },
    #[error(
        "what is pinned in {} is attached to interfaces of another network namespace: give this \
         agent another --instance",
        .folder.display()
    )]
    OtherNetwork { folder: PathBuf },
    #[error("could not {action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not read the map that is pinned at {}", .path.display())]
    Map {
        path: PathBuf,
        #[source]
        source: aya::maps::MapError,
    },
}

/// The innermost errno of an error's chain of causes.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    let mut found = None;
    while let Some(error) = next {
        if let Some(errno) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            found = Some(errno);
        }
        next = error.source();
    }
    found
}

/// An error and its causes on one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
