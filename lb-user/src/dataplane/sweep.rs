//! The sweep: counts flows and removes those that are over.
//!
//! The data path takes an ended flow for none when it meets it, so the sweep is
//! only about memory and source ports. It has handles of its own and may run on
//! any thread.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use bytemuck::Pod;
use lb_common::{
    flow::{self, FlowEntry, FlowKey},
    settings::Settings,
    target::TargetEntry,
    tcp::{Direction, State},
};

use super::{
    family::Keyed,
    flows::{BATCH, FlowTables, Flows},
    syscall::{self, Batches},
};

/// Seconds for which an idle TCP connection stays after its time: as long as
/// it is there, its client is told of its end by a RST. Without it the next
/// packet would be taken for one of a flow that another node has begun.
const TOLD: u32 = 60;

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
    /// The data path's count of each target's established flows.
    target_flows: OwnedFd,
    settings: Settings,
    targets: Vec<TargetEntry>,
}

impl Sweep {
    pub(super) fn new(
        flows: Flows,
        target_flows: OwnedFd,
        settings: Settings,
        targets: Vec<TargetEntry>,
    ) -> Self {
        Self {
            flows,
            target_flows,
            settings,
            targets,
        }
    }

    /// Goes through all tables once. Takes about a second for a million flows.
    ///
    /// # Errors
    /// If a table can't be read; what was removed by then stays removed.
    pub fn run(&self) -> io::Result<Swept> {
        let now = monotonic_seconds()?;
        let mut swept = Swept {
            by_target: vec![0; self.targets.len()],
            ..Swept::default()
        };
        self.family(&self.flows.v4, now, &mut swept)?;
        self.family(&self.flows.v6, now, &mut swept)?;
        self.correct_counts(&swept.by_target)?;
        Ok(swept)
    }

    /// Sets the data path's counts right, which don't know of what was removed
    /// here. What comes and goes meanwhile makes a small difference, until the
    /// next sweep.
    fn correct_counts(&self, by_target: &[u64]) -> io::Result<()> {
        let map = self.target_flows.as_fd();
        for (id, (target, &flows)) in (0u32..).zip(self.targets.iter().zip(by_target)) {
            let flows = u32::try_from(flows).unwrap_or(u32::MAX);
            if target.generation != 0 && syscall::look_up(map, &id)? != Some(flows) {
                syscall::update(map, &id, &flows)?;
            }
        }
        Ok(())
    }

    fn family<A: Keyed>(
        &self,
        tables: &FlowTables<A>,
        now: u32,
        swept: &mut Swept,
    ) -> io::Result<()>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let Swept {
            established,
            half_open,
            by_target,
            removed,
        } = swept;
        let table = tables.established.as_fd();
        self.table(table, now, removed, |entry: &FlowEntry<A>| {
            *established += 1;
            let flows = by_target.get_mut(entry.target as usize);
            if let Some(flows) = flows.filter(|_| self.target(entry).is_some()) {
                *flows += 1;
            }
        })?;
        let table = tables.half_open.as_fd();
        self.table(table, now, removed, |_: &FlowEntry<A>| *half_open += 1)
    }

    /// Sweeps one table and tells of each flow that is left in it.
    fn table<A: Keyed>(
        &self,
        table: BorrowedFd<'_>,
        now: u32,
        removed: &mut u64,
        mut left: impl FnMut(&FlowEntry<A>),
    ) -> io::Result<()>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let mut batches: Batches<'_, FlowKey<A>, FlowEntry<A>> = Batches::new(table, BATCH);
        while let Some((keys, values)) = batches.next()? {
            for (key, entry) in keys.iter().zip(values) {
                if self.is_over(table, key, entry, now)? {
                    *removed += remove(table, key, entry)?;
                } else if entry.direction() == Direction::Forward {
                    left(entry);
                }
            }
        }
        Ok(())
    }

    /// The target of an entry, unless its id is somebody else's by now.
    fn target<A>(&self, entry: &FlowEntry<A>) -> Option<&TargetEntry> {
        let target = self.targets.get(entry.target as usize)?;
        (target.generation == entry.generation).then_some(target)
    }

    /// As the data path judges, but for connections to be told of: by the
    /// target's generation, and by the idle time of both directions, if there
    /// are two.
    fn is_over<A: Keyed>(
        &self,
        table: BorrowedFd<'_>,
        key: &FlowKey<A>,
        entry: &FlowEntry<A>,
        now: u32,
    ) -> io::Result<bool>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let state = entry.state();
        let connection =
            key.protocol() == flow::TCP && state.has(State::CONFIRMED) && !state.is_closed();
        let has_target = self
            .target(entry)
            .is_some_and(|target| target.has(TargetEntry::KEEPS));
        let timeout = match (has_target, connection) {
            (false, false) => return Ok(true),
            (false, true) => TOLD,
            (true, false) => self.settings.timeout(state, key.protocol()),
            (true, true) => {
                let timeout = self.settings.timeout(state, key.protocol());
                timeout.saturating_add(TOLD)
            }
        };
        let idle = |entry: &FlowEntry<A>| {
            // A packet may have come since `now` was read.
            now.saturating_sub(entry.last_seen) > timeout
        };
        if !idle(entry) {
            return Ok(false);
        }
        Ok(peer(table, key, entry)?.is_none_or(|peer| idle(&peer)))
    }
}

/// Removes a flow, given one of its entries, and tells how many went. The reply
/// direction goes last: it is what keeps the source port from others.
fn remove<A: Keyed>(
    table: BorrowedFd<'_>,
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
) -> io::Result<u64>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let other = peer(table, key, entry)?.map(|_| entry.peer_key(key.protocol()));
    let mut keys = [Some(*key), other];
    if entry.direction() == Direction::Reply {
        keys.reverse();
    }
    let mut removed = 0;
    for key in keys.iter().flatten() {
        removed += u64::from(syscall::delete(table, key)?);
    }
    Ok(removed)
}

/// The entry of a flow's other direction. What has its key may be another
/// flow's by now.
fn peer<A: Keyed>(
    table: BorrowedFd<'_>,
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
) -> io::Result<Option<FlowEntry<A>>>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    if entry.is_dsr() {
        return Ok(None);
    }
    let peer: Option<FlowEntry<A>> = syscall::look_up(table, &entry.peer_key(key.protocol()))?;
    Ok(peer.filter(|peer| peer.rewrite == key.endpoints.reversed()))
}

/// The data path's clock, see [`FlowEntry::last_seen`].
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
