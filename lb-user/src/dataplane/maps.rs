//! The maps, typed, and every write to them.

mod family;
mod filter;
mod observe;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, IterableMap as _, Map, MapData, PerCpuArray},
};
use lb_common::{
    Ipv4, Ipv6,
    counters::{DropReason, Traffic},
    limits::NO_TARGET,
    listener::ListenerLimits,
    settings::{InterfaceEntry, Settings},
    target::TargetEntry,
    wire::wide,
};

use self::{family::FamilyMaps, filter::AddressFilter};
use super::{
    error::{MapError, errno},
    flows::{Flows, duplicate, handle},
    listing::Listing,
    sweep::{self, Sweep},
    syscall,
};
use crate::{
    address::Prefix,
    config::Rule,
    reconcile::{Change, Element, elements},
};

const SETTINGS: &str = "SETTINGS";
const TARGET_FLOWS: &str = "TARGET_FLOWS";
/// Seconds after which flows may begin again even if the agent that moves them
/// has died, or takes longer.
const PAUSE: u32 = 10;
/// `BPF_F_INNER_MAP`: the inner maps of one outer map may differ in size.
const INNER_MAP: u32 = 1 << 12;

type Table = Array<MapData, Element>;

pub(super) struct Maps {
    settings: Array<MapData, Settings>,
    interfaces: HashMap<MapData, u32, InterfaceEntry>,
    macs: HashMap<MapData, u64, u64>,
    targets: Array<MapData, TargetEntry>,
    filter: AddressFilter,
    maglev: OwnedFd,
    /// The tables in `maglev`, by group, to write single elements.
    tables: BTreeMap<u32, Table>,
    listener_traffic: PerCpuArray<MapData, Traffic>,
    target_traffic: PerCpuArray<MapData, Traffic>,
    drops: PerCpuArray<MapData, u64>,
    limits: Array<MapData, ListenerLimits>,
    /// Written by the sweep, off the agent's own task.
    target_flows: OwnedFd,
    /// What the last sweep was told of the targets.
    swept_targets: Vec<TargetEntry>,
    flows: Flows,
    v4: FamilyMaps<Ipv4>,
    v6: FamilyMaps<Ipv6>,
}

