//! The sweep: counts flows and removes those that are over.
//!
//! The data path takes an ended flow for none when it meets it, so the sweep is
//! only about memory and source ports. It has handles of its own and may run on
//! any thread.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use lb_common::{
    flow::{FlowEntry4, FlowKey4},
    settings::Settings,
    target::TargetEntry,
    tcp::Direction,
};

use super::{
    error::MapError,
    syscall::{self, Batches},
};

/// Entries that are read at once.
const BATCH: usize = 4_096;

/// Handles to the flow tables.
#[derive(Debug)]
pub struct Flows {
    pub(super) established: OwnedFd,
    pub(super) half_open: OwnedFd,
}

impl Flows {
    pub(super) fn try_clone(&self) -> Result<Self, MapError> {
        let duplicate = |fd: &OwnedFd, name| {
            fd.try_clone().map_err(|source| MapError::System {
                action: "duplicate",
                name,
                source,
            })
        };
        Ok(Self {
            established: duplicate(&self.established, "ESTABLISHED_V4")?,
            half_open: duplicate(&self.half_open, "HALF_OPEN_V4")?,
        })
    }

    /// Every entry of the established flows, two for each flow.
    ///
    /// # Errors
    /// If the table can't be read.
    pub fn established(&self) -> io::Result<Vec<(FlowKey4, FlowEntry4)>> {
        entries(self.established.as_fd())
    }

    /// Every entry of the half-open flows.
    ///
    /// # Errors
    /// If the table can't be read.
    pub fn half_open(&self) -> io::Result<Vec<(FlowKey4, FlowEntry4)>> {
        entries(self.half_open.as_fd())
    }
}

fn entries(table: BorrowedFd<'_>) -> io::Result<Vec<(FlowKey4, FlowEntry4)>> {
    let mut all = Vec::new();
    let mut batches = Batches::new(table, BATCH);
    while let Some((keys, values)) = batches.next()? {
        all.extend(keys.iter().copied().zip(values.iter().copied()));
    }
    Ok(all)
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows that are left.
    pub established: u64,
    pub half_open: u64,
    /// The established ones by target id.
    pub by_target: Vec<u64>,
    /// Entries that were removed.
    pub removed: u64,
}

/// A sweep that is ready to run.
#[derive(Debug)]
pub struct Sweep {
    flows: Flows,
    settings: Settings,
    targets: Vec<TargetEntry>,
}

impl Sweep {
    pub(super) fn new(flows: Flows, settings: Settings, targets: Vec<TargetEntry>) -> Self {
        Self {
            flows,
            settings,
            targets,
        }
    }

    /// Goes through both tables once. Takes about a second for a million flows.
    ///
    /// # Errors
    /// If a table can't be read; what was removed by then stays removed.
    pub fn run(&self) -> io::Result<Swept> {
        let now = monotonic_seconds()?;
        let mut by_target = vec![0; self.targets.len()];
        let mut removed = 0;
        let mut established = 0;
        self.table(self.flows.established.as_fd(), now, &mut removed, |entry| {
            established += 1;
            if let Some(flows) = by_target.get_mut(entry.target as usize) {
                *flows += 1;
            }
        })?;
        let mut half_open = 0;
        self.table(self.flows.half_open.as_fd(), now, &mut removed, |_| {
            half_open += 1;
        })?;
        Ok(Swept {
            established,
            half_open,
            by_target,
            removed,
        })
    }

    /// Sweeps one table and tells of each flow that is left in it.
    fn table(
        &self,
        table: BorrowedFd<'_>,
        now: u32,
        removed: &mut u64,
        mut left: impl FnMut(&FlowEntry4),
    ) -> io::Result<()> {
        let mut batches = Batches::new(table, BATCH);
        while let Some((keys, values)) = batches.next()? {
            for (key, entry) in keys.iter().zip(values) {
                if self.is_over(table, key, entry, now)? {
                    *removed += u64::from(syscall::delete(table, key)?);
                } else if entry.direction() == Direction::Forward {
                    left(entry);
                }
            }
        }
        Ok(())
    }

    /// As the data path judges: by the target's generation, and by the idle
    /// time of both directions. The other direction is removed when its own
    /// turn comes.
    fn is_over(
        &self,
        table: BorrowedFd<'_>,
        key: &FlowKey4,
        entry: &FlowEntry4,
        now: u32,
    ) -> io::Result<bool> {
        let target = self.targets.get(entry.target as usize);
        if target.is_none_or(|target| {
            target.generation != entry.generation || !target.has(TargetEntry::KEEPS)
        }) {
            return Ok(true);
        }
        let timeout = self.settings.timeout(entry.state(), key.protocol());
        let idle = |entry: &FlowEntry4| {
            // A packet may have come since `now` was read.
            now.saturating_sub(entry.last_seen) > timeout
        };
        if !idle(entry) {
            return Ok(false);
        }
        let peer: Option<FlowEntry4> = syscall::look_up(table, &entry.peer_key(key.protocol()))?;
        Ok(peer.is_none_or(|peer| idle(&peer)))
    }
}

/// The data path's clock, see [`FlowEntry4::last_seen`](lb_common::flow::FlowEntry).
fn monotonic_seconds() -> io::Result<u32> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u32)
}
