//! Loading the programs once more, with some of the real maps.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use aya::{Ebpf, VerifierLogLevel, maps::Map, programs::Xdp};

use super::{Model, Originals, Rates, Replica, ReplicaError};
use crate::{
    config::Capacity,
    dataplane::{
        INGRESS,
        error::{LoadError, MapError},
        flows::{Flows, duplicate, handle},
        listing::Listing,
        maps::open,
        open as open_object, patiently, program, syscall,
    },
};

/// Maps that only the agent writes.
const SHARED: [&str; 15] = [
    "FILTER",
    "INTERFACES",
    "LISTENERS_V4",
    "LISTENERS_V6",
    "LISTENER_LIMITS",
    "LISTENER_RANGES_V4",
    "LISTENER_RANGES_V6",
    "MACS",
    "MAGLEV",
    "SECURITY_V4",
    "SECURITY_V6",
    "SETTINGS",
    "TARGETS",
    "VIPS_V4",
    "VIPS_V6",
];

/// Maps that the data path writes, too.
const OWN: [&str; 15] = [
    "DROPS",
    "ESTABLISHED_V4",
    "ESTABLISHED_V6",
    "FRAGMENTS_V4",
    "FRAGMENTS_V6",
    "HALF_OPEN_V4",
    "HALF_OPEN_V6",
    "ICMP_RATE",
    LISTENER_RATES,
    "LISTENER_TRAFFIC",
    "ROUTES",
    SOURCE_RATES,
    TARGET_FLOWS,
    "TARGET_TRAFFIC",
    "WORK",
];

const LISTENER_RATES: &str = "LISTENER_RATES";
const SOURCE_RATES: &str = "SOURCE_RATES";
const TARGET_FLOWS: &str = "TARGET_FLOWS";

/// Flows that a replica has room for: more than it ever copies.
const FLOWS: u32 = 4_096;

impl Originals {
    /// To be called while the maps are still the object's.
    pub(in crate::dataplane) fn of(ebpf: &Ebpf, capacity: &Capacity) -> Result<Self, MapError> {
        let shared = |name| Ok((name, duplicate(fd(ebpf, name)?, name)?));
        Ok(Self {
            shared: SHARED
                .into_iter()
                .map(shared)
                .collect::<Result<_, MapError>>()?,
            rates: Rates {
                listeners: duplicate(fd(ebpf, LISTENER_RATES)?, LISTENER_RATES)?,
                sources: duplicate(fd(ebpf, SOURCE_RATES)?, SOURCE_RATES)?,
                target_flows: duplicate(fd(ebpf, TARGET_FLOWS)?, TARGET_FLOWS)?,
            },
            capacity: *capacity,
        })
    }

    pub(in crate::dataplane) fn model(&self, listing: Listing) -> Result<Model, MapError> {
        let shared =
            |(name, fd): &(&'static str, OwnedFd)| Ok((*name, duplicate(fd.as_fd(), name)?));
        let originals = Self {
            shared: self
                .shared
                .iter()
                .map(shared)
                .collect::<Result<_, MapError>>()?,
            rates: Rates {
                listeners: duplicate(self.rates.listeners.as_fd(), LISTENER_RATES)?,
                sources: duplicate(self.rates.sources.as_fd(), SOURCE_RATES)?,
                target_flows: duplicate(self.rates.target_flows.as_fd(), TARGET_FLOWS)?,
            },
            capacity: self.capacity,
        };
        Ok(Model { originals, listing })
    }
}

impl Model {
    /// Loads the replica, which takes as long as to load the real one.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn replicate(self) -> Result<Replica, ReplicaError> {
        let capacity = Capacity {
            flows: FLOWS,
            half_open_flows: FLOWS,
            ..self.originals.capacity
        };
        let mut ebpf = open_object(&capacity, VerifierLogLevel::default(), None, |_| false)?;
        for (name, _) in ebpf.maps() {
            let is_constant = name.starts_with('.');
            if !is_constant && !SHARED.contains(&name) && !OWN.contains(&name) {
                return Err(MapError::Unclassified {
                    name: name.to_owned(),
                }
                .into());
            }
        }
        for (name, original) in &self.originals.shared {
            // The program finds its maps by these descriptors when it is loaded.
            syscall::replace(fd(&ebpf, name)?, original.as_fd())?;
        }
        let ingress: &mut Xdp = program(&mut ebpf, INGRESS)?;
        patiently(|| ingress.load()).map_err(|error| LoadError::from_program(INGRESS, error))?;
        Ok(Replica {
            flows: Flows::take(&mut ebpf)?,
            rates: Rates {
                listeners: handle(&mut ebpf, LISTENER_RATES)?,
                sources: handle(&mut ebpf, SOURCE_RATES)?,
                target_flows: handle(&mut ebpf, TARGET_FLOWS)?,
            },
            drops: open(&mut ebpf, "DROPS")?,
            listener_traffic: open(&mut ebpf, "LISTENER_TRAFFIC")?,
            ebpf,
            model: self,
        })
    }
}

/// The descriptor of one of the object's maps.
fn fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, MapError> {
    match ebpf.map(name) {
        Some(
            Map::Array(map)
            | Map::ArrayOfMaps(map)
            | Map::HashMap(map)
            | Map::LpmTrie(map)
            | Map::LruHashMap(map)
            | Map::PerCpuArray(map),
        ) => Ok(map.fd().as_fd()),
        _ => Err(MapError::Missing { name }),
    }
}