/// Does something to the maps of an address's family, with the address as they
/// have it.
macro_rules! by_family {
    ($self:ident, $address:expr, |$maps:ident, $key:ident| $call:expr) => {
        match $address {
            IpAddr::V4(address) => {
                let ($maps, $key) = (&mut $self.v4, Ipv4::from(address));
                $call
            }
            IpAddr::V6(address) => {
                let ($maps, $key) = (&mut $self.v6, Ipv6::from(address));
                $call
            }
        }
    };
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            settings: open(ebpf, SETTINGS)?,
            interfaces: open(ebpf, "INTERFACES")?,
            macs: open(ebpf, "MACS")?,
            targets: open(ebpf, "TARGETS")?,
            filter: AddressFilter::take(ebpf)?,
            maglev: handle(ebpf, "MAGLEV")?,
            tables: BTreeMap::new(),
            listener_traffic: open(ebpf, "LISTENER_TRAFFIC")?,
            target_traffic: open(ebpf, "TARGET_TRAFFIC")?,
            drops: open(ebpf, "DROPS")?,
            limits: open(ebpf, "LISTENER_LIMITS")?,
            target_flows: handle(ebpf, TARGET_FLOWS)?,
            swept_targets: Vec::new(),
            flows: Flows::take(ebpf)?,
            v4: FamilyMaps::take(ebpf)?,
            v6: FamilyMaps::take(ebpf)?,
        })
    }

    /// Lets no flow begin until [`go_on`](Self::go_on), or some seconds. Waits
    /// for those that were about to.
    pub(super) fn pause(&mut self) -> Result<(), MapError> {
        let now = sweep::monotonic_seconds().map_err(|source| MapError::System {
            action: "read the clock for",
            name: SETTINGS,
            source,
        })?;
        self.pause_until(now.wrapping_add(PAUSE))?;
        thread::sleep(Duration::from_millis(1));
        Ok(())
    }

    fn settings(&self) -> Result<Settings, MapError> {
        self.settings.get(&0, 0).map_err(|source| MapError::Access {
            action: "read",
            name: SETTINGS,
            source,
        })
    }

    pub(super) fn go_on(&mut self) -> Result<(), MapError> {
        self.pause_until(0)
    }

    fn pause_until(&mut self, paused_until: u32) -> Result<(), MapError> {
        let settings = self.settings()?;
        self.apply(&Change::SetSettings(Settings {
            paused_until,
            ..settings
        }))
    }

    pub(super) fn apply(&mut self, change: &Change) -> Result<(), MapError> {
        match change {
            Change::SetSettings(settings) => {
                written(SETTINGS, "", self.settings.set(0, settings, 0))
            }
            Change::SetInterface(index, entry) => written(
                "INTERFACES",
                "no limit of yours: the host has more interfaces than xlb knows",
                self.interfaces.insert(index, entry, 0),
            ),
            Change::RemoveInterface(index) => removed("INTERFACES", self.interfaces.remove(index)),
            Change::AddMac(mac) => written(
                "MACS",
                "no limit of yours: the host has more interfaces than xlb knows",
                self.macs.insert(mac, 1, 0),
            ),
            Change::RemoveMac(mac) => removed("MACS", self.macs.remove(mac)),
            Change::SetTarget(id, entry) => {
                self.filter.add(filter::of_target(entry))?;
                written(
                    "TARGETS",
                    "`targets` under [capacity]",
                    self.targets.set(*id, entry, 0),
                )
            }
            Change::ClearTarget(id) => {
                written(
                    "TARGETS",
                    "",
                    self.targets.set(*id, TargetEntry::default(), 0),
                )?;
                self.clear_flows(*id)?;
                self.clear_traffic(*id)
            }
            Change::CreateTable { group, slots } => self.create_tables(&[(*group, slots)]),
            Change::SetSlots {
                group, elements, ..
            } => self.set_slots(*group, elements),
            Change::RemoveTable { group } => self.remove_table(*group),
            Change::SetListener(place, entry) => {
                by_family!(self, place.address, |maps, address| maps
                    .set_listener(address, place, entry))
            }
            Change::RemoveListener(place) => {
                by_family!(self, place.address, |maps, address| maps
                    .remove_listener(address, place))
            }
            Change::SetLimits(id, limits) => self.set_limits(*id, *limits),
            Change::ClearLimits(id) => self.set_limits(*id, ListenerLimits::default()),
            Change::SetRules { id, set, gone, .. } => {
                self.set_rules(*id, set)?;
                self.remove_rules(*id, gone)
            }
            Change::RemoveRules { id, gone } => self.remove_rules(*id, gone),
            Change::SetVip(address, entry) => {
                self.filter.add([wide(*address)])?;
                by_family!(self, *address, |maps, address| maps.set_vip(address, entry))
            }
            Change::RemoveVip(address) => {
                by_family!(self, *address, |maps, address| maps.remove_vip(address))
            }
        }
    }

    fn set_limits(&mut self, id: u32, limits: ListenerLimits) -> Result<(), MapError> {
        let written = self.limits.set(id, limits, 0);
        self::written("LISTENER_LIMITS", "`listeners` under [capacity]", written)
    }

    fn set_rules(&mut self, id: u32, set: &[(Prefix, Rule)]) -> Result<(), MapError> {
        for &(prefix, rule) in set {
            let length = prefix.length();
            by_family!(self, prefix.address(), |maps, address| maps
                .set_rule(id, address, length, rule))?;
        }
        Ok(())
    }

    fn remove_rules(&mut self, id: u32, gone: &[Prefix]) -> Result<(), MapError> {
        for prefix in gone {
            let length = prefix.length();
            by_family!(self, prefix.address(), |maps, address| maps
                .remove_rule(id, address, length))?;
        }
        Ok(())
    }

    /// Applies changes, those that make tables first and together.
    pub(super) fn apply_run(&mut self, run: &[Change]) -> Result<(), MapError> {
        let is_table = |change: &&Change| matches!(change, Change::CreateTable { .. });
        let (tables, others): (Vec<&Change>, Vec<&Change>) = run.iter().partition(is_table);
        let tables = tables.into_iter().filter_map(|change| match change {
            Change::CreateTable { group, slots } => Some((*group, &**slots)),
            _ => None,
        });
        self.create_tables(&tables.collect::<Vec<_>>())?;
        others.into_iter().try_for_each(|change| self.apply(change))
    }

    /// Makes tables, fills them, and only then shows them to the data path, by
    /// one call: at each the kernel waits until no program looks at an old one.
    fn create_tables(&mut self, tables: &[(u32, &[u16])]) -> Result<(), MapError> {
        let mut groups = Vec::new();
        let mut made = Vec::new();
        for &(group, slots) in tables {
            groups.push(group);
            made.push(table(slots)?);
        }
        let fds: Vec<u32> = made
            .iter()
            .map(|table| table.map().fd().as_fd().as_raw_fd().cast_unsigned())
            .collect();
        syscall::update_all(self.maglev.as_fd(), &groups, &fds).map_err(unwritten)?;
        self.tables.extend(groups.into_iter().zip(made));
        Ok(())
    }

    fn set_slots(&mut self, group: u32, changed: &[(u32, Element)]) -> Result<(), MapError> {
        let table = self
            .tables
            .get(&group)
            .ok_or(MapError::Missing { name: "MAGLEV" })?;
        let (indices, elements): (Vec<u32>, Vec<Element>) = changed.iter().copied().unzip();
        fill(table, &indices, &elements)
    }

    /// Frees a group's table by putting one without targets in its place.
    fn remove_table(&mut self, group: u32) -> Result<(), MapError> {
        self.create_tables(&[(group, &[NO_TARGET])])?;
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
    fn clear_flows(&mut self, id: u32) -> Result<(), MapError> {
        syscall::update(self.target_flows.as_fd(), &id, &0u32).map_err(|source| MapError::System {
            action: "write",
            name: TARGET_FLOWS,
            source,
        })
    }

    /// Likewise.
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
        count(&self.drops)
    }

    /// What flows depend on.
    fn circumstances(&self) -> Result<(Settings, Vec<TargetEntry>), MapError> {
        let settings = self.settings()?;
        let targets = self.targets.iter().collect::<Result<Vec<_>, _>>();
        let targets = targets.map_err(|source| MapError::Access {
            action: "read",
            name: "TARGETS",
            source,
        })?;
        Ok((settings, targets))
    }

    pub(super) fn listing(&self) -> Result<Listing, MapError> {
        let (settings, targets) = self.circumstances()?;
        Ok(Listing::new(self.flows()?, settings, targets))
    }

    pub(super) fn sweep(&mut self) -> Result<Sweep, MapError> {
        let (settings, targets) = self.circumstances()?;
        let target_flows = duplicate(self.target_flows.as_fd(), TARGET_FLOWS)?;
        let target_map = duplicate(self.targets.map().fd().as_fd(), "TARGETS")?;
        let flows = self.flows()?;
        let before = std::mem::replace(&mut self.swept_targets, targets.clone());
        Ok(Sweep::new(
            flows,
            target_flows,
            target_map,
            settings,
            targets,
            before,
        ))
    }

    /// Handles to the flow tables, of their own.
    pub(super) fn flows(&self) -> Result<Flows, MapError> {
        self.flows.try_clone()
    }
}

