//! The sweep: counts flows and removes those that are over.
//!
//! The data path takes an ended flow for none when it meets it, so the sweep is
//! about memory and source ports, and about clients that wait for a target that
//! is lost (see `nudge`). It has handles of its own and may run on any thread.

mod found;
mod nudge;

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use bytemuck::Pod;
use lb_common::{
    Address,
    flow::{self, FlowEntry, FlowKey},
    settings::Settings,
    target::TargetEntry,
    tcp::{Direction, State},
};

use super::{
    family::Keyed,
    flows::{BATCH, FlowTables, Flows},
    syscall::{self, Batches, Existing},
};
pub use found::{FamilyFlows, Swept};
use nudge::Nudge;
use tracing::warn;

/// Seconds for which an idle TCP connection stays after its time: as long as
/// it is there, its client is told of its end by a RST. Without it the next
/// packet would be taken for one of a flow that another node has begun.
const TOLD: u32 = 60;

/// A sweep that is ready to run.
#[derive(Debug)]
pub struct Sweep {
    flows: Flows,
    /// The data path's count of each target's established flows.
    target_flows: OwnedFd,
    target_map: OwnedFd,
    settings: Settings,
    /// What was in `target_map` when the sweep was made. Good enough to see
    /// which flows go on, and whose they are.
    targets: Vec<TargetEntry>,
    /// The same of the sweep before.
    before: Vec<TargetEntry>,
}

impl Sweep {
    pub(super) fn new(
        flows: Flows,
        target_flows: OwnedFd,
        target_map: OwnedFd,
        settings: Settings,
        targets: Vec<TargetEntry>,
        before: Vec<TargetEntry>,
    ) -> Self {
        Self {
            flows,
            target_flows,
            target_map,
            settings,
            targets,
            before,
        }
    }

    /// Goes through all tables once. Takes about a second for a million flows.
    ///
    /// # Errors
    /// If a table can't be read; what was removed by then stays removed.
    pub fn run(&self) -> io::Result<Swept> {
        let judge = Judge {
            settings: self.settings,
            now: monotonic_seconds()?,
        };
        let mut swept = Swept {
            by_target: vec![0; self.targets.len()],
            ..Swept::default()
        };
        let before = self.counts()?;
        swept.v4 = self.family(&self.flows.v4, &judge, &mut swept)?;
        swept.v6 = self.family(&self.flows.v6, &judge, &mut swept)?;
        self.correct_counts(&before, &mut swept.by_target)?;
        Ok(swept)
    }

    /// The data path's counts of each target's established flows.
    fn counts(&self) -> io::Result<Vec<u32>> {
        let map = self.target_flows.as_fd();
        let count = |id| Ok(syscall::look_up(map, &id)?.unwrap_or_default());
        (0..self.targets.len() as u32).map(count).collect()
    }

    /// Sets the data path's counts right, which don't know of what was removed
    /// here. An id that was given away meanwhile has nothing counted yet.
    fn correct_counts(&self, before: &[u32], by_target: &mut [u64]) -> io::Result<()> {
        let (map, target_map) = (self.target_flows.as_fd(), self.target_map.as_fd());
        let targets = self.targets.iter().zip(before);
        for (id, ((target, &before), flows)) in (0u32..).zip(targets.zip(by_target)) {
            if target.generation == 0 {
                continue;
            }
            let now: Option<TargetEntry> = syscall::look_up(target_map, &id)?;
            if now.is_none_or(|now| now.generation != target.generation) {
                *flows = 0;
                continue;
            }
            let now = syscall::look_up(map, &id)?.unwrap_or_default();
            if let Some(right) = corrected(before, now, *flows) {
                syscall::update(map, &id, &right)?;
            }
        }
        Ok(())
    }

