//! The capabilities that xlb needs (man 7 capabilities), and giving up the
//! others.

use std::fmt;

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

/// One that xlb needs, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    pub capability: Capability,
    /// As the end of "lacks it, …".
    pub purpose: &'static str,
    /// Whether xlb can't do without.
    pub required: bool,
}

/// All of them.
pub const NEEDED: [Needed; 4] = [
    Needed {
        capability: Capability::CAP_BPF,
        purpose: "to load programs and make maps",
        required: true,
    },
    Needed {
        capability: Capability::CAP_NET_ADMIN,
        purpose: "to attach programs to interfaces and add listeners' addresses",
        required: true,
    },
    Needed {
        capability: Capability::CAP_PERFMON,
        purpose: "to have the kernel accept how the programs use pointers",
        required: true,
    },
    Needed {
        capability: Capability::CAP_NET_RAW,
        purpose: "to tell clients that only wait when their target is lost",
        required: false,
    },
];

/// The kernel has refused to take capabilities away.
#[derive(Debug, thiserror::Error)]
#[error("could not give up the capabilities that xlb doesn't need")]
pub struct DropError(#[source] CapsError);

impl Needed {
    /// Whether the calling thread has it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        caps::has_cap(None, CapSet::Effective, self.capability).unwrap_or(false)
    }
}

/// All of their names, in a sentence.
#[must_use]
pub fn names() -> impl fmt::Display {
    NEEDED
        .map(|needed| needed.capability.to_string())
        .join(", ")
}

/// Leaves the calling thread, and whatever it starts from now on, with no
/// capability beyond [`NEEDED`]; it gains none that it hasn't. So call it before
/// there are other threads.
///
/// # Errors
/// If the kernel refuses; then nothing is known of what is left.
pub fn give_up_others() -> Result<(), DropError> {
    let needed: CapsHashSet = NEEDED.iter().map(|needed| needed.capability).collect();
    let result = (|| {
        // What isn't bounded could come back with an executable file. Without
        // CAP_SETPCAP the bound can't be changed; then it matters less, for
        // such a process was started with little already.
        if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
            let bound = caps::read(None, CapSet::Bounding)?;
            for &capability in bound.difference(&needed) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
        for set in [
            CapSet::Ambient,
            CapSet::Inheritable,
            CapSet::Effective,
            CapSet::Permitted,
        ] {
            let kept = &caps::read(None, set)? & &needed;
            caps::set(None, set, &kept)?;
        }
        Ok(())
    })();
    result.map_err(DropError)
}
