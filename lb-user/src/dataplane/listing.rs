//! Reads the flows, each once, while traffic goes on: a batch of entries at a
//! time, on any thread.

use std::{
    collections::HashSet,
    hash::Hash,
    io,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    os::fd::{AsFd as _, BorrowedFd},
};

use bytemuck::Pod;
use lb_common::{
    Address, Be16, Ipv4, Ipv6,
    flow::{FlowEntry, FlowKey},
    settings::Settings,
    target::TargetEntry,
    tcp::{Direction, State},
};
use serde::{Deserialize, Serialize};

use super::{
    family::Keyed,
    flows::{BATCH, FlowTables, Flows},
    sweep::{holder, monotonic_seconds},
    syscall::Batches,
};

/// A flow as the data path has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// As in an IP header.
    pub protocol: u8,
    pub client: SocketAddr,
    /// Where the client sends to.
    pub destination: SocketAddr,
    /// Who the target gets the packets from: the client, or source NAT.
    pub source: SocketAddr,
    /// Where the target gets them.
    pub target_address: SocketAddr,
    pub listener: u32,
    pub target: u32,
    pub generation: u32,
    pub state: FlowState,
    /// Seconds since the last packet of this direction.
    pub idle: u32,
}

/// How far a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowState {
    /// Only one side has been seen, or the client has yet to answer the target.
    HalfOpen,
    Established,
    /// One side has sent a FIN, or both, or a RST was seen.
    Closing,
    /// It was idle for too long or has lost its target: its entry waits to be
    /// removed, and its next packet is answered with a RST or begins a new flow.
    Ended,
}

impl FlowState {
    pub const ALL: [Self; 4] = [
        Self::HalfOpen,
        Self::Established,
        Self::Closing,
        Self::Ended,
    ];

    /// The word for it, in JSON and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Ended => "ended",
        }
    }
}

/// Handles to all that a flow is told by.
#[derive(Debug)]
pub struct Listing {
    flows: Flows,
    settings: Settings,
    targets: Vec<TargetEntry>,
}

impl Listing {
    pub(super) fn new(flows: Flows, settings: Settings, targets: Vec<TargetEntry>) -> Self {
        Self {
            flows,
            settings,
            targets,
        }
    }

    pub(super) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Hands every flow to `each` until that has enough. Flows that come or go
    /// meanwhile may be missed, none is met twice. A million take about half a
    /// second.
    ///
    /// # Errors
    /// If a table can't be read.
    pub fn read(&self, mut each: impl FnMut(Flow) -> ControlFlow<()>) -> io::Result<()> {
        let now = monotonic_seconds()?;
        if self.family(&self.flows.v4, now, &mut each)?.is_continue() {
            let _ = self.family(&self.flows.v6, now, &mut each)?;
        }
        Ok(())
    }

    /// The half-open ones first, since flows move to the established ones: what
    /// does so meanwhile is met twice rather than never, and told once.
    fn family<A: Keyed + Hash>(
        &self,
        tables: &FlowTables<A>,
        now: u32,
        each: &mut impl FnMut(Flow) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let mut seen = HashSet::new();
        let half_open = table(tables.half_open.as_fd(), |key: &FlowKey<A>, entry| {
            seen.insert(name(key));
            each(self.flow(key, entry, now))
        })?;
        if half_open.is_break() {
            return Ok(half_open);
        }
        table(
            tables.established.as_fd(),
            |key: &FlowKey<A>, entry| match seen.contains(&name(key)) {
                true => ControlFlow::Continue(()),
                false => each(self.flow(key, entry, now)),
            },
        )
    }

    /// What an entry of the client's direction says.
    pub(super) fn flow<A: Keyed>(&self, key: &FlowKey<A>, entry: &FlowEntry<A>, now: u32) -> Flow {
        let target = self.targets.get(entry.target as usize).copied();
        let (sent, mut leaves) = (key.endpoints, entry.rewrite);
        if entry.is_dsr() {
            leaves = sent;
        }
        let mut target_address = socket(leaves.destination, leaves.destination_port);
        if let Some(target) = target.filter(|_| entry.is_dsr()) {
            target_address.set_ip(address(&target));
        }
        let idle = now.saturating_sub(entry.last_seen);
        Flow {
            protocol: key.protocol(),
            client: socket(sent.source, sent.source_port),
            destination: socket(sent.destination, sent.destination_port),
            source: socket(leaves.source, leaves.source_port),
            target_address,
            listener: entry.listener.into(),
            target: entry.target,
            generation: entry.generation,
            state: self.state(key.protocol(), entry, target, idle),
            idle,
        }
    }

    fn state<A: Address>(
        &self,
        protocol: u8,
        entry: &FlowEntry<A>,
        target: Option<TargetEntry>,
        idle: u32,
    ) -> FlowState {
        let state = entry.state();
        let keeps = holder(entry, target).is_some_and(|target| target.has(TargetEntry::KEEPS));
        if !keeps || idle > self.settings.timeout(state, protocol) {
            FlowState::Ended
        } else if state.is_closing() {
            FlowState::Closing
        } else if state.has(State::CONFIRMED) {
            FlowState::Established
        } else {
            FlowState::HalfOpen
        }
    }
}

/// Goes through one table's entries of the client's direction, one a flow.
fn table<A: Keyed>(
    table: BorrowedFd<'_>,
    mut each: impl FnMut(&FlowKey<A>, &FlowEntry<A>) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>>
where
    FlowKey<A>: Pod,
    FlowEntry<A>: Pod,
{
    let mut batches: Batches<'_, FlowKey<A>, FlowEntry<A>> = Batches::new(table, BATCH);
    while let Some((keys, values)) = batches.next()? {
        for (key, entry) in keys.iter().zip(values) {
            if entry.direction() == Direction::Forward && each(key, entry).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// A key in a form that can be hashed.
fn name<A: Keyed>(key: &FlowKey<A>) -> (A, A, u16, u16, u32) {
    let it = key.endpoints;
    (
        it.source,
        it.destination,
        it.source_port.raw(),
        it.destination_port.raw(),
        key.protocol,
    )
}

fn socket<A: Keyed>(address: A, port: Be16) -> SocketAddr {
    SocketAddr::new(address.to_ip(), port.get())
}

fn address(target: &TargetEntry) -> IpAddr {
    match target.has(TargetEntry::IPV6) {
        true => Ipv6::from_wide(target.address).to_ip(),
        false => Ipv4::from_wide(target.address).to_ip(),
    }
}
