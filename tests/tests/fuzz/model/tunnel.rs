//! ICMP errors about packets that the balancer made: what is inside them has a
//! sender, who is told.

use lb_common::{
    counters::DropReason,
    target::{Encapsulation, TargetEntry},
};

use super::{
    super::{
        packet::{self, ICMP, ICMP6, TCP, UDP, View, quoted_at, word},
        sums,
    },
    Model, Outcome, Refusal,
    rewrite::Draft,
    select::address,
    wrap::{Header, LEAST_MTU_V6, ip_header},
};

/// The most of a packet that is quoted again.
const QUOTED: usize = 128;

/// What an error says of a packet in another one.
struct Report {
    encapsulation: Encapsulation,
    /// UDP's destination port.
    port: Option<u16>,
    outer: View,
    inside: View,
    /// Where what is inside begins.
    overhead: usize,
}

impl Model {
    pub(super) fn report(
        &mut self,
        interface: usize,
        bytes: &[u8],
        view: &View,
        (kind, code): (u8, u8),
    ) -> Result<Outcome, Refusal> {
        let lost: &[u8] = if view.is_v6() {
            &[1, 2, 3, 4]
        } else {
            &[3, 11, 12]
        };
        let report =
            read(bytes, view).filter(|report| lost.contains(&kind) && self.is_of_its_flow(report));
        let report = report.ok_or(DropReason::NotOurs)?;
        let too_big = (kind, code) == if view.is_v6() { (2, 0) } else { (3, 4) };
        let mtu = match too_big {
            true => word(bytes, view.transport + 6)
                .checked_sub(report.overhead as u16)
                .filter(|left| *left > 0),
            false => Some(0),
        };
        let mtu = mtu.ok_or(DropReason::NotOurs)?;
        let (ip, payload) = message(bytes, &report.inside, mtu);
        let ends = (ip.source, ip.destination);
        let packet = [ip_header(&ip, payload.len()), payload].concat();
        let way = self.way(interface, view, ends, packet.len());
        let way = way.map_err(|refusal| Refusal { mtu: 0, ..refusal })?;
        let mut draft = Draft::of(&bytes[..view.ip]);
        draft.bytes.extend(packet);
        let inside_v6 = report.inside.is_v6();
        draft.set(view.ip - 2, if inside_v6 { 0x86DD } else { 0x0800 });
        Ok(self.leave(draft, way))
    }

    /// Whether its flow's target is where the packet was sent.
    fn is_of_its_flow(&self, report: &Report) -> bool {
        let Some(flow) = self.peek(&report.inside.key, false).filter(|flow| flow.dsr) else {
            return false;
        };
        let target = self.agent.targets[&flow.target];
        let v6 = report.outer.is_v6();
        Encapsulation::from_wire(target.encapsulation) == report.encapsulation
            && target.has(TargetEntry::IPV6) == v6
            && address(target.address, v6) == Some(report.outer.key.destination.0)
            && report
                .port
                .is_none_or(|port| port == target.encapsulation_port.get())
    }
}

fn read(bytes: &[u8], view: &View) -> Option<Report> {
    let ip = view.transport + 8;
    let outer = quoted_at(bytes, ip, view.end, view.is_v6())?;
    if outer.key.source.0 != view.key.destination.0 {
        return None;
    }
    let (encapsulation, port, start) = match outer.key.protocol {
        4 | 41 => (Encapsulation::Ipip, None, outer.transport),
        UDP if bytes.len() > outer.transport + 8 => {
            let (port, first) = (word(bytes, outer.transport + 2), bytes[outer.transport + 8]);
            match first {
                0 => (Encapsulation::Geneve, Some(port), outer.transport + 16),
                _ => (Encapsulation::Gue, Some(port), outer.transport + 8),
            }
        }
        _ => return None,
    };
    if start >= view.end {
        return None;
    }
    let inside = quoted_at(bytes, start, view.end, bytes[start] >> 4 == 6)?;
    let inside = packet::with_ports(bytes, inside)?;
    let fits = inside.transport + 8 - inside.ip <= kept(&inside);
    (fits && matches!(inside.key.protocol, TCP | UDP)).then_some(Report {
        encapsulation,
        port,
        outer,
        inside,
        overhead: start - ip,
    })
}

/// Bytes that are quoted again: all that is of use, or what must be.
fn kept(inside: &View) -> usize {
    match inside.ip_length() {
        QUOTED.. => QUOTED,
        _ if inside.is_v6() => 48,
        _ => 28,
    }
}

/// What fits, as a host believes it; 0 isn't about that.
pub fn told(mtu: u16, v6: bool) -> u16 {
    match mtu {
        1.. if v6 => mtu.max(LEAST_MTU_V6),
        _ => mtu,
    }
}

/// To the sender of what was inside: it doesn't fit, or doesn't get there.
fn message(bytes: &[u8], inside: &View, mtu: u16) -> (Header, Vec<u8>) {
    let (kind, protocol) = match (inside.is_v6(), mtu) {
        (true, 0) => ([1, 3], ICMP6),
        (true, _) => ([2, 0], ICMP6),
        (false, 0) => ([3, 1], ICMP),
        (false, _) => ([3, 4], ICMP),
    };
    let (from, to) = (inside.key.destination.0, inside.key.source.0);
    let mut message = kind.to_vec();
    message.extend([0; 4]);
    message.extend(told(mtu, inside.is_v6()).to_be_bytes());
    message.extend(&bytes[inside.ip..inside.ip + kept(inside)]);
    let pseudo = inside.is_v6().then_some((from, to, protocol));
    let sum = sums::segment(pseudo, message.len(), &message);
    message[2..4].copy_from_slice(&sums::checksum(sum, 0xFFFF).to_be_bytes());
    let header = Header {
        source: from,
        destination: to,
        protocol,
        traffic_class: 0,
        hop_limit: 64,
        whole: true,
        identification: 0,
        flow_label: 0,
    };
    (header, message)
}
