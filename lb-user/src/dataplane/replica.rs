//! A replica of the data path, to run a packet through without a trace: the
//! same programs, loaded once more. What only the agent writes they share with
//! the real ones; what the data path writes is a copy, as far as the packet can
//! depend on it.

mod copies;
mod load;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use bytemuck::Pod;
use lb_common::{
    Be16, Ipv4, Ipv6,
    counters::{DropReason, Traffic},
    flow::{Endpoints, FlowEntry, FlowKey},
    listener::SourceRateKey,
    note::Note,
    tcp::Direction,
};

use self::copies::{Copies, InFamily, of_both};
use super::{
    INGRESS,
    error::{LoadError, MapError},
    family::Keyed,
    flows::Flows,
    listing::{Flow, Listing},
    maps::{count, sum},
    originals::Originals,
    program,
    sweep::monotonic_seconds,
    syscall,
};

/// How often a packet is run at most: once more for each port that its search
/// may find taken.
const RUNS: usize = 512;
/// Bytes that an answer or an outer header may add to a frame.
const GROWTH: usize = 1_024;

/// Counters that a new flow depends on.
#[derive(Debug)]
struct Rates {
    listeners: OwnedFd,
    sources: OwnedFd,
    target_flows: OwnedFd,
}

/// What a replica is made from: handles that work on any thread.
#[derive(Debug)]
pub struct Model {
    originals: Originals,
    rates: Rates,
    listing: Listing,
}

/// The replica, ready to run packets.
pub struct Replica {
    ebpf: Ebpf,
    flows: Flows,
    rates: Rates,
    drops: PerCpuArray<MapData, u64>,
    listener_traffic: PerCpuArray<MapData, Traffic>,
    model: Model,
}

/// A packet of TCP or UDP as it would come in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// As in its IP header, and so both ends, which are of one family.
    pub protocol: u8,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub frame: &'a [u8],
    /// Index of the interface.
    pub interface: u32,
    /// The id of its listener, and where new flows of its source are counted.
    pub listener: Option<u32>,
    pub source_rate: Option<SourceRateKey>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub action: Action,
    /// What it was counted as.
    pub reasons: Vec<DropReason>,
    /// The frame as it leaves.
    pub frame: Vec<u8>,
    /// Its flow, and whether it has begun that.
    pub flow: Option<Flow>,
    pub began: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To this host.
    Pass,
    Drop,
    /// Out of the device that it came in by.
    Transmit,
    /// Out of another one.
    Redirect,
    /// Out of this interface, by the kernel, which takes off so many VLAN tags.
    Handoff {
        interface: u32,
        tags: u32,
    },
}