    fn family<A: Keyed>(
        &self,
        tables: &FlowTables<A>,
        judge: &Judge,
        swept: &mut Swept,
    ) -> io::Result<FamilyFlows>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let Swept {
            by_target, removed, ..
        } = swept;
        let mut count = FamilyFlows::default();
        let mut nudge = None;
        let table = tables.established.as_fd();
        self.table(table, judge, removed, |key: &FlowKey<A>, entry| {
            count.established += 1;
            if self.has_just_lost_target(key, entry) {
                nudge.get_or_insert_with(|| Nudges::new(key)).send(key);
            }
            let flows = by_target.get_mut(entry.target as usize);
            if let Some(flows) = flows.filter(|_| holder(entry, self.target(entry)).is_some()) {
                *flows += 1;
            }
        })?;
        let table = tables.half_open.as_fd();
        self.table(table, judge, removed, |_: &FlowKey<A>, _| {
            count.half_open += 1;
        })?;
        Ok(count)
    }

    /// Sweeps one table and tells of each flow that is left in it.
    fn table<A: Keyed>(
        &self,
        table: BorrowedFd<'_>,
        judge: &Judge,
        removed: &mut u64,
        mut left: impl FnMut(&FlowKey<A>, &FlowEntry<A>),
    ) -> io::Result<()>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let present = Kernel {
            table,
            targets: self.target_map.as_fd(),
        };
        let mut batches: Batches<'_, FlowKey<A>, FlowEntry<A>> = Batches::new(table, BATCH);
        while let Some((keys, values)) = batches.next()? {
            for (key, entry) in keys.iter().zip(values) {
                let over = judge.is_over(key.protocol(), entry, self.target(entry));
                // Its client is to be told first.
                let ended = match over && !self.has_just_lost_target(key, entry) {
                    true => judge.end(&present, key, entry)?,
                    false => None,
                };
                match ended {
                    Some(count) => *removed += count,
                    None if entry.direction() == Direction::Forward => left(key, entry),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Whether a connection's target has left it since the sweep before.
    fn has_just_lost_target<A: Address>(&self, key: &FlowKey<A>, entry: &FlowEntry<A>) -> bool {
        let keeps = |target: Option<TargetEntry>| {
            holder(entry, target).is_some_and(|target| target.has(TargetEntry::KEEPS))
        };
        let before = self.before.get(entry.target as usize).copied();
        key.protocol() == flow::TCP
            && entry.state().has(State::CONFIRMED)
            && !entry.state().is_closed()
            && keeps(before)
            && !keeps(self.target(entry))
    }

    /// Who had the id of an entry's target when the sweep was made.
    fn target<A>(&self, entry: &FlowEntry<A>) -> Option<TargetEntry> {
        self.targets.get(entry.target as usize).copied()
    }
}

/// Nudges that are sent until one can't be.
struct Nudges(Option<Nudge>);

impl Nudges {
    fn new<A: Keyed>(key: &FlowKey<A>) -> Self {
        Self(told(Nudge::new(key.endpoints.source.to_ip().is_ipv6())))
    }

    fn send<A: Keyed>(&mut self, key: &FlowKey<A>) {
        let Some(nudge) = &self.0 else { return };
        match nudge.send(key) {
            // As many as the device takes; the others learn it when they send.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // This client can't be reached; others may be.
            Err(error) if is_of_the_way(&error) => {}
            sent => {
                if told(sent).is_none() {
                    self.0 = None;
                }
            }
        }
    }
}

fn is_of_the_way(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), HostUnreachable | NetworkUnreachable)
}

fn told<T>(result: io::Result<T>) -> Option<T> {
    let tell = |error: &io::Error| {
        warn!(%error, "clients whose target is lost, and who only wait, can't be told");
    };
    result.inspect_err(tell).ok()
}

/// A flow table and the targets as they are at this moment.
trait Present<A> {
    fn flow(&self, key: &FlowKey<A>) -> io::Result<Option<FlowEntry<A>>>;
    fn target(&self, id: u32) -> io::Result<Option<TargetEntry>>;
    /// Removes an entry, and tells what it was at that moment.
    fn take(&self, key: &FlowKey<A>) -> io::Result<Option<FlowEntry<A>>>;
    /// Enters what was taken, unless there is another by now.
    fn put_back(&self, key: &FlowKey<A>, entry: &FlowEntry<A>) -> io::Result<()>;
}

struct Kernel<'a> {
    table: BorrowedFd<'a>,
    targets: BorrowedFd<'a>,
}

impl<A> Present<A> for Kernel<'_>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    fn flow(&self, key: &FlowKey<A>) -> io::Result<Option<FlowEntry<A>>> {
        syscall::look_up(self.table, key)
    }

    fn target(&self, id: u32) -> io::Result<Option<TargetEntry>> {
        syscall::look_up(self.targets, &id)
    }

    fn take(&self, key: &FlowKey<A>) -> io::Result<Option<FlowEntry<A>>> {
        syscall::take(self.table, key)
    }

    fn put_back(&self, key: &FlowKey<A>, entry: &FlowEntry<A>) -> io::Result<()> {
        syscall::insert(self.table, key, entry, Existing::Stays)
    }
}

/// Says which flows are over.
struct Judge {
    settings: Settings,
    /// Seconds, when the sweep began.
    now: u32,
}

