//! Other capacities, and maps that this build has otherwise: new ones are made,
//! and what the old ones hold is copied. That takes a while, and so does all
//! that comes before the programs take the place of the old ones. So flows are
//! copied again just before that, and none begins or is promoted until it is
//! done: one that only an old program knows would be lost, and most of all its
//! replies.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray},
};
use bytemuck::Pod;
use lb_common::{
    Ipv4, Ipv6,
    counters::Traffic,
    flow::{FlowEntry, FlowKey},
    listener::ListenerLimits,
    target::TargetEntry,
};
use tracing::{info, warn};

use super::{
    error::{LoadError, MapError},
    flows::BATCH,
    pins::{self, Pins},
    shape::Resized,
    syscall::{self, Batches, Existing},
};

/// Maps that take the place of pinned ones.
#[derive(Debug)]
pub(super) struct Resize(Vec<Pair>);

#[derive(Debug)]
struct Pair {
    name: &'static str,
    old: OwnedFd,
    new: OwnedFd,
}

impl Resize {
    /// Copies what the pinned maps hold to those of `ebpf`.
    pub(super) fn begin(pins: &Pins, maps: &[Resized], ebpf: &Ebpf) -> Result<Self, LoadError> {
        let mut pairs = Vec::new();
        for &Resized {
            name,
            from,
            to,
            is_copied,
        } in maps
        {
            let old = pins.open_map(name)?;
            let map = ebpf.map(name).and_then(pins::data);
            let map = map.ok_or(MapError::Missing { name })?;
            let new = super::flows::duplicate(map.fd().as_fd(), name)?;
            let lost = match is_copied {
                true => copy(name, &old, &new, from.min(to))?,
                false => 0,
            };
            info!(map = name, from, to, lost, is_copied, "made anew");
            pairs.push(Pair { name, old, new });
        }
        Ok(Self(pairs))
    }

    pub(super) fn moves_flows(&self) -> bool {
        self.0.iter().any(|pair| is_flow_table(pair.name))
    }

    /// Copies flows again, as they are now. To be called while none begins, just
    /// before the programs are replaced.
    pub(super) fn catch_up(&self) {
        let of = |kind: &'static str| self.0.iter().filter(move |it| it.name.starts_with(kind));
        for Pair { name, old, new } in of(HALF_OPEN).chain(of(ESTABLISHED)) {
            if let Err(error) = copy_flows(name, old.as_fd(), new.as_fd()) {
                warn!(map = name, %error, "flows that began just now may be lost");
            }
        }
    }

    /// Pins the new maps in the place of the old ones. To be called once the
    /// programs use them.
    pub(super) fn finish(self, pins: &Pins) -> Result<(), LoadError> {
        for Pair { name, new, .. } in self.0 {
            pins.replace_map(name, new.as_fd())?;
        }
        Ok(())
    }
}

/// What the names of flow tables begin with.
const HALF_OPEN: &str = "HALF_OPEN";
const ESTABLISHED: &str = "ESTABLISHED";

fn is_flow_table(name: &str) -> bool {
    name.starts_with(HALF_OPEN) || name.starts_with(ESTABLISHED)
}

/// Copies entries, of arrays the first `count`. Says how many had no room.
fn copy(name: &'static str, old: &OwnedFd, new: &OwnedFd, count: u32) -> Result<u64, MapError> {
    let failed = |source| MapError::System {
        action: "copy",
        name,
        source,
    };
    let (from, to) = (old.as_fd(), new.as_fd());
    match name {
        "TARGETS" => copy_array::<TargetEntry>(from, to, count),
        "TARGET_FLOWS" => copy_array::<u32>(from, to, count),
        "LISTENER_LIMITS" => copy_array::<ListenerLimits>(from, to, count),
        "TARGET_TRAFFIC" | "LISTENER_TRAFFIC" => {
            copy_traffic(from, to, count).map_err(|source| MapError::Access {
                action: "copy",
                name,
                source,
            })?;
            return Ok(0);
        }
        _ => return copy_flows(name, from, to).map_err(failed),
    }
    .map_err(failed)?;
    Ok(0)
}

fn copy_array<V: Pod>(old: BorrowedFd<'_>, new: BorrowedFd<'_>, count: u32) -> io::Result<()> {
    for id in 0..count {
        if let Some(value) = syscall::look_up::<u32, V>(old, &id)? {
            syscall::update(new, &id, &value)?;
        }
    }
    Ok(())
}

fn copy_traffic(
    old: BorrowedFd<'_>,
    new: BorrowedFd<'_>,
    count: u32,
) -> Result<(), aya::maps::MapError> {
    let open = |fd: BorrowedFd<'_>| {
        let map = MapData::from_fd(fd.try_clone_to_owned()?)?;
        PerCpuArray::<MapData, Traffic>::try_from(Map::PerCpuArray(map))
    };
    let (old, mut new) = (open(old)?, open(new)?);
    (0..count).try_for_each(|id| new.set(id, old.get(&id, 0)?, 0))
}

/// Copies the entries of a flow table, and says how many had no room.
fn copy_flows(name: &str, old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<u64> {
    match name {
        "ESTABLISHED_V4" | "HALF_OPEN_V4" => copy_hash::<FlowKey<Ipv4>, FlowEntry<Ipv4>>(old, new),
        "ESTABLISHED_V6" | "HALF_OPEN_V6" => copy_hash::<FlowKey<Ipv6>, FlowEntry<Ipv6>>(old, new),
        _ => Ok(0),
    }
}

fn copy_hash<K: Pod, V: Pod>(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<u64> {
    let mut lost = 0;
    let mut batches: Batches<'_, K, V> = Batches::new(old, BATCH);
    while let Some((keys, values)) = batches.next()? {
        for (key, value) in keys.iter().zip(values) {
            match syscall::insert(new, key, value, Existing::IsReplaced) {
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => lost += 1,
                inserted => inserted?,
            }
        }
    }
    Ok(lost)
}
