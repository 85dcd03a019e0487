//! Handles to the data path's maps, for other copies of the object to share them.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::{Ebpf, maps::Map};

use super::{error::MapError, pins::data, shape::is_kept, syscall};
use crate::config::Capacity;

pub(super) const LISTENER_RATES: &str = "LISTENER_RATES";
pub(super) const SOURCE_RATES: &str = "SOURCE_RATES";
pub(super) const TARGET_FLOWS: &str = "TARGET_FLOWS";

/// All maps but scratch.
#[derive(Debug)]
pub(super) struct Originals {
    maps: BTreeMap<String, OwnedFd>,
    capacity: Capacity,
}

impl Originals {
    /// To be called while the maps are still the object's.
    pub(super) fn of(ebpf: &Ebpf, capacity: &Capacity) -> Result<Self, MapError> {
        let kept = ebpf.maps().filter(|(name, _)| is_kept(name));
        let maps = kept.map(|(name, map)| duplicate(name, fd(name, map)?));
        Ok(Self {
            maps: maps.collect::<Result<_, MapError>>()?,
            capacity: *capacity,
        })
    }

    /// Other handles to the same maps.
    pub(super) fn again(&self) -> Result<Self, MapError> {
        let maps = self.maps.iter();
        let maps = maps.map(|(name, map)| duplicate(name, map.as_fd()));
        Ok(Self {
            maps: maps.collect::<Result<_, MapError>>()?,
            capacity: self.capacity,
        })
    }

    pub(super) fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// A map by its name.
    pub(super) fn map(&self, name: &'static str) -> Result<BorrowedFd<'_>, MapError> {
        let map = self.maps.get(name).ok_or(MapError::Missing { name })?;
        Ok(map.as_fd())
    }

    /// Has an object that was opened, but whose programs aren't loaded yet, use
    /// these maps instead of its own, as far as `shares` says.
    pub(super) fn lend(&self, ebpf: &Ebpf, shares: impl Fn(&str) -> bool) -> Result<(), MapError> {
        for (name, map) in ebpf.maps().filter(|(name, _)| shares(name)) {
            let unknown = || MapError::Unclassified {
                name: name.to_owned(),
            };
            let original = self.maps.get(name).ok_or_else(unknown)?;
            // A program finds its maps by these descriptors when it is loaded.
            syscall::replace(fd(name, map)?, original.as_fd()).map_err(not_shared(name))?;
        }
        Ok(())
    }
}

fn duplicate(name: &str, map: BorrowedFd<'_>) -> Result<(String, OwnedFd), MapError> {
    let map = map.try_clone_to_owned().map_err(not_shared(name))?;
    Ok((name.to_owned(), map))
}

fn not_shared(name: &str) -> impl FnOnce(io::Error) -> MapError {
    let name = name.to_owned();
    move |source| MapError::Share { name, source }
}

/// The descriptor of one of the object's maps.
fn fd<'a>(name: &str, map: &'a Map) -> Result<BorrowedFd<'a>, MapError> {
    let data = data(map).ok_or_else(|| MapError::Unclassified {
        name: name.to_owned(),
    })?;
    Ok(data.fd().as_fd())
}
