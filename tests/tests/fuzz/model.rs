//! The data path once more, as ARCHITECTURE.md and README.md describe it, for
//! one packet at a time and without any of the kernel programs' code: every
//! packet is read anew, every checksum computed from scratch.

mod flows;
mod icmp;
mod rewrite;
mod select;
mod tunnel;
mod ways;
mod wrap;

use std::collections::{BTreeMap, HashMap};

use lb_common::{
    counters::DropReason,
    listener::{ListenerEntry, VipEntry},
};
use lb_user::reconcile::{MapState, Place, PlacePorts};
use std::net::IpAddr;

pub use flows::{Flow, Flows, Seen};

use super::packet::{self, Part, View};

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed to the kernel, or to what comes after on egress.
    Pass,
    /// Passed with a note: out of this interface, tags to take off, and the
    /// neighbour where the packet's destination doesn't say it.
    Handoff(u32, u32, Option<IpAddr>),
    Drop,
    Transmit,
    Redirect,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// Of no interest where the frame is dropped.
    pub bytes: Vec<u8>,
    /// Checksums that were wrong on arrival: 0 and 0xFFFF are the same there.
    pub loose: Vec<usize>,
}

impl Outcome {
    fn new(verdict: Verdict, bytes: &[u8]) -> Self {
        Self {
            verdict,
            bytes: bytes.to_vec(),
            loose: Vec::new(),
        }
    }
}

/// Where a frame is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP on `eth{n}`.
    In(usize),
    /// tc egress.
    Out,
}

/// Packets and bytes from clients and from targets, and new flows.
pub type Traffic = [u64; 5];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub reasons: BTreeMap<&'static str, u64>,
    pub listeners: BTreeMap<u32, Traffic>,
    pub targets: BTreeMap<u32, Traffic>,
    /// Established flows.
    pub target_flows: BTreeMap<u32, u32>,
}

impl Counts {
    fn reason(&mut self, reason: DropReason) {
        *self.reasons.entry(reason.name()).or_default() += 1;
    }

    fn traffic(&mut self, flow: &Flow, change: impl Fn(&mut Traffic)) {
        change(self.listeners.entry(flow.listener.into()).or_default());
        change(self.targets.entry(flow.target).or_default());
    }
}

/// Why a packet wasn't sent on; what fits, if that is known.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    reason: DropReason,
    mtu: u16,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, mtu: 0 }
    }
}

/// (source, destination, identification) of a datagram, IPv4's protocol, and
/// whether it is met where it goes out.
type Datagram = (IpAddr, IpAddr, u32, Option<u8>, bool);

#[derive(Default)]
pub struct Model {
    /// What the agent has written.
    pub agent: MapState,
    /// Indices of `eth{n}`.
    pub interfaces: [u32; 3],
    pub flows: Flows,
    pub counts: Counts,
    /// Seconds.
    pub now: u32,
    /// A first fragment's ports and protocol, unless it wasn't ours.
    fragments: HashMap<Datagram, Option<(u16, u16, u8)>>,
    windows: HashMap<Window, (u32, u32)>,
}

/// What is counted by seconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Window {
    Listener(u32),
    Source(u32, IpAddr),
    TooBig,
}

impl Model {
    /// The same host with the same configuration and no past.
    pub fn new(interfaces: [u32; 3]) -> Self {
        Self {
            interfaces,
            ..Self::default()
        }
    }

    /// The agent has written something else.
    pub fn configure(&mut self, agent: &MapState) {
        for (id, entry) in &self.agent.targets {
            // An id that is given away begins to count anew.
            let is_same = |new: &_| generation(new) == entry.generation;
            if !agent.targets.get(id).is_some_and(is_same) {
                self.counts.targets.remove(id);
                self.counts.target_flows.remove(id);
            }
        }
        self.agent = agent.clone();
    }

    pub fn run(&mut self, hook: Hook, bytes: &[u8]) -> Outcome {
        match hook {
            Hook::Out => self.egress(bytes),
            Hook::In(interface) => match self.ingress(interface, bytes) {
                Ok(outcome) => outcome,
                Err((refusal, view)) => self.answer(interface, bytes, view, refusal),
            },
        }
    }

    fn ingress(
        &mut self,
        interface: usize,
        bytes: &[u8],
    ) -> Result<Outcome, (Refusal, Option<View>)> {
        let view = self
            .parse(bytes, false)
            .map_err(|reason| (reason.into(), None))?;
        let result = if view.is_icmp() {
            self.icmp(interface, bytes, &view)
        } else {
            self.forward(interface, bytes, &view)
        };
        result.map_err(|refusal| (refusal, Some(view)))
    }

    /// Reads a frame; later fragments have their first one's ports.
    fn parse(&mut self, bytes: &[u8], egress: bool) -> Result<View, DropReason> {
        let mut view = packet::network(bytes)?;
        let read = packet::transport(bytes, &mut view);
        let Some(datagram) = datagram(&view, egress) else {
            return read.map(|()| view);
        };
        if let Part::First(_) = view.part {
            self.fragments.remove(&datagram);
            if (read.is_err() || view.is_icmp()) && !egress {
                self.pass(&view);
            }
            return read.map(|()| view);
        }
        let is_to_own = !egress && !view.is_icmp() && self.owns(view.key.destination.0);
        let key = &mut view.key;
        match self.fragments.get(&datagram) {
            Some(&Some(first)) => (key.source.1, key.destination.1, key.protocol) = first,
            None if is_to_own => return Err(DropReason::FragmentOrder),
            Some(None) | None => return Err(DropReason::Fragment),
        }
        Ok(view)
    }

