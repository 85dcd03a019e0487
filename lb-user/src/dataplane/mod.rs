//! The kernel side as the agent sees it: load, attach, write maps, read
//! counters. Nothing else in the agent touches a map or a program.

mod attach;
mod bpffs;
mod capture;
mod error;
mod family;
mod figures;
mod flows;
mod kernel;
mod listing;
mod maps;
mod originals;
mod pins;
mod replica;
mod resize;
mod shape;
mod sweep;
mod syscall;

use std::collections::BTreeMap;

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{ProgramError, SchedClassifier, Xdp},
};
use lb_common::{
    capture::Capture,
    counters::{DropReason, Traffic},
    limits::MAX_SECURITY_PREFIXES,
};
use tracing::{debug, warn};

pub use attach::{AttachOptions, Attached, TcHook, XdpHook};
pub use bpffs::{is_bpffs, mount as mount_bpffs};
pub use capture::{Buffer, Captured, Captures, Capturing, CapturingModel, Lost};
pub use error::{AttachError, LoadError, MapError, PinError};
pub use figures::{Figures, figures};
pub use flows::{FlowTables, Flows};
pub use kernel::Kernel;
pub use listing::{Flow, FlowState, Listing};
pub use pins::Pins;
pub use replica::{Action, Arrival, Model, Outcome, Replica, ReplicaError};
pub use sweep::{FamilyFlows, Sweep, Swept};

use self::{originals::Originals, resize::Resize, shape::Resized};
use crate::{
    config::Capacity,
    reconcile::{Change, MapState},
};

/// The programs as the build script made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xlb-ebpf"));

/// What the names of the programs begin with.
pub const PROGRAM_PREFIX: &str = "xlb_";
const INGRESS: &str = "xlb_ingress";
const EGRESS: &str = "xlb_egress";
const HANDOFF: &str = "xlb_handoff";

/// Prefixes that a security map has room for: those of one configuration while
/// those of another still are there.
const SECURITY_ENTRIES: u32 = 2 * MAX_SECURITY_PREFIXES;

/// The loaded programs, their attachments and their maps. Dropping it detaches
/// everything, unless it is pinned.
pub struct Dataplane {
    ebpf: Ebpf,
    attachments: BTreeMap<u32, attach::Attachment>,
    maps: maps::Maps,
    pins: Option<Pins>,
    adopted: bool,
    resize: Option<Resize>,
    originals: Originals,
    /// What runs in the place of the programs of `ebpf`.
    capturing: Option<Capturing>,
}

impl Dataplane {
    /// Loads the programs with maps for `capacity`. Nothing is attached yet, and
    /// nothing outlives this value.
    ///
    /// # Errors
    /// If the kernel is too old, or refuses the maps (rights, memory) or the
    /// programs (the verifier's words are in the error).
    pub fn load(capacity: &Capacity) -> Result<Self, LoadError> {
        kernel::require_supported()?;
        Self::load_with(capacity, None, false, &[])
    }

    /// The same with maps that are pinned: those that are there are adopted, or
    /// what they hold is, if they are of another size.
    ///
    /// # Errors
    /// As [`load`](Self::load), and if the pinned maps are of another layout;
    /// nothing has changed then.
    pub fn load_pinned(capacity: &Capacity, pins: Pins) -> Result<Self, LoadError> {
        kernel::require_supported()?;
        let adopted = pins.has_maps()?;
        let resized = match adopted {
            true => shape::check(&pins, capacity)?,
            false => {
                pins.clear_unfinished()?;
                Vec::new()
            }
        };
        Self::load_with(capacity, Some(pins), adopted, &resized)
    }

