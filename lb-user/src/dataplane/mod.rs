//! The kernel side as the agent sees it: load, attach, write maps, read
//! counters. Nothing else in the agent touches a map or a program.

mod attach;
mod error;
mod family;
mod figures;
mod flows;
mod kernel;
mod maps;
mod sweep;
mod syscall;

use std::collections::BTreeMap;

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{ProgramError, SchedClassifier, Xdp},
};
use lb_common::{
    Ipv4, Ipv6,
    counters::{DropReason, Traffic},
    limits::{ENTRIES_PER_FLOW, MAX_SECURITY_PREFIXES},
};
use tracing::debug;

pub use attach::{Attached, TcHook, XdpHook};
pub use error::{AttachError, LoadError, MapError};
pub use figures::{Figures, figures};
pub use flows::{FlowTables, Flows};
pub use kernel::Kernel;
pub use sweep::{FamilyFlows, Sweep, Swept};

use self::family::Keyed as _;
use crate::{
    config::{Capacity, TcMode, XdpMode},
    reconcile::Change,
};

/// The programs as the build script made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xlb-ebpf"));

/// Names of the programs in the object.
/// What their names begin with.
pub const PROGRAM_PREFIX: &str = "xlb_";
const INGRESS: &str = "xlb_ingress";
const EGRESS: &str = "xlb_egress";
const HANDOFF: &str = "xlb_handoff";

/// Prefixes that a security map has room for: those of one configuration while
/// those of another still are there.
const SECURITY_ENTRIES: u32 = 2 * MAX_SECURITY_PREFIXES;

/// The loaded programs, their attachments and their maps. Dropping it detaches
/// everything.
pub struct Dataplane {
    ebpf: Ebpf,
    attachments: BTreeMap<u32, attach::Attachment>,
    maps: maps::Maps,
}

impl Dataplane {
    /// Loads the programs with maps for `capacity`. Nothing is attached yet.
    ///
    /// # Errors
    /// If the kernel is too old, or refuses the maps (rights, memory) or the
    /// programs (the verifier's words are in the error).
    pub fn load(capacity: &Capacity) -> Result<Self, LoadError> {
        kernel::require_supported()?;
        let mut ebpf = open(capacity, VerifierLogLevel::default())?;
        let ingress: &mut Xdp = program(&mut ebpf, INGRESS)?;
        patiently(|| ingress.load()).map_err(|error| LoadError::from_program(INGRESS, error))?;
        for name in [EGRESS, HANDOFF] {
            let classifier: &mut SchedClassifier = program(&mut ebpf, name)?;
            patiently(|| classifier.load())
                .map_err(|error| LoadError::from_program(name, error))?;
        }
        // Only now: the programs refer to the maps by file descriptors.
        let maps = maps::Maps::take(&mut ebpf)?;
        Ok(Self {
            ebpf,
            attachments: BTreeMap::new(),
            maps,
        })
    }

    /// Attaches all programs to an interface. For clsact it adds the qdisc,
    /// which the caller removes, if it wasn't there.
    ///
    /// # Errors
    /// If a hook is taken or the driver can't; what was attached to this
    /// interface by then is detached again, but for the qdisc.
    pub fn attach(
        &mut self,
        name: &str,
        index: u32,
        xdp: XdpMode,
        tc: TcMode,
    ) -> Result<Attached, AttachError> {
        let attachment = attach::attach(&mut self.ebpf, name, index, xdp, tc)?;
        let attached = attachment.hooks();
        self.attachments.insert(index, attachment);
        Ok(attached)
    }

    /// Takes note that an interface is gone: the kernel has let go of what was
    /// attached to it.
    pub fn forget(&mut self, index: u32) {
        if let Some(attachment) = self.attachments.remove(&index)
            && let Err(error) = attachment.detach(&mut self.ebpf)
        {
            debug!(
                index,
                error = error::chain(&error),
                "nothing to detach any more"
            );
        }
    }

    /// What is attached, by interface index.
    #[must_use]
    pub fn attached(&self) -> BTreeMap<u32, Attached> {
        self.attachments
            .iter()
            .map(|(&index, attachment)| (index, attachment.hooks()))
            .collect()
    }

