//! Whether a flow may begin, and where it goes to.

use lb_common::{
    Be16, Ipv4, Ipv6,
    counters::DropReason,
    flow::{Endpoints, FlowKey},
    hash,
    limits::{HALF_OPEN_WEIGHT, NO_TARGET, PORT_ATTEMPTS, SELECT_ATTEMPTS, SPARE_WEIGHT},
    listener::ListenerEntry,
    target::TargetEntry,
    wire::{Address, Wide},
};
use lb_user::{address::Prefix, config::Rule};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    super::packet::{Key, SYN, TCP, View},
    Flow, Model, Refusal, Seen, Window,
};

/// The hashes of a packet's flow, of its source and of its destination port.
fn hashes(hash_key: u64, key: &Key) -> [u64; 3] {
    match (key.source.0, key.destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            hashes_between::<Ipv4>(hash_key, key, source.into(), destination.into())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            hashes_between::<Ipv6>(hash_key, key, source.into(), destination.into())
        }
        _ => unreachable!("a packet's addresses are of one family"),
    }
}

fn hashes_between<A: Address>(hash_key: u64, key: &Key, source: A, destination: A) -> [u64; 3] {
    let endpoints = Endpoints {
        source,
        destination,
        source_port: Be16::new(key.source.1),
        destination_port: Be16::new(key.destination.1),
    };
    let key = FlowKey::new(endpoints, key.protocol);
    [hash::flow, hash::source, hash::destination_port].map(|hash| hash(hash_key, &key))
}

/// An address of a target's, `None` if it has none.
pub fn address(wide: Wide, v6: bool) -> Option<IpAddr> {
    let address: IpAddr = if v6 {
        Ipv6Addr::from(Ipv6::from_words(wide)).into()
    } else {
        let octets = wide[0].to_ne_bytes();
        Ipv4Addr::from(octets).into()
    };
    (!address.is_unspecified()).then_some(address)
}

impl Model {
    /// Counts one more of this second; false beyond `limit`.
    pub(super) fn take(&mut self, window: Window, limit: u32) -> bool {
        let now = self.now;
        let (second, count) = self.windows.entry(window).or_insert((now, 0));
        if *second != now {
            (*second, *count) = (now, 0);
        }
        let may = *count < limit;
        *count += u32::from(may);
        may
    }

    /// The longest prefix decides.
    pub(super) fn check_security(
        &self,
        listener: &ListenerEntry,
        source: IpAddr,
    ) -> Result<(), Refusal> {
        if listener.security_group == 0 {
            return Ok(());
        }
        let rules = &self.agent.security_groups[&listener.security_group.into()];
        let contains = |prefix: &Prefix| Prefix::around(source, prefix.length()) == Some(*prefix);
        let matching = rules.iter().filter(|(prefix, _)| contains(prefix));
        match matching.max_by_key(|(prefix, _)| prefix.length()) {
            Some((_, Rule::Allow)) => Ok(()),
            _ => Err(DropReason::Denied.into()),
        }
    }

    /// The source's limit first, then the listener's.
    pub(super) fn check_limits(
        &mut self,
        listener: &ListenerEntry,
        source: IpAddr,
    ) -> Result<(), Refusal> {
        let limits = self.agent.limits.get(&listener.id).copied();
        let Some(limits) = limits.filter(|_| listener.has(ListenerEntry::LIMITED)) else {
            return Ok(());
        };
        let bits = if source.is_ipv6() {
            limits.prefix_v6
        } else {
            limits.prefix_v4
        };
        let prefix = Prefix::around(source, bits as u8).unwrap().address();
        let of_source = Window::Source(listener.id, prefix);
        if limits.new_flows_per_source != 0 && !self.take(of_source, limits.new_flows_per_source) {
            return Err(DropReason::SourceLimit.into());
        }
        let of_all = Window::Listener(listener.id);
        if limits.new_flows != 0 && !self.take(of_all, limits.new_flows) {
            return Err(DropReason::NewFlowLimit.into());
        }
        Ok(())
    }

    /// Goes through the slots until a target takes the flow.
    pub(super) fn select(
        &mut self,
        listener: &ListenerEntry,
        view: &View,
    ) -> Result<Flow, Refusal> {
        let [of_flow, of_source, of_port] = hashes(self.agent.settings.hash_key, &view.key);
        let hash = if listener.has(ListenerEntry::HASH_SOURCE) {
            of_source
        } else if listener.has(ListenerEntry::HASH_PORT) {
            of_port
        } else {
            of_flow
        };
        let first = hash::slot(hash, listener.table_size);
        let seed = (of_flow & 0xFFFF_FFFF) as u32 / 2;
        let mut failure = DropReason::NoTarget;
        for turn in 0..SELECT_ATTEMPTS {
            let slot = (first + turn * hash::stride(listener.table_size)) % listener.table_size;
            let slots = self.agent.tables.get(&listener.group);
            let id = slots.and_then(|slots| slots.get(slot as usize));
            let Some(&id) = id.filter(|&&id| id != NO_TARGET) else {
                break;
            };
            match self.try_target(u32::from(id), listener, view, seed) {
                Ok(flow) => return Ok(flow),
                Err(Some(reason)) => failure = reason,
                Err(None) => {}
            }
        }
        Err(failure.into())
    }

