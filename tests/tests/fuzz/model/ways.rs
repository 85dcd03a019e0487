//! How a packet leaves: routed on, or back to whom it came from.

use lb_common::{counters::DropReason, settings::InterfaceEntry};

use super::{
    super::{
        packet::{ACK, FIN, ICMP, ICMP6, Part, RST, TCP, View, long, word},
        sums,
        world::{self, Mac, Route, mac},
    },
    Flow, Model, Outcome, Refusal, Verdict, Window,
    rewrite::Draft,
    tunnel::told,
    wrap::{Header, ip_header},
};
use lb_common::limits::ICMP_ERRORS_PER_SECOND;
use std::net::IpAddr;

/// Bytes of a packet that "too big" quotes.
const QUOTED: usize = 512;

/// Where the packet goes and how.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub verdict: Verdict,
    /// The interface, and the neighbour if XDP addresses the frame itself.
    hop: Option<(usize, Mac)>,
}

impl Model {
    pub(super) fn send(
        &mut self,
        interface: usize,
        bytes: &[u8],
        view: &View,
        flow: &Flow,
    ) -> Result<Outcome, Refusal> {
        if flow.local {
            let draft = self.rewritten(bytes, view, flow, 0);
            return Ok(draft.with(Verdict::Pass));
        }
        if view.hop_limit <= 1 {
            return Err(DropReason::TtlExpired.into());
        }
        let ends = (flow.to.source.0, flow.to.destination.0);
        let way = self.way(interface, view, ends, view.ip_length())?;
        let draft = self.rewritten(bytes, view, flow, 1);
        Ok(self.leave(draft, way))
    }

    /// The way of `length` bytes from a source to a destination.
    pub(super) fn way(
        &self,
        interface: usize,
        view: &View,
        (source, destination): (IpAddr, IpAddr),
        length: usize,
    ) -> Result<Way, Refusal> {
        let (out, neighbour) = match world::route(source, destination, length) {
            Route::None => return Err(DropReason::NoRoute.into()),
            Route::TooBig(mtu) => {
                let reason = DropReason::TooBig;
                return Err(Refusal { reason, mtu });
            }
            Route::Hop(out, neighbour) => (out, neighbour),
        };
        let index = self.interfaces[out];
        let handoff = Way {
            verdict: Verdict::Handoff(index, view.tags as u32, None),
            hop: None,
        };
        let Some((neighbour, entry)) = neighbour.zip(self.agent.interfaces.get(&index)) else {
            return Ok(handoff);
        };
        let same = entry.device == self.interfaces[interface];
        let verdict = if usize::from(entry.tag_count) != view.tags {
            return Ok(handoff);
        } else if entry.flags & InterfaceEntry::TRANSMIT != 0 && same {
            Verdict::Transmit
        } else if entry.flags & InterfaceEntry::REDIRECT != 0 {
            Verdict::Redirect
        } else {
            return Ok(handoff);
        };
        Ok(Way {
            verdict,
            hop: Some((out, neighbour)),
        })
    }

    /// Addresses a frame, unless the kernel will.
    pub(super) fn leave(&self, mut draft: Draft, way: Way) -> Outcome {
        if let Some((out, neighbour)) = way.hop {
            let entry = &self.agent.interfaces[&self.interfaces[out]];
            let tags = &entry.tags[..entry.tag_count.into()];
            draft.set_link(neighbour, mac(out as u8 + 1, 1), tags);
        }
        draft.with(way.verdict)
    }

    /// What becomes of a packet that goes nowhere.
    pub(super) fn answer(
        &mut self,
        interface: usize,
        bytes: &[u8],
        view: Option<View>,
        refusal: Refusal,
    ) -> Outcome {
        let reason = refusal.reason;
        self.counts.reason(reason);
        let answer = view.and_then(|view| match reason {
            // Neither a RST is answered nor what has no sequence number.
            DropReason::FlowReset
                if matches!(view.part, Part::Later(_)) || view.flags & RST != 0 =>
            {
                None
            }
            DropReason::FlowReset => Some((reset(bytes, &view), view.tags)),
            DropReason::EchoAnswered => Some((echo_reply(bytes, &view), view.tags)),
            DropReason::TooBig => Some((self.too_big(bytes, &view, refusal.mtu)?, view.tags)),
            _ => None,
        });
        let sent = answer.and_then(|(draft, tags)| self.back(interface, draft, tags));
        sent.unwrap_or_else(|| {
            let verdict = if reason.is_drop() {
                Verdict::Drop
            } else {
                Verdict::Pass
            };
            Outcome::new(verdict, bytes)
        })
    }