    fn load_with(
        capacity: &Capacity,
        pins: Option<Pins>,
        adopted: bool,
        resized: &[Resized],
    ) -> Result<Self, LoadError> {
        let mut ebpf = Opening {
            pins: pins.as_ref(),
            resized,
            ..Opening::new(capacity)
        }
        .open()?;
        load(&mut ebpf)?;
        if let Some(pins) = &pins {
            pins.pin_maps(ebpf.maps().filter(|(name, _)| shape::is_kept(name)))?;
        }
        let resize = match &pins {
            Some(pins) if !resized.is_empty() => Some(Resize::begin(pins, resized, &ebpf)?),
            _ => None,
        };
        // Only now: the programs refer to the maps by file descriptors.
        let originals = Originals::of(&ebpf, capacity)?;
        let maps = maps::Maps::take(&mut ebpf)?;
        Ok(Self {
            ebpf,
            attachments: BTreeMap::new(),
            maps,
            pins,
            adopted,
            resize,
            originals,
            capturing: None,
        })
    }

    /// Ends what was begun for another capacity. To be called once the programs
    /// are attached everywhere.
    ///
    /// # Errors
    /// If a new map can't be pinned.
    pub fn finish_resize(&mut self) -> Result<(), LoadError> {
        let (Some(pins), Some(resize)) = (&self.pins, self.resize.take()) else {
            return Ok(());
        };
        let finished = resize.finish(pins);
        self.maps.go_on()?;
        finished
    }

    /// Whether its maps were there before.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// What the maps hold. Of Maglev tables only the size can be read, see
    /// [`UNKNOWN_SLOT`](crate::reconcile::UNKNOWN_SLOT).
    ///
    /// # Errors
    /// If a map can't be read.
    pub fn observe(&mut self) -> Result<MapState, MapError> {
        self.maps.observe()
    }

    /// Whether the instance's programs are attached to an interface already.
    #[must_use]
    pub fn holds(&self, index: u32) -> bool {
        self.pins.as_ref().is_some_and(|pins| pins.has_xdp(index))
    }

    /// Attaches all programs to an interface, or puts them in the place of those
    /// that the instance has there. For clsact it adds the qdisc, which the
    /// caller removes, if it wasn't there.
    ///
    /// # Errors
    /// If a hook is taken or the driver can't; what was attached to this
    /// interface by then is detached again, but for the qdisc and what was
    /// replaced.
    pub fn attach(&mut self, options: &AttachOptions<'_>) -> Result<Attached, AttachError> {
        if let Some(resize) = self.resize.as_ref().filter(|it| it.moves_flows()) {
            self.maps.pause().map_err(LoadError::from)?;
            if self.attachments.is_empty() {
                resize.catch_up();
            }
        }
        let mut attachment = attach::attach(&mut self.ebpf, self.pins.as_ref(), options)?;
        let attached = attachment.hooks();
        if let Some(capturing) = &mut self.capturing
            && let Err(error) = capturing.take_over(&mut attachment)
        {
            let error = error::chain(&error);
            warn!(
                interface = options.interface,
                error, "nothing is captured there"
            );
        }
        self.attachments.insert(options.index, attachment);
        Ok(attached)
    }

    /// Interfaces that aren't attached to any more, but that the instance has
    /// links on.
    ///
    /// # Errors
    /// If the pins can't be read.
    pub fn left_over(&self) -> Result<Vec<u32>, PinError> {
        let pinned = self.pins.as_ref().map_or(Ok(Vec::new()), Pins::interfaces);
        let mut others = pinned?;
        others.retain(|index| !self.attachments.contains_key(index));
        Ok(others)
    }

    /// Detaches from every interface but those that were attached to since the
    /// programs were loaded.
    ///
    /// # Errors
    /// If the kernel refuses to give up a hook.
    pub fn detach_left_over(&self) -> Result<(), PinError> {
        let kept: Vec<u32> = self.attachments.keys().copied().collect();
        let pins = self.pins.as_ref();
        pins.map_or(Ok(()), |pins| pins.detach_others(&kept))
    }

