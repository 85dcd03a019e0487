//! The maps, typed, and every write to them.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, PerCpuArray},
};
use lb_common::{
    counters::{DropReason, Traffic},
    limits::NO_TARGET,
    listener::{ListenerEntry, ListenerKey4},
    settings::{InterfaceEntry, Settings},
    target::TargetEntry,
};

use super::{
    error::{MapError, errno},
    sweep::{Flows, Sweep},
};
use crate::reconcile::{Change, Element, elements};

/// `BPF_F_INNER_MAP`: the inner maps of one outer map may differ in size.
const INNER_MAP: u32 = 1 << 12;

type Table = Array<MapData, Element>;

pub(super) struct Maps {
    settings: Array<MapData, Settings>,
    interfaces: HashMap<MapData, u32, InterfaceEntry>,
    listeners: HashMap<MapData, ListenerKey4, ListenerEntry>,
    targets: Array<MapData, TargetEntry>,
    maglev: ArrayOfMaps<MapData, Table>,
    /// The tables in `maglev`, by group, to write single elements.
    tables: BTreeMap<u32, Table>,
    listener_traffic: PerCpuArray<MapData, Traffic>,
    target_traffic: PerCpuArray<MapData, Traffic>,
    drops: PerCpuArray<MapData, u64>,
    flows: Flows,
}

macro_rules! take {
    ($ebpf:expr, $name:literal) => {
        $ebpf
            .take_map($name)
            .ok_or(MapError::Missing { name: $name })?
            .try_into()
            .map_err(|source| MapError::Access {
                action: "open",
                name: $name,
                source,
            })?
    };
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            settings: take!(ebpf, "SETTINGS"),
            interfaces: take!(ebpf, "INTERFACES"),
            listeners: take!(ebpf, "LISTENERS_V4"),
            targets: take!(ebpf, "TARGETS"),
            maglev: take!(ebpf, "MAGLEV"),
            tables: BTreeMap::new(),
            listener_traffic: take!(ebpf, "LISTENER_TRAFFIC"),
            target_traffic: take!(ebpf, "TARGET_TRAFFIC"),
            drops: take!(ebpf, "DROPS"),
            flows: Flows {
                established: handle(ebpf, "ESTABLISHED_V4")?,
                half_open: handle(ebpf, "HALF_OPEN_V4")?,
            },
        })
    }

    pub(super) fn apply(&mut self, change: &Change) -> Result<(), MapError> {
        match change {
            Change::SetSettings(settings) => {
                written("SETTINGS", "", self.settings.set(0, settings, 0))
            }
            Change::SetInterface(index, entry) => written(
                "INTERFACES",
                "no limit of yours: the host has more interfaces than xlb knows",
                self.interfaces.insert(index, entry, 0),
            ),
            Change::RemoveInterface(index) => removed("INTERFACES", self.interfaces.remove(index)),
            Change::SetTarget(id, entry) => written(
                "TARGETS",
                "`targets` under [capacity]",
                self.targets.set(*id, entry, 0),
            ),
            Change::ClearTarget(id) => {
                written(
                    "TARGETS",
                    "",
                    self.targets.set(*id, TargetEntry::default(), 0),
                )?;
                self.clear_traffic(*id)
            }
            Change::CreateTable { group, slots } => self.create_table(*group, slots),
            Change::SetSlots { group, elements } => self.set_slots(*group, elements),
            Change::RemoveTable { group } => self.remove_table(*group),
            Change::SetListener(key, entry) => written(
                "LISTENERS_V4",
                "fewer listeners without an address",
                self.listeners.insert(key, entry, 0),
            ),
            Change::RemoveListener(key) => removed("LISTENERS_V4", self.listeners.remove(key)),
        }
    }

    /// Makes a table, fills it, and only then shows it to the data path.
    fn create_table(&mut self, group: u32, slots: &[u16]) -> Result<(), MapError> {
        const NAME: &str = "MAGLEV";
        let elements = elements(slots);
        let mut table =
            Table::create(elements.len() as u32, INNER_MAP).map_err(|source| MapError::Access {
                action: "create a table of",
                name: NAME,
                source,
            })?;
        for (index, element) in elements.iter().enumerate() {
            written(NAME, "", table.set(index as u32, element, 0))?;
        }
        written(NAME, "", self.maglev.set(group, &table, 0))?;
        self.tables.insert(group, table);
        Ok(())
    }

    fn set_slots(&mut self, group: u32, changed: &[(u32, Element)]) -> Result<(), MapError> {
        let table = self
            .tables
            .get_mut(&group)
            .ok_or(MapError::Missing { name: "MAGLEV" })?;
        for (index, element) in changed {
            written("MAGLEV", "", table.set(*index, element, 0))?;
        }
        Ok(())
    }

    /// Frees a group's table by putting one without targets in its place.
    fn remove_table(&mut self, group: u32) -> Result<(), MapError> {
        self.create_table(group, &[NO_TARGET])?;
        self.tables.remove(&group);
        Ok(())
    }

    pub(super) fn listener_traffic(&self, id: u32) -> Result<Traffic, MapError> {
        sum("LISTENER_TRAFFIC", &self.listener_traffic, id)
    }

    pub(super) fn target_traffic(&self, id: u32) -> Result<Traffic, MapError> {
        sum("TARGET_TRAFFIC", &self.target_traffic, id)
    }

    /// Whoever gets a target's id next starts from zero.
    fn clear_traffic(&mut self, id: u32) -> Result<(), MapError> {
        const NAME: &str = "TARGET_TRAFFIC";
        let read = self
            .target_traffic
            .get(&id, 0)
            .map_err(|source| MapError::Access {
                action: "read",
                name: NAME,
                source,
            })?;
        let zero = vec![Traffic::default(); read.len()]
            .try_into()
            .map_err(|source| MapError::System {
                action: "size",
                name: NAME,
                source,
            })?;
        written(NAME, "", self.target_traffic.set(id, zero, 0))
    }

    pub(super) fn drops(&self) -> Result<Vec<(DropReason, u64)>, MapError> {
        DropReason::ALL
            .iter()
            .map(|&reason| {
                let values =
                    self.drops
                        .get(&(reason as u32), 0)
                        .map_err(|source| MapError::Access {
                            action: "read",
                            name: "DROPS",
                            source,
                        })?;
                Ok((reason, values.iter().sum()))
            })
            .collect()
    }

    pub(super) fn sweep(&self) -> Result<Sweep, MapError> {
        let settings = self
            .settings
            .get(&0, 0)
            .map_err(|source| MapError::Access {
                action: "read",
                name: "SETTINGS",
                source,
            })?;
        let targets = self.targets.iter().collect::<Result<Vec<_>, _>>();
        let targets = targets.map_err(|source| MapError::Access {
            action: "read",
            name: "TARGETS",
            source,
        })?;
        Ok(Sweep::new(self.flows()?, settings, targets))
    }

    /// Handles to the flow tables, of their own.
    pub(super) fn flows(&self) -> Result<Flows, MapError> {
        self.flows.try_clone()
    }
}

