//! What a packet looks like when it leaves: fields are written, and then every
//! checksum is computed from scratch over all that it covers.

use std::net::IpAddr;

use lb_common::settings::VlanTag;

use super::{
    super::{
        packet::{Key, Part, SYN, TCP, UDP, View, word},
        sums,
        world::Mac,
    },
    Flow, Model, Outcome, Verdict,
};

/// A frame that is being changed.
pub struct Draft {
    pub bytes: Vec<u8>,
    pub loose: Vec<usize>,
}

impl Draft {
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            loose: Vec::new(),
        }
    }

    pub fn with(self, verdict: Verdict) -> Outcome {
        Outcome {
            verdict,
            bytes: self.bytes,
            loose: self.loose,
        }
    }

    pub fn set(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    pub fn put(&mut self, at: usize, values: &[u8]) {
        self.bytes[at..at + values.len()].copy_from_slice(values);
    }

    /// Writes the checksum at `at`, where `sum` is of all that it covers: what
    /// was right is right, what was wrong on arrival is as wrong as it was.
    pub fn mend(&mut self, at: usize, before: u16, sum: impl Fn(&[u8]) -> u16) {
        let old = word(&self.bytes, at);
        self.set(at, 0);
        let checksum = sums::checksum(sum(&self.bytes), before);
        self.set(at, checksum);
        if !sums::is_right(before) || old == 0xFFFF {
            self.loose.push(at);
        }
    }

    /// Addresses and hop limit of an IP header, from the packet that `original`
    /// is.
    pub fn set_header(
        &mut self,
        original: &[u8],
        ip: usize,
        (source, destination): (IpAddr, IpAddr),
        hop_limit: u8,
    ) {
        if source.is_ipv6() {
            self.put(ip + 8, &sums::octets(source));
            self.put(ip + 24, &sums::octets(destination));
            self.bytes[ip + 7] = hop_limit;
            return;
        }
        self.put(ip + 12, &sums::octets(source));
        self.put(ip + 16, &sums::octets(destination));
        self.bytes[ip + 8] = hop_limit;
        let end = ip + usize::from(original[ip] & 0x0F) * 4;
        let before = sums::sum(&original[ip..end]);
        self.mend(ip + 10, before, |bytes| sums::sum(&bytes[ip..end]));
    }

    /// Mends a TCP or UDP checksum at `offset` behind `at`; the segment ends at
    /// `end`. UDP has 0 for none, and writes a 0 as 0xFFFF.
    pub fn mend_transport(
        &mut self,
        original: &[u8],
        (at, end): (usize, usize),
        (from, to): (&Key, &Key),
    ) {
        let udp = to.protocol == UDP;
        let field = at + if udp { 6 } else { 16 };
        if field + 2 > end || (udp && word(original, field) == 0) {
            return;
        }
        let mut length = end - at;
        if udp {
            length = length.min(usize::from(word(original, at + 4)).max(8));
        }
        let sum = |key: &Key, bytes: &[u8]| {
            let pseudo = (key.source.0, key.destination.0, key.protocol);
            sums::segment(Some(pseudo), length, &bytes[at..at + length])
        };
        let before = sum(from, original);
        self.mend(field, before, |bytes| sum(to, bytes));
        if udp {
            // It has no 0 for a sum, so there are no two ways to write it.
            self.loose.retain(|&loose| loose != field);
            if word(&self.bytes, field) == 0 {
                self.set(field, 0xFFFF);
            }
        }
    }

    pub fn set_ports(&mut self, at: usize, to: &Key) {
        self.set(at, to.source.1);
        self.set(at + 2, to.destination.1);
    }

    /// The link-layer header: addresses, and tags whose priority stays.
    pub fn set_link(&mut self, destination: Mac, source: Mac, tags: &[VlanTag]) {
        self.put(0, &destination);
        self.put(6, &source);
        for (index, tag) in tags.iter().enumerate() {
            let at = 12 + 4 * index;
            let priority = word(&self.bytes, at + 2) & 0xF000;
            self.set(at, tag.protocol);
            self.set(at + 2, priority | tag.id);
        }
    }

    /// Puts bytes in at `at`, in front of what is there.
    pub fn insert(&mut self, at: usize, new: &[u8]) {
        self.bytes.splice(at..at, new.iter().copied());
        for loose in &mut self.loose {
            *loose += if *loose >= at { new.len() } else { 0 };
        }
    }
}

/// Whether a packet has its transport header.
pub fn has_transport(view: &View) -> bool {
    !matches!(view.part, Part::Later(_))
}

impl Model {
    /// The packet as it leaves with its flow's addresses and ports.
    pub(super) fn rewritten(&self, bytes: &[u8], view: &View, flow: &Flow, hops: u8) -> Draft {
        let mut draft = Draft::of(bytes);
        let to = &flow.to;
        if has_transport(view) {
            self.clamp(&mut draft, view, flow);
            draft.set_ports(view.transport, to);
            draft.mend_transport(bytes, (view.transport, view.end), (&view.key, to));
        }
        let addresses = (to.source.0, to.destination.0);
        draft.set_header(bytes, view.ip, addresses, view.hop_limit - hops);
        draft
    }

    /// A reply that this host sends.
    pub(super) fn restore(&self, bytes: &[u8], view: &View, flow: &Flow) -> Outcome {
        self.rewritten(bytes, view, flow, 0).with(Verdict::Pass)
    }

    /// Lowers the segment size that a SYN offers; true if there was one to lower.
    pub(super) fn clamp(&self, draft: &mut Draft, view: &View, flow: &Flow) -> bool {
        let target = self.agent.targets.get(&flow.target);
        let limit = target.map_or(0, |target| target.max_segment);
        if limit == 0 || view.key.protocol != TCP || view.flags & SYN == 0 {
            return false;
        }
        let end = view.transport + usize::from(draft.bytes[view.transport + 12] >> 4) * 4;
        let Some(at) = max_segment(&draft.bytes, view.transport + 20, end) else {
            return false;
        };
        if word(&draft.bytes, at) <= limit {
            return false;
        }
        draft.set(at, limit);
        true
    }
}

/// Where the maximum segment size stands among the options.
fn max_segment(bytes: &[u8], mut at: usize, end: usize) -> Option<usize> {
    for _ in 0..8 {
        if at + 4 > end {
            return None;
        }
        match (bytes[at], bytes[at + 1]) {
            (0, _) => return None,
            (1, _) => at += 1,
            (2, 4) => return Some(at + 2),
            (_, 0 | 1) => return None,
            (_, length) => at += usize::from(length),
        }
    }
    None
}