    /// Out of the device that the frame came in by, to its sender.
    fn back(&self, interface: usize, mut draft: Draft, tags: usize) -> Option<Outcome> {
        let index = self.interfaces[interface];
        let flags = self.agent.interfaces.get(&index).map_or(0, |e| e.flags);
        let verdict = if flags & InterfaceEntry::TRANSMIT != 0 {
            Verdict::Transmit
        } else if flags & InterfaceEntry::REDIRECT != 0 {
            Verdict::Redirect
        } else if tags == 0 {
            Verdict::Handoff(index, 0, None)
        } else {
            return None;
        };
        let (to, from): (Vec<u8>, Vec<u8>) = (draft.bytes[6..12].into(), draft.bytes[..6].into());
        draft.put(0, &to);
        draft.put(6, &from);
        Some(draft.with(verdict))
    }

    /// "Too big" about a packet, if its sender may be told.
    fn too_big(&mut self, bytes: &[u8], view: &View, mtu: u16) -> Option<Draft> {
        let may_be_told = mtu != 0 && !view.is_icmp() && !matches!(view.part, Part::Later(_));
        if !may_be_told || !self.take(Window::TooBig, ICMP_ERRORS_PER_SECOND) {
            return None;
        }
        let (kind, code, protocol) = if view.is_v6() {
            (2, 0, ICMP6)
        } else {
            (3, 4, ICMP)
        };
        let mut message = vec![kind, code, 0, 0, 0, 0];
        message.extend_from_slice(&told(mtu, view.is_v6()).to_be_bytes());
        message.extend_from_slice(&bytes[view.ip..view.ip + QUOTED]);
        let (from, to) = (view.key.destination.0, view.key.source.0);
        let pseudo = view.is_v6().then_some((from, to, protocol));
        let sum = sums::segment(pseudo, message.len(), &message);
        message[2..4].copy_from_slice(&sums::checksum(sum, 0xFFFF).to_be_bytes());
        Some(answering(bytes, view, protocol, &message))
    }
}

/// An IP packet to the sender of another one, in the same link-layer header.
fn answering(bytes: &[u8], view: &View, protocol: u8, payload: &[u8]) -> Draft {
    let header = Header {
        source: view.key.destination.0,
        destination: view.key.source.0,
        protocol,
        traffic_class: 0,
        hop_limit: 64,
        whole: true,
        identification: 0,
        flow_label: 0,
    };
    let mut answer = bytes[..view.ip].to_vec();
    answer.extend(ip_header(&header, payload.len()));
    answer.extend_from_slice(payload);
    Draft {
        bytes: answer,
        loose: Vec::new(),
    }
}

/// What a host without the connection answers (RFC 9293, section 3.10.7.1).
fn reset(bytes: &[u8], view: &View) -> Draft {
    let at = view.transport;
    let (sequence, acknowledgment, flags) = if view.flags & ACK != 0 {
        (long(bytes, at + 8), 0, RST)
    } else {
        let data = view.end - at - usize::from(bytes[at + 12] >> 4) * 4;
        let length = data as u32 + u32::from(view.flags & FIN != 0);
        (0, long(bytes, at + 4).wrapping_add(length), RST | ACK)
    };
    let mut segment = Vec::new();
    segment.extend(view.key.destination.1.to_be_bytes());
    segment.extend(view.key.source.1.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgment.to_be_bytes());
    segment.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    let pseudo = (view.key.destination.0, view.key.source.0, TCP);
    let sum = sums::segment(Some(pseudo), segment.len(), &segment);
    segment[16..18].copy_from_slice(&sums::checksum(sum, 0xFFFF).to_be_bytes());
    answering(bytes, view, TCP, &segment)
}

fn echo_reply(bytes: &[u8], view: &View) -> Draft {
    let mut draft = Draft::of(bytes);
    draft.bytes[view.transport] = if view.is_v6() { 129 } else { 0 };
    let (source, destination) = (view.key.source.0, view.key.destination.0);
    let length = view.end - view.transport;
    let sum = |from, to, bytes: &[u8]| {
        let protocol = if view.is_v6() { ICMP6 } else { ICMP };
        let pseudo = view.is_v6().then_some((from, to, protocol));
        sums::segment(pseudo, length, &bytes[view.transport..view.end])
    };
    let before = sum(source, destination, bytes);
    draft.mend(view.transport + 2, before, |bytes| {
        sum(destination, source, bytes)
    });
    if word(bytes, view.transport + 2) == 0xFFFF {
        draft.loose.push(view.transport + 2);
    }
    draft.set_header(bytes, view.ip, (destination, source), 64);
    draft
}