    /// Detaches every program; the first failure is returned after all have
    /// been tried.
    ///
    /// # Errors
    /// If the kernel refuses to give up a hook.
    pub fn detach(&mut self) -> Result<(), AttachError> {
        let mut result = Ok(());
        for (_, attachment) in std::mem::take(&mut self.attachments) {
            let detached = attachment.detach(&mut self.ebpf);
            result = result.and(detached);
        }
        result
    }

    /// Applies one change of the maps' contents.
    ///
    /// # Errors
    /// If the kernel refuses the write, naming the map and what to do.
    pub fn apply(&mut self, change: &Change) -> Result<(), MapError> {
        self.maps.apply(change)
    }

    /// Applies changes that need no order among them (see
    /// [`runs`](crate::reconcile::runs)), in fewer calls than one by one.
    ///
    /// # Errors
    /// If the kernel refuses a write; some may have been made.
    pub fn apply_run(&mut self, run: &[Change]) -> Result<(), MapError> {
        self.maps.apply_run(run)
    }

    /// Traffic of a listener since the start, all CPUs together.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn listener_traffic(&self, id: u32) -> Result<Traffic, MapError> {
        self.maps.listener_traffic(id)
    }

    /// Traffic of a target since its id was handed out.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn target_traffic(&self, id: u32) -> Result<Traffic, MapError> {
        self.maps.target_traffic(id)
    }

    /// Packets by drop reason, all CPUs together.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>, MapError> {
        self.maps.drops()
    }

    /// Counts the flows and removes those that are over. Meant to be called
    /// every few seconds, off the agent's own task.
    ///
    /// # Errors
    /// If a flow map can't be duplicated for the sweep.
    pub fn sweep(&mut self) -> Result<Sweep, MapError> {
        self.maps.sweep()
    }

    /// Handles to the flow tables, to read them from any thread.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn flows(&self) -> Result<Flows, MapError> {
        self.maps.flows()
    }

    /// The loaded ingress program, to run it on a packet (`BPF_PROG_TEST_RUN`).
    ///
    /// # Errors
    /// If the object lacks it.
    pub fn ingress(&mut self) -> Result<&mut Xdp, LoadError> {
        program(&mut self.ebpf, INGRESS)
    }

    /// The loaded egress program, likewise.
    ///
    /// # Errors
    /// If the object lacks it.
    pub fn egress(&mut self) -> Result<&mut SchedClassifier, LoadError> {
        program(&mut self.ebpf, EGRESS)
    }

    /// The loaded handoff program, likewise.
    ///
    /// # Errors
    /// If the object lacks it.
    pub fn handoff(&mut self) -> Result<&mut SchedClassifier, LoadError> {
        program(&mut self.ebpf, HANDOFF)
    }
}

/// The object with maps for `capacity`. Its programs aren't loaded yet.
fn open(capacity: &Capacity, log: VerifierLogLevel) -> Result<Ebpf, LoadError> {
    let flow_entries = capacity.flows * ENTRIES_PER_FLOW;
    let half_open_entries = capacity.half_open_flows * ENTRIES_PER_FLOW;
    let mut loader = EbpfLoader::new();
    for names in [Ipv4::NAMES, Ipv6::NAMES] {
        loader
            .map_max_entries(names.established, flow_entries)
            .map_max_entries(names.half_open, half_open_entries)
            .map_max_entries(names.security, SECURITY_ENTRIES);
    }
    loader
        .map_max_entries("TARGETS", capacity.targets)
        .map_max_entries("TARGET_TRAFFIC", capacity.targets)
        .map_max_entries("LISTENER_TRAFFIC", capacity.listeners)
        .map_max_entries("LISTENER_LIMITS", capacity.listeners)
        .map_max_entries("TARGET_FLOWS", capacity.targets)
        .verifier_log_level(log)
        .load(OBJECT)
        .map_err(LoadError::from_object)
}

/// Loads a program again if the kernel was disturbed: the verifier gives up with
/// EAGAIN when the process has anything else to attend to (libbpf does the same).
fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const TRIES: u32 = 5;
    for _ in 1..TRIES {
        match load() {
            Err(error) if error::errno(&error) == Some(libc::EAGAIN) => {}
            loaded => return loaded,
        }
    }
    load()
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(LoadError::Incomplete { name })
}