    /// A first fragment that comes in isn't ours, and so are those that follow.
    fn pass(&mut self, view: &View) {
        if let (Part::First(_), Some(datagram)) = (view.part, datagram(view, false))
            && self.owns(view.key.destination.0)
        {
            self.fragments.insert(datagram, None);
        }
    }

    /// Whether only xlb has the address.
    fn owns(&self, address: IpAddr) -> bool {
        let vip = self.agent.vips.get(&address);
        vip.is_some_and(|vip| vip.has(VipEntry::OWNED))
    }

    fn forward(&mut self, interface: usize, bytes: &[u8], view: &View) -> Result<Outcome, Refusal> {
        let flow = match self.find_flow(view, false)? {
            Some(flow) => flow,
            None => self.begin(bytes, view)?,
        };
        self.account(view, false, &flow, view.ip_length());
        if flow.dsr {
            self.wrap(interface, bytes, view, &flow)
        } else {
            self.send(interface, bytes, view, &flow)
        }
    }

    fn account(&mut self, view: &View, egress: bool, flow: &Flow, length: usize) {
        if let (Part::First(_), Some(datagram)) = (view.part, datagram(view, egress)) {
            let key = &view.key;
            let first = (key.source.1, key.destination.1, key.protocol);
            self.fragments.insert(datagram, Some(first));
        }
        let first = if flow.reply { 2 } else { 0 };
        self.counts.traffic(flow, |traffic| {
            traffic[first] += 1;
            traffic[first + 1] += length as u64;
        });
    }

    /// A flow begins, if it may.
    fn begin(&mut self, bytes: &[u8], view: &View) -> Result<Flow, Refusal> {
        let listener = self.listener(view);
        let Some(listener) = listener.filter(|_| self.is_to_this_host(bytes)) else {
            self.pass(view);
            return Err(DropReason::NotOurs.into());
        };
        self.check_security(&listener, view.key.source.0)?;
        self.check_limits(&listener, view.key.source.0)?;
        let flow = self.select(&listener, view)?;
        self.counts.traffic(&flow, |traffic| traffic[4] += 1);
        Ok(flow)
    }

    fn is_to_this_host(&self, bytes: &[u8]) -> bool {
        let mut mac = [0; 8];
        mac[..6].copy_from_slice(&bytes[..6]);
        self.agent.macs.contains(&u64::from_ne_bytes(mac))
    }

    /// The listener for a packet: a single port's before a range's.
    fn listener(&self, view: &View) -> Option<ListenerEntry> {
        let (address, port) = view.key.destination;
        let one = Place::port(address, port, view.key.protocol);
        if let Some(entry) = self.agent.listeners.get(&one) {
            return Some(*entry);
        }
        let vip = self.agent.vips.get(&address)?;
        let in_block = |place: &Place| match place.ports {
            PlacePorts::Block(block) if vip.has(VipEntry::RANGES) => {
                (u32::from(port) ^ u32::from(block.first)) >> block.open_bits == 0
            }
            _ => false,
        };
        let here = |place: &Place| {
            place.address == address && place.protocol == view.key.protocol && in_block(place)
        };
        let all = self.agent.listeners.iter();
        let found = all.filter(|(place, _)| here(place));
        // The smallest block is the closest one.
        let size = |place: &Place| match place.ports {
            PlacePorts::Block(block) => block.open_bits,
            PlacePorts::One(_) => 0,
        };
        let closest = found.min_by_key(|(place, _)| size(place));
        closest.map(|(_, entry)| *entry)
    }

    /// What this host sends.
    fn egress(&mut self, bytes: &[u8]) -> Outcome {
        match self.reply(bytes) {
            Ok(outcome) => outcome,
            Err(reason) if reason.is_drop() => {
                self.counts.reason(reason);
                Outcome::new(Verdict::Drop, bytes)
            }
            Err(_) => Outcome::new(Verdict::Pass, bytes),
        }
    }

    fn reply(&mut self, bytes: &[u8]) -> Result<Outcome, DropReason> {
        let view = self.parse(bytes, true)?;
        if view.is_icmp() {
            return self.icmp_out(bytes, &view);
        }
        let flow = self.find_flow(&view, true)?.ok_or(DropReason::NotOurs)?;
        // What the device sends, padding too.
        self.account(&view, true, &flow, bytes.len() - view.ip);
        Ok(self.restore(bytes, &view, &flow))
    }
}

/// The datagram that a fragment is of.
fn datagram(view: &View, egress: bool) -> Option<Datagram> {
    let id = match view.part {
        Part::Whole => return None,
        Part::First(id) | Part::Later(id) => id,
    };
    let key = &view.key;
    let protocol = (!view.is_v6()).then_some(key.protocol);
    Some((key.source.0, key.destination.0, id, protocol, egress))
}

fn generation(target: &lb_common::target::TargetEntry) -> u32 {
    target.generation
}