    /// Begins the flow at a target; `None` if that is to be left without a word.
    fn try_target(
        &mut self,
        id: u32,
        listener: &ListenerEntry,
        view: &View,
        seed: u32,
    ) -> Result<Flow, Option<DropReason>> {
        let target = self.agent.targets.get(&id).copied().unwrap_or_default();
        if !target.has(TargetEntry::ACCEPTS) {
            return Err(None);
        }
        let flows = self.counts.target_flows.get(&id).copied();
        if target.max_flows != 0 && flows.unwrap_or_default() >= target.max_flows {
            return Err(Some(DropReason::TargetLimit));
        }
        let mut flow = Flow {
            to: view.key,
            target: id,
            generation: target.generation,
            last_seen: self.now,
            listener: listener.id as u16,
            seen: Seen::default().after(false, view.flags),
            reply: false,
            local: target.has(TargetEntry::LOCAL),
            dsr: target.has(TargetEntry::DSR),
        };
        if flow.dsr {
            flow.local = false;
            flow.seen = Seen::default().after_one_sided(view.flags);
            (flow.to.source.1, flow.to.destination.1) = ((seed >> 8) as u16, seed as u16);
            self.flows.half_open.insert(view.key, flow);
            return Ok(flow);
        }
        if target.port.get() != 0 {
            flow.to.destination.1 = target.port.get();
        }
        if let Some(address) = address(target.address, view.is_v6()) {
            flow.to.destination.0 = address;
        }
        self.claim_port(view, &target, flow, seed)
    }

    /// Finds a source port whose replies are nobody else's.
    fn claim_port(
        &mut self,
        view: &View,
        target: &TargetEntry,
        mut flow: Flow,
        seed: u32,
    ) -> Result<Flow, Option<DropReason>> {
        let (first, last, failure) = if target.has(TargetEntry::SOURCE_NAT) {
            flow.to.source.0 = address(target.source, view.is_v6()).unwrap();
            let range = (target.first_source_port, target.last_source_port);
            (range.0, range.1.max(range.0), DropReason::PortAllocation)
        } else {
            let own = view.key.source.1;
            (own, own, DropReason::FlowCollision)
        };
        let count = u32::from(last - first) + 1;
        let ports = (0..PORT_ATTEMPTS.min(count)).map(|attempt| {
            let offset = (seed + attempt) % count;
            first + offset as u16
        });
        let resumes = view.key.protocol == TCP && view.flags & SYN == 0;
        // What will do without a free port: one that a closed flow has, or a
        // half-open one where the port is ours to choose. In mid-stream the
        // first that will do is the flow's own, most likely, also if it is free.
        let mut spares = Vec::new();
        for port in ports {
            flow.to.source.1 = port;
            let (key, reply) = flow.peer(view.key);
            let established = self.flows.established.contains_key(&key);
            match self.flows.get_mut(&key) {
                None if resumes => spares.push((port, false)),
                None => {
                    self.flows.half_open.insert(key, reply);
                    self.flows.half_open.insert(view.key, flow);
                    return Ok(flow);
                }
                // The flow's own: its other half is gone.
                Some(holder) if holder.to == reply.to => {
                    *holder = reply;
                    self.flows.half_open.insert(view.key, flow);
                    return Ok(flow);
                }
                Some(holder) if holder.seen.is_closed() => spares.push((port, !resumes)),
                Some(_) if !established && failure == DropReason::PortAllocation => {
                    spares.push((port, false));
                }
                Some(_) => {}
            }
            let weights = spares.iter().map(|(_, closed)| match closed {
                true => 1,
                false => HALF_OPEN_WEIGHT,
            });
            if weights.sum::<u32>() >= SPARE_WEIGHT {
                break;
            }
        }
        let closed = spares.iter().rfind(|(_, closed)| *closed);
        let spare = closed.or(spares.first()).map(|(port, _)| *port);
        let Some(port) = spare else {
            return Err(Some(failure));
        };
        flow.to.source.1 = port;
        let (key, reply) = flow.peer(view.key);
        self.remove(&key);
        self.flows.half_open.insert(key, reply);
        self.flows.half_open.insert(view.key, flow);
        Ok(flow)
    }
}