/// A handle to a map that is read and written by raw calls.
fn handle(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, MapError> {
    let (Some(Map::HashMap(map)) | Some(Map::LruHashMap(map))) = ebpf.take_map(name) else {
        return Err(MapError::Missing { name });
    };
    map.fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| MapError::System {
            action: "duplicate",
            name,
            source,
        })
}

fn sum(
    name: &'static str,
    map: &PerCpuArray<MapData, Traffic>,
    id: u32,
) -> Result<Traffic, MapError> {
    let values = map.get(&id, 0).map_err(|source| MapError::Access {
        action: "read",
        name,
        source,
    })?;
    Ok(values.iter().fold(Traffic::default(), |mut sum, &traffic| {
        sum += traffic;
        sum
    }))
}

fn written(
    name: &'static str,
    setting: &'static str,
    result: Result<(), aya::maps::MapError>,
) -> Result<(), MapError> {
    result.map_err(|source| match errno(&source) {
        Some(libc::E2BIG) => MapError::Full { name, setting },
        _ if matches!(source, aya::maps::MapError::OutOfBounds { .. }) => {
            MapError::Full { name, setting }
        }
        _ => MapError::Access {
            action: "write",
            name,
            source,
        },
    })
}

/// What isn't there is as good as removed.
fn removed(name: &'static str, result: Result<(), aya::maps::MapError>) -> Result<(), MapError> {
    match result {
        Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(source) if errno(&source) == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(MapError::Access {
            action: "remove from",
            name,
            source,
        }),
    }
}
