//! What a replica copies of what the data path writes.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use bytemuck::Pod;
use lb_common::{
    Ipv4, Ipv6,
    flow::{FlowEntry, FlowKey},
    listener::Window,
};

use super::{Arrival, Replica};
use crate::dataplane::{
    family::Keyed,
    flows::{FlowTables, Flows},
    syscall::{self, Batches},
};

/// Entries of a flow that the replica has a copy of, and in which table.
pub(super) type Copies<A> = Vec<(Table, FlowKey<A>, FlowEntry<A>)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Established,
    HalfOpen,
}

/// The flow tables of a packet's family.
pub(super) trait InFamily: Keyed {
    fn tables(flows: &Flows) -> &FlowTables<Self>;
}

impl InFamily for Ipv4 {
    fn tables(flows: &Flows) -> &FlowTables<Self> {
        &flows.v4
    }
}

impl InFamily for Ipv6 {
    fn tables(flows: &Flows) -> &FlowTables<Self> {
        &flows.v6
    }
}

impl Replica {
    /// Copies the entries with this key, and their peers; false if the real
    /// tables have none.
    pub(super) fn copy_flow<A: InFamily>(
        &self,
        key: &FlowKey<A>,
        copies: &mut Copies<A>,
    ) -> io::Result<bool>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        let real = A::tables(self.model.listing.flows());
        let mut found = false;
        for (table, map) in of_both(real) {
            let Some(entry) = syscall::look_up::<_, FlowEntry<A>>(map, key)? else {
                continue;
            };
            found = true;
            copies.push((table, *key, entry));
            let peer_key = entry.peer_key(key.protocol());
            for (table, map) in of_both(real) {
                let peer = syscall::look_up(map, &peer_key)?;
                copies.extend(peer.map(|peer| (table, peer_key, peer)));
            }
        }
        Ok(found)
    }

    /// Brings the flow tables to what was copied, and nothing else.
    pub(super) fn fill<A: InFamily>(&self, copies: &Copies<A>) -> io::Result<()>
    where
        FlowKey<A>: Pod,
        FlowEntry<A>: Pod,
    {
        for (table, map) in of_both(A::tables(&self.flows)) {
            let mut stale = Vec::new();
            let mut batches: Batches<'_, FlowKey<A>, FlowEntry<A>> = Batches::new(map, 64);
            while let Some((keys, _)) = batches.next()? {
                stale.extend_from_slice(keys);
            }
            for key in stale {
                syscall::delete(map, &key)?;
            }
            for (_, key, entry) in copies.iter().filter(|(of, ..)| *of == table) {
                syscall::update(map, key, entry)?;
            }
        }
        Ok(())
    }

    /// Copies what the packet's listener and its source have begun this second.
    pub(super) fn copy_rates(&self, packet: &Arrival<'_>) -> io::Result<()> {
        let real = &self.model.rates;
        if let Some(id) = packet.listener
            && let Some(window) = syscall::look_up::<_, Window>(real.listeners.as_fd(), &id)?
        {
            syscall::update(self.rates.listeners.as_fd(), &id, &window)?;
        }
        let Some(key) = packet.source_rate else {
            return Ok(());
        };
        match syscall::look_up::<_, Window>(real.sources.as_fd(), &key)? {
            Some(window) => syscall::update(self.rates.sources.as_fd(), &key, &window),
            None => syscall::delete(self.rates.sources.as_fd(), &key).map(drop),
        }
    }

    /// Copies the number of every target's established flows.
    pub(super) fn copy_target_flows(&self) -> io::Result<()> {
        let real = self.model.rates.target_flows.as_fd();
        copy_array(real, self.rates.target_flows.as_fd())
    }
}

pub(super) fn of_both<A>(tables: &FlowTables<A>) -> [(Table, BorrowedFd<'_>); 2] {
    [
        (Table::Established, tables.established.as_fd()),
        (Table::HalfOpen, tables.half_open.as_fd()),
    ]
}

fn copy_array(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut batches: Batches<'_, u32, u32> = Batches::new(from, 4_096);
    while let Some((indices, values)) = batches.next()? {
        syscall::update_all(to, indices, values)?;
    }
    Ok(())
}
