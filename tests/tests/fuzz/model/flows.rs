//! The flow table, both directions, and what a packet does to its flow.

use std::collections::HashMap;

use lb_common::{counters::DropReason, target::TargetEntry};

use super::{
    super::packet::{ACK, FIN, Key, RST, SYN, TCP, View},
    Model,
};

/// What has been seen of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub replied: bool,
    pub confirmed: bool,
    pub client_fin: bool,
    pub target_fin: bool,
    pub reset: bool,
}

impl Seen {
    /// After a packet with these TCP flags (0 for UDP). A reset is believed
    /// until the connection goes on.
    pub fn after(mut self, from_target: bool, flags: u8) -> Self {
        if flags & RST != 0 {
            self.reset = true;
            return self;
        }
        self.reset = false;
        let fin = flags & FIN != 0;
        if from_target {
            self.replied = true;
            self.target_fin |= fin;
        } else {
            self.confirmed |= self.replied && flags & SYN == 0;
            self.client_fin |= fin;
        }
        self
    }

    /// Where replies go past this host: two packets behind the SYN confirm.
    pub fn after_one_sided(mut self, flags: u8) -> Self {
        if flags & RST != 0 {
            self.reset = true;
            return self;
        }
        self.reset = false;
        if flags & SYN == 0 {
            self.confirmed |= self.replied;
            self.replied = true;
        }
        if flags & FIN != 0 {
            (self.client_fin, self.target_fin) = (true, true);
        }
        self
    }

    pub fn is_closed(self) -> bool {
        self.reset || (self.client_fin && self.target_fin)
    }

    fn is_closing(self) -> bool {
        self.reset || self.client_fin || self.target_fin
    }
}

/// What happens to the packets of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What packets leave with. In `dsr` only the ports count: the hash's bits.
    pub to: Key,
    pub target: u32,
    pub generation: u32,
    pub last_seen: u32,
    pub listener: u16,
    pub seen: Seen,
    pub reply: bool,
    pub local: bool,
    pub dsr: bool,
}

impl Flow {
    /// The other direction's key and value.
    pub fn peer(&self, key: Key) -> (Key, Self) {
        let peer = Self {
            to: key.reversed(),
            reply: !self.reply,
            ..*self
        };
        (self.to.reversed(), peer)
    }
}

/// Both tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    pub established: HashMap<Key, Flow>,
    pub half_open: HashMap<Key, Flow>,
}

impl Flows {
    pub fn get(&self, key: &Key) -> Option<&Flow> {
        self.established.get(key).or(self.half_open.get(key))
    }

    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Flow> {
        match self.established.get_mut(key) {
            Some(flow) => Some(flow),
            None => self.half_open.get_mut(key),
        }
    }

    /// The key of the other direction, if that leads back.
    fn peer_key(&self, key: &Key, flow: &Flow) -> Option<Key> {
        let peer_key = flow.to.reversed();
        let leads_back = |peer: &Flow| peer.to == key.reversed();
        (!flow.dsr && self.get(&peer_key).is_some_and(leads_back)).then_some(peer_key)
    }

    /// Time passes with nothing else happening.
    pub fn age(&mut self, seconds: u32) {
        let all = self.established.values_mut();
        for flow in all.chain(self.half_open.values_mut()) {
            flow.last_seen = flow.last_seen.wrapping_sub(seconds);
        }
    }
}

impl Model {
    /// The flow that a packet belongs to, refreshed.
    pub(super) fn find_flow(
        &mut self,
        view: &View,
        egress: bool,
    ) -> Result<Option<Flow>, DropReason> {
        let Some(&flow) = self.flows.get(&view.key) else {
            return Ok(None);
        };
        if !is_met(&flow, egress) {
            return Ok(None);
        }
        let opens = view.flags & (SYN | ACK | RST | FIN) == SYN;
        let begins = opens && !flow.reply && flow.seen.is_closing();
        if begins || !self.has_target(&flow) || self.is_idle(&view.key, &flow) {
            // Whoever goes on with a TCP flow is told; a SYN begins another.
            if view.key.protocol == TCP && !flow.seen.is_closed() && !opens {
                return Err(DropReason::FlowReset);
            }
            self.remove(&view.key);
            return Ok(None);
        }
        Ok(Some(self.refresh(view)))
    }

    /// The flow with a key, as it is.
    pub(super) fn peek(&self, key: &Key, egress: bool) -> Option<Flow> {
        let flow = self.flows.get(key)?;
        (is_met(flow, egress) && self.has_target(flow)).then_some(*flow)
    }

    fn has_target(&self, flow: &Flow) -> bool {
        let target = self.agent.targets.get(&flow.target);
        target.is_some_and(|target| {
            target.generation == flow.generation && target.has(TargetEntry::KEEPS)
        })
    }

    /// Both directions must be.
    fn is_idle(&self, key: &Key, flow: &Flow) -> bool {
        let settings = &self.agent.settings;
        let tcp = key.protocol == TCP;
        let timeout = match flow.seen {
            _ if !tcp => settings.udp_timeout,
            seen if seen.is_closed() => settings.closing_timeout,
            seen if !seen.confirmed => settings.half_open_timeout,
            _ => settings.established_timeout,
        };
        let is_past = |flow: &Flow| {
            let idle = i64::from(self.now) - i64::from(flow.last_seen);
            idle > i64::from(timeout)
        };
        let peer = self.flows.peer_key(key, flow);
        is_past(flow) && peer.is_none_or(|peer| is_past(self.flows.get(&peer).unwrap()))
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(&flow) = self.flows.get(key) else {
            return;
        };
        let peer = self.flows.peer_key(key, &flow);
        // What is over with its id's former holder counts for nobody.
        let target = self.agent.targets.get(&flow.target);
        let is_current = target.is_some_and(|target| target.generation == flow.generation);
        if self.flows.established.remove(key).is_some() && is_current {
            self.count_established(flow.target, false);
        }
        self.flows.half_open.remove(key);
        if let Some(peer) = peer {
            self.flows.established.remove(&peer);
            self.flows.half_open.remove(&peer);
        }
    }

    fn count_established(&mut self, target: u32, more: bool) {
        let count = self.counts.target_flows.entry(target).or_default();
        *count = if more {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
    }

    fn refresh(&mut self, view: &View) -> Flow {
        let (key, now) = (view.key, self.now);
        let flow = self.flows.get_mut(&key).unwrap();
        flow.last_seen = now;
        let before = flow.seen;
        let after = if flow.dsr {
            before.after_one_sided(view.flags)
        } else {
            before.after(flow.reply, view.flags)
        };
        flow.seen = after;
        let flow = *flow;
        // Both directions say the same.
        if after != before
            && let Some(peer) = self.flows.peer_key(&key, &flow)
        {
            self.flows.get_mut(&peer).unwrap().seen = after;
        }
        if after.confirmed && !self.flows.established.contains_key(&key) {
            self.promote(&key, &flow);
        }
        flow
    }

    /// Both directions become established.
    fn promote(&mut self, key: &Key, flow: &Flow) {
        self.count_established(flow.target, true);
        self.flows.half_open.remove(key);
        self.flows.established.insert(*key, *flow);
        if !flow.dsr {
            let (peer_key, peer) = flow.peer(*key);
            self.flows.half_open.remove(&peer_key);
            self.flows.established.insert(peer_key, peer);
        }
    }
}

/// A reply of this host's own can't come in, and what goes out is a reply.
fn is_met(flow: &Flow, egress: bool) -> bool {
    if egress {
        flow.reply
    } else {
        !(flow.reply && flow.local)
    }
}