impl Judge {
    /// As the data path judges, but for connections to be told of: by the
    /// target's generation and by the idle time, of this direction only.
    fn is_over<A: Address>(
        &self,
        protocol: u8,
        entry: &FlowEntry<A>,
        target: Option<TargetEntry>,
    ) -> bool {
        let state = entry.state();
        let connection = protocol == flow::TCP && state.has(State::CONFIRMED) && !state.is_closed();
        let has_target = holder(entry, target).is_some_and(|target| target.has(TargetEntry::KEEPS));
        let timeout = self.settings.timeout(state, protocol);
        let timeout = match (has_target, connection) {
            (false, false) => return true,
            (false, true) => TOLD,
            (true, false) => timeout,
            (true, true) => timeout.saturating_add(TOLD),
        };
        // A packet may have come since `now` was read.
        self.now.saturating_sub(entry.last_seen) > timeout
    }

    /// Removes a flow that seemed to be over, given one of its entries, and
    /// tells how many went; `None` if it goes on. The entry was read together
    /// with thousands of others: a connection may have been opened anew since,
    /// and its target may have come back.
    ///
    /// The reply direction goes last: it is what keeps the source port from
    /// others.
    fn end<A: Address>(
        &self,
        present: &impl Present<A>,
        key: &FlowKey<A>,
        entry: &FlowEntry<A>,
    ) -> io::Result<Option<u64>> {
        let protocol = key.protocol();
        let Some(now) = present.flow(key)? else {
            return Ok(Some(0));
        };
        let target = present.target(entry.target)?;
        if now != *entry || !self.is_over(protocol, entry, target) {
            return Ok(None);
        }
        let peer = peer(present, key, entry)?;
        if peer.is_some_and(|peer| !self.is_over(protocol, &peer, target)) {
            return Ok(None);
        }
        let peer = peer.map(|peer| (entry.peer_key(protocol), peer));
        let mut both = [Some((*key, *entry)), peer];
        if entry.direction() == Direction::Reply {
            both.reverse();
        }
        remove(present, both.into_iter().flatten())
    }
}

/// Removes a flow's entries, each as it was found, and tells how many went. If
/// one has changed since, all are back within a few system calls, and the flow
/// goes on: `None`. To look and then remove would lose it whenever this process
/// has to wait for the CPU in between.
fn remove<A: Address>(
    present: &impl Present<A>,
    entries: impl Iterator<Item = (FlowKey<A>, FlowEntry<A>)>,
) -> io::Result<Option<u64>> {
    let mut removed = Vec::with_capacity(2);
    for (key, found) in entries {
        let Some(taken) = present.take(&key)? else {
            continue;
        };
        removed.push((key, taken));
        if taken != found {
            let back = removed.iter().rev();
            let results: Vec<_> = back.map(|(key, it)| present.put_back(key, it)).collect();
            return results
                .into_iter()
                .collect::<io::Result<()>>()
                .map(|()| None);
        }
    }
    Ok(Some(removed.len() as u64))
}

/// An entry's target, unless its id is somebody else's by now.
pub(super) fn holder<A>(entry: &FlowEntry<A>, target: Option<TargetEntry>) -> Option<TargetEntry> {
    target.filter(|target| target.generation == entry.generation)
}

/// The entry of a flow's other direction. What has its key may be another
/// flow's by now.
fn peer<A: Address>(
    present: &impl Present<A>,
    key: &FlowKey<A>,
    entry: &FlowEntry<A>,
) -> io::Result<Option<FlowEntry<A>>> {
    if entry.is_dsr() {
        return Ok(None);
    }
    let peer = present.flow(&entry.peer_key(key.protocol()))?;
    let whose = |it: &FlowEntry<A>| (it.target, it.generation);
    Ok(peer.filter(|it| it.rewrite == key.endpoints.reversed() && whose(it) == whose(entry)))
}

/// The data path's clock, see [`FlowEntry::last_seen`].
pub(super) fn monotonic_seconds() -> io::Result<u32> {
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

/// What a count should be that was `before` the sweep and is `now`, of a target
/// with so many flows; `None` if it may stay. Flows that came or went meanwhile
/// make a difference that isn't wrong, so a count that moves is left alone
/// unless it is far off.
fn corrected(before: u32, now: u32, flows: u64) -> Option<u32> {
    let flows = u32::try_from(flows).unwrap_or(u32::MAX);
    let tolerated = if now == before { 0 } else { 8 + flows / 16 };
    (flows.abs_diff(now) > tolerated).then_some(flows)
}

#[cfg(test)]
mod tests;