/// A map of the object, in its type.
pub(super) fn open<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, MapError>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(MapError::Missing { name })?;
    map.try_into().map_err(|source| MapError::Access {
        action: "open",
        name,
        source,
    })
}

fn table(slots: &[u16]) -> Result<Table, MapError> {
    let elements = elements(slots);
    let count = elements.len() as u32;
    let table = Table::create(count, INNER_MAP).map_err(|source| MapError::Access {
        action: "create a table of",
        name: "MAGLEV",
        source,
    })?;
    let indices: Vec<u32> = (0..count).collect();
    fill(&table, &indices, &elements)?;
    Ok(table)
}

/// Writes elements of a table by one call, not a call for each.
fn fill(table: &Table, indices: &[u32], elements: &[Element]) -> Result<(), MapError> {
    syscall::update_all(table.map().fd().as_fd(), indices, elements).map_err(unwritten)
}

fn unwritten(source: io::Error) -> MapError {
    MapError::System {
        action: "write",
        name: "MAGLEV",
        source,
    }
}

/// Packets by drop reason, all CPUs together.
pub(super) fn count(drops: &PerCpuArray<MapData, u64>) -> Result<Vec<(DropReason, u64)>, MapError> {
    let count = |&reason: &DropReason| {
        let values = drops
            .get(&(reason as u32), 0)
            .map_err(|source| MapError::Access {
                action: "read",
                name: "DROPS",
                source,
            })?;
        Ok((reason, values.iter().sum()))
    };
    DropReason::ALL.iter().map(count).collect()
}

pub(super) fn sum(
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