/// Why there is no replica, or no packet was run.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("a map of the replica can't be read or written")]
    Io(#[from] io::Error),
    #[error("the kernel doesn't run the packet")]
    Run(#[source] io::Error),
    #[error("{0} and {1} are of different address families")]
    Families(SocketAddr, SocketAddr),
    #[error("the program ended with {0}, which is no action of XDP")]
    Action(u32),
}

impl Replica {
    /// Whether the real flow tables have an entry of a packet with these ends.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn knows(
        &self,
        protocol: u8,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<bool, ReplicaError> {
        let ports = (source.port(), destination.port());
        let known = match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let key = key(protocol, Ipv4::from(source), Ipv4::from(destination), ports);
                self.copy_flow(&key, &mut Vec::new())?
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let key = key(protocol, Ipv6::from(source), Ipv6::from(destination), ports);
                self.copy_flow(&key, &mut Vec::new())?
            }
            _ => return Err(ReplicaError::Families(source, destination)),
        };
        Ok(known)
    }

    /// Runs a packet. A search for a source port takes what other flows have
    /// into account: whenever it finds a port free in the replica that isn't so
    /// in truth, that flow is copied too and the packet run again.
    ///
    /// # Errors
    /// If a map can't be read or written, or the kernel doesn't run the packet.
    pub fn run(&mut self, packet: &Arrival<'_>) -> Result<Outcome, ReplicaError> {
        match (packet.source.ip(), packet.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.run_in(packet, Ipv4::from(source), Ipv4::from(destination))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.run_in(packet, Ipv6::from(source), Ipv6::from(destination))
            }
            _ => Err(ReplicaError::Families(packet.source, packet.destination)),
        }
    }

    fn run_in<A: InFamily>(
        &mut self,
        packet: &Arrival<'_>,
        source: A,
        destination: A,
    ) -> Result<Outcome, ReplicaError>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let ports = (packet.source.port(), packet.destination.port());
        let flow = key(packet.protocol, source, destination, ports);
        self.copy_target_flows()?;
        let mut copies = Vec::new();
        self.copy_flow(&flow, &mut copies)?;
        for _ in 1..RUNS {
            let outcome = self.try_run(packet, &flow, &copies)?;
            let Some(entry) = self.entry(&flow)?.filter(|_| outcome.began) else {
                return Ok(outcome);
            };
            let claimed = entry.peer_key(packet.protocol);
            let is_known = copies.iter().any(|(_, key, _)| *key == claimed);
            if entry.is_dsr() || is_known || !self.copy_flow(&claimed, &mut copies)? {
                return Ok(outcome);
            }
        }
        self.try_run(packet, &flow, &copies)
    }

    fn try_run<A: InFamily>(
        &mut self,
        packet: &Arrival<'_>,
        flow: &FlowKey<A>,
        copies: &Copies<A>,
    ) -> Result<Outcome, ReplicaError>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        self.fill(copies)?;
        self.copy_rates(packet)?;
        let (drops, flows) = (self.counted()?, self.new_flows(packet.listener)?);
        let (action, frame) = self.test_run(packet.frame, packet.interface)?;
        let now = self.counted()?;
        let moved = drops.iter().zip(&now).filter(|(before, now)| before != now);
        Ok(Outcome {
            action,
            reasons: moved.map(|(_, (reason, _))| *reason).collect(),
            frame,
            flow: self.flow(flow)?,
            began: self.new_flows(packet.listener)? > flows,
        })
    }

    fn test_run(
        &mut self,
        frame: &[u8],
        interface: u32,
    ) -> Result<(Action, Vec<u8>), ReplicaError> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, queue, egress.
        let context: [u32; 6] = [0, frame.len() as u32, 0, interface, 0, 0];
        let mut after = [0u32; 6];
        let mut output = vec![0; frame.len() + GROWTH];
        let ingress: &mut Xdp = program(&mut self.ebpf, INGRESS)?;
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: Some(bytemuck::cast_slice(&context)),
            ctx_out: Some(bytemuck::cast_slice_mut(&mut after)),
            ..TestRunOptions::default()
        };
        let result = ingress.test_run(options).map_err(|error| {
            let errno = super::error::errno(&error).unwrap_or(libc::EIO);
            ReplicaError::Run(io::Error::from_raw_os_error(errno))
        })?;
        output.truncate(result.data_size_out as usize);
        // What lies in front of the frame is at the head of the output.
        let metadata: Vec<u8> = output.drain(..after[0] as usize).collect();
        Ok((action(result.return_value, &metadata)?, output))
    }

    fn counted(&self) -> Result<Vec<(DropReason, u64)>, MapError> {
        count(&self.drops)
    }

    fn new_flows(&self, listener: Option<u32>) -> Result<u64, MapError> {
        let sum = |id| sum("LISTENER_TRAFFIC", &self.listener_traffic, id);
        Ok(listener.map(sum).transpose()?.map_or(0, |it| it.new_flows))
    }

    /// The packet's flow as it is in the replica.
    fn flow<A: InFamily>(&self, key: &FlowKey<A>) -> io::Result<Option<Flow>>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let Some(entry) = self.entry(key)? else {
            return Ok(None);
        };
        let (key, entry) = match entry.direction() {
            Direction::Forward => (*key, entry),
            Direction::Reply => entry.peer(key),
        };
        let now = monotonic_seconds()?;
        Ok(Some(self.model.listing.flow(&key, &entry, now)))
    }

    fn entry<A: InFamily>(&self, key: &FlowKey<A>) -> io::Result<Option<FlowEntry<A>>>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        for (_, map) in of_both(A::tables(&self.flows)) {
            if let Some(entry) = syscall::look_up(map, key)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

fn key<A: Keyed>(protocol: u8, source: A, destination: A, ports: (u16, u16)) -> FlowKey<A> {
    let endpoints = Endpoints {
        source,
        destination,
        source_port: Be16::new(ports.0),
        destination_port: Be16::new(ports.1),
    };
    FlowKey::new(endpoints, protocol)
}

fn action(code: u32, metadata: &[u8]) -> Result<Action, ReplicaError> {
    Ok(match (code, Note::of(metadata)) {
        (1, _) => Action::Drop,
        (2, None) => Action::Pass,
        (2, Some(note)) => Action::Handoff {
            interface: note.interface,
            tags: note.tags,
        },
        (3, _) => Action::Transmit,
        (4, _) => Action::Redirect,
        (other, _) => return Err(ReplicaError::Action(other)),
    })
}
