//! Handles to the flow tables, to read them from any thread.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::{Ebpf, maps::Map};
use bytemuck::Pod;
use lb_common::{
    Ipv4, Ipv6,
    flow::{FlowEntry, FlowKey},
};

use super::{error::MapError, family::Keyed, syscall::Batches};

/// Entries that are read at once.
pub(super) const BATCH: usize = 4_096;

/// The tables of both families.
#[derive(Debug)]
pub struct Flows {
    pub v4: FlowTables<Ipv4>,
    pub v6: FlowTables<Ipv6>,
}

impl Flows {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            v4: FlowTables::take(ebpf)?,
            v6: FlowTables::take(ebpf)?,
        })
    }

    pub(super) fn try_clone(&self) -> Result<Self, MapError> {
        Ok(Self {
            v4: self.v4.try_clone()?,
            v6: self.v6.try_clone()?,
        })
    }
}

/// The tables of one family.
#[derive(Debug)]
pub struct FlowTables<A> {
    pub(super) established: OwnedFd,
    pub(super) half_open: OwnedFd,
    family: PhantomData<A>,
}

/// An entry of a flow table with its key.
type Entry<A> = (FlowKey<A>, FlowEntry<A>);

impl<A: Keyed> FlowTables<A>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            established: handle(ebpf, A::NAMES.established)?,
            half_open: handle(ebpf, A::NAMES.half_open)?,
            family: PhantomData,
        })
    }

    fn try_clone(&self) -> Result<Self, MapError> {
        Ok(Self {
            established: duplicate(self.established.as_fd(), A::NAMES.established)?,
            half_open: duplicate(self.half_open.as_fd(), A::NAMES.half_open)?,
            family: PhantomData,
        })
    }

    /// Every entry of the established flows, two for each flow, or one if its
    /// replies don't come by here.
    ///
    /// # Errors
    /// If the table can't be read.
    pub fn established(&self) -> io::Result<Vec<Entry<A>>> {
        entries(self.established.as_fd())
    }

    /// Every entry of the half-open flows.
    ///
    /// # Errors
    /// If the table can't be read.
    pub fn half_open(&self) -> io::Result<Vec<Entry<A>>> {
        entries(self.half_open.as_fd())
    }
}

fn entries<K: Pod, V: Pod>(table: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let mut batches = Batches::new(table, BATCH);
    while let Some((keys, values)) = batches.next()? {
        all.extend(keys.iter().copied().zip(values.iter().copied()));
    }
    Ok(all)
}

/// A handle to a map that is read and written by raw calls.
pub(super) fn handle(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, MapError> {
    let map = match ebpf.take_map(name) {
        Some(
            Map::HashMap(map) | Map::LruHashMap(map) | Map::Array(map) | Map::ArrayOfMaps(map),
        ) => map,
        _ => return Err(MapError::Missing { name }),
    };
    duplicate(map.fd().as_fd(), name)
}

pub(super) fn duplicate(fd: BorrowedFd<'_>, name: &'static str) -> Result<OwnedFd, MapError> {
    fd.try_clone_to_owned().map_err(|source| MapError::System {
        action: "duplicate",
        name,
        source,
    })
}
