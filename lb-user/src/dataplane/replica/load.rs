//! Loading the programs once more, with some of the real maps.

use aya::programs::Xdp;

use super::{Model, Rates, Replica, ReplicaError};
use crate::{
    config::Capacity,
    dataplane::{
        INGRESS, Opening,
        error::{LoadError, MapError},
        flows::{Flows, duplicate, handle},
        listing::Listing,
        maps::open,
        originals::{LISTENER_RATES, Originals, SOURCE_RATES, TARGET_FLOWS},
        patiently, program,
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
const OWN: [&str; 17] = [
    "CAPTURE",
    "CAPTURED",
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

/// Flows that a replica has room for: more than it ever copies.
const FLOWS: u32 = 4_096;

impl Model {
    pub(in crate::dataplane) fn new(
        originals: Originals,
        listing: Listing,
    ) -> Result<Self, MapError> {
        let handle = |name| duplicate(originals.map(name)?, name);
        Ok(Self {
            rates: Rates {
                listeners: handle(LISTENER_RATES)?,
                sources: handle(SOURCE_RATES)?,
                target_flows: handle(TARGET_FLOWS)?,
            },
            originals,
            listing,
        })
    }

    /// Loads the replica, which takes as long as to load the real one.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn replicate(self) -> Result<Replica, ReplicaError> {
        let capacity = Capacity {
            flows: FLOWS,
            half_open_flows: FLOWS,
            ..*self.originals.capacity()
        };
        let mut ebpf = Opening::new(&capacity).open()?;
        for (name, _) in ebpf.maps() {
            let is_constant = name.starts_with('.');
            if !is_constant && !SHARED.contains(&name) && !OWN.contains(&name) {
                return Err(MapError::Unclassified {
                    name: name.to_owned(),
                }
                .into());
            }
        }
        self.originals.lend(&ebpf, |name| SHARED.contains(&name))?;
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