    /// Takes note that an interface is gone: the kernel has let go of what was
    /// attached to it.
    pub fn forget(&mut self, index: u32) {
        if let Some(attachment) = self.attachments.remove(&index)
            && let Err(error) = attachment.detach()
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
            let detached = attachment.detach();
            result = result.and(detached);
        }
        result
    }

    /// Lets go of the maps, and of whatever else is pinned.
    ///
    /// # Errors
    /// If a pin can't be removed; all others are.
    pub fn unpin(&self) -> Result<(), PinError> {
        self.pins.as_ref().map_or(Ok(()), Pins::remove)
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

    /// All flows, to be read on any thread.
    ///
    /// # Errors
    /// If what they depend on can't be read, or a flow map not be duplicated.
    pub fn listing(&self) -> Result<Listing, MapError> {
        self.maps.listing()
    }

    /// What a replica is made from, to run a packet without a trace.
    ///
    /// # Errors
    /// If what flows depend on can't be read, or a map not be duplicated.
    pub fn model(&self) -> Result<Model, MapError> {
        Model::new(self.originals.again()?, self.maps.listing()?)
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
        program(self.running(), INGRESS)
    }

    /// The loaded egress program, likewise.
    ///
    /// # Errors
    /// If the object lacks it.
    pub fn egress(&mut self) -> Result<&mut SchedClassifier, LoadError> {
        program(self.running(), EGRESS)
    }

    /// The loaded handoff program, likewise.
    ///
    /// # Errors
    /// If the object lacks it.
    pub fn handoff(&mut self) -> Result<&mut SchedClassifier, LoadError> {
        program(self.running(), HANDOFF)
    }
}

/// Filters of a clsact qdisc don't end with this process by themselves, nor does
/// a pause at once.
impl Drop for Dataplane {
    fn drop(&mut self) {
        // Not finished: what is at work now must do.
        if self.resize.is_some()
            && let Err(error) = self.maps.go_on()
        {
            warn!(%error, "no flow begins for some seconds");
        }
        if self.pins.is_none()
            && let Err(error) = self.detach()
        {
            debug!(error = error::chain(&error), "could not detach");
        }
    }
}

/// How the object is to be opened.
#[derive(Clone, Copy)]
struct Opening<'a> {
    capacity: &'a Capacity,
    log: VerifierLogLevel,
    /// The pinned maps are adopted, but for those that are resized.
    pins: Option<&'a Pins>,
    resized: &'a [Resized],
    capture: Option<&'a Capture>,
}

impl<'a> Opening<'a> {
    /// With maps of its own, and capturing nothing.
    fn new(capacity: &'a Capacity) -> Self {
        Self {
            capacity,
            log: VerifierLogLevel::default(),
            pins: None,
            resized: &[],
            capture: None,
        }
    }

    /// Makes the maps. The programs aren't loaded yet.
    fn open(self) -> Result<Ebpf, LoadError> {
        let is_adopted = |name: &str| !self.resized.iter().any(|it| it.name == name);
        let mut pinned = self.pins.map_or(Ok(Vec::new()), Pins::map_names)?;
        pinned.retain(|name| shape::is_kept(name) && is_adopted(name));
        let mut loader = EbpfLoader::new();
        for (name, size) in shape::sizes(self.capacity) {
            loader.map_max_entries(name, size);
        }
        if let Some(pins) = self.pins {
            for name in &pinned {
                loader.map_pin_path(name, pins.map(name));
            }
        }
        if let Some(capture) = self.capture {
            loader.override_global(lb_common::capture::CONSTANT, capture, true);
            loader.map_max_entries(capture::SCRATCH, capture::scratches()?);
        }
        loader
            .verifier_log_level(self.log)
            .load(OBJECT)
            .map_err(LoadError::from_object)
    }
}

/// Loads all programs of an object.
fn load(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let ingress: &mut Xdp = program(ebpf, INGRESS)?;
    patiently(|| ingress.load()).map_err(|error| LoadError::from_program(INGRESS, error))?;
    for name in [EGRESS, HANDOFF] {
        let classifier: &mut SchedClassifier = program(ebpf, name)?;
        patiently(|| classifier.load()).map_err(|error| LoadError::from_program(name, error))?;
    }
    Ok(())
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
