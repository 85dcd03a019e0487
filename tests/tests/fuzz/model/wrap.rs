//! Direct server return: to the target's link-layer address, or inside another
//! packet.

use std::net::IpAddr;

use lb_common::{
    counters::DropReason,
    target::{Encapsulation, TargetEntry},
};

use super::{
    super::{
        packet::{Part, TCP, UDP, View, long},
        sums,
    },
    Flow, Model, Outcome, Refusal, Verdict,
    rewrite::{Draft, has_transport},
    select::address,
};

/// The least that a host believes of "too big".
pub const LEAST_MTU_V6: u16 = 1280;

/// An IP header to be made.
pub struct Header {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub traffic_class: u8,
    pub hop_limit: u8,
    /// Not to be fragmented.
    pub whole: bool,
    pub identification: u16,
    pub flow_label: u32,
}

/// The header of a packet with so many bytes behind it.
pub fn ip_header(header: &Header, payload: usize) -> Vec<u8> {
    let mut bytes;
    if header.source.is_ipv6() {
        let class = u32::from(header.traffic_class) << 20;
        let first: u32 = 6 << 28 | class | header.flow_label & 0xF_FFFF;
        bytes = first.to_be_bytes().to_vec();
        bytes.extend((payload as u16).to_be_bytes());
        bytes.extend([header.protocol, header.hop_limit]);
    } else {
        bytes = vec![0x45, header.traffic_class];
        bytes.extend((payload as u16 + 20).to_be_bytes());
        bytes.extend(header.identification.to_be_bytes());
        bytes.extend([if header.whole { 0x40 } else { 0 }, 0]);
        bytes.extend([header.hop_limit, header.protocol, 0, 0]);
    }
    bytes.extend(sums::octets(header.source));
    bytes.extend(sums::octets(header.destination));
    if header.source.is_ipv4() {
        let checksum = sums::checksum(sums::sum(&bytes), 0xFFFF);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

impl Model {
    pub(super) fn wrap(
        &mut self,
        interface: usize,
        bytes: &[u8],
        view: &View,
        flow: &Flow,
    ) -> Result<Outcome, Refusal> {
        let target = self.agent.targets[&flow.target];
        if view.hop_limit <= 1 {
            return Err(DropReason::TtlExpired.into());
        }
        let encapsulation = Encapsulation::from_wire(target.encapsulation);
        if encapsulation == Encapsulation::None {
            return self.directly(interface, bytes, view, (flow, &target));
        }
        let v6 = target.has(TargetEntry::IPV6);
        let entropy = u32::from(flow.to.source.1) << 16 | u32::from(flow.to.destination.1);
        let middle = middle(encapsulation, &target, entropy, view, bytes);
        let destination = address(target.address, v6).unwrap();
        let added = if v6 { 40 } else { 20 } + middle.len();
        let length = view.ip_length() + added;
        let source = outer_source(&target, v6, entropy);
        let way = self.way(interface, view, (source, destination), length);
        let way = way.map_err(|refusal| Refusal {
            mtu: refusal.mtu.saturating_sub(added as u16),
            ..refusal
        })?;
        // Of IPv6 every path takes so much, in fragments if need be.
        let whole = match view.is_v6() {
            true => view.ip_length() > LEAST_MTU_V6.into(),
            false => bytes[view.ip + 6] & 0x40 != 0,
        };
        let header = Header {
            source,
            destination,
            protocol: match encapsulation {
                Encapsulation::Gue | Encapsulation::Geneve => UDP,
                _ if view.is_v6() => 41,
                _ => 4,
            },
            traffic_class: view.traffic_class,
            hop_limit: 64,
            whole,
            identification: match whole {
                true => 0,
                false => identification(bytes, view, entropy),
            },
            flow_label: entropy,
        };
        let mut draft = self.inner(bytes, view, flow);
        let mut outer = ip_header(&header, middle.len() + view.ip_length());
        outer.extend(middle);
        draft.insert(view.ip, &outer);
        draft.set(view.ip - 2, if v6 { 0x86DD } else { 0x0800 });
        Ok(self.leave(draft, way))
    }

    /// The packet itself: one hop further.
    fn inner(&self, bytes: &[u8], view: &View, flow: &Flow) -> Draft {
        let mut draft = Draft::of(bytes);
        if has_transport(view) && !view.is_icmp() && self.clamp(&mut draft, view, flow) {
            draft.mend_transport(bytes, (view.transport, view.end), (&view.key, &view.key));
        }
        let addresses = (view.key.source.0, view.key.destination.0);
        draft.set_header(bytes, view.ip, addresses, view.hop_limit - 1);
        draft
    }

    fn directly(
        &self,
        interface: usize,
        bytes: &[u8],
        view: &View,
        (flow, target): (&Flow, &TargetEntry),
    ) -> Result<Outcome, Refusal> {
        let destination = address(target.address, view.is_v6()).unwrap();
        let ends = (view.key.source.0, destination);
        let mut way = self.way(interface, view, ends, view.ip_length())?;
        if let Verdict::Handoff(_, _, neighbour) = &mut way.verdict {
            *neighbour = Some(destination);
        }
        Ok(self.leave(self.inner(bytes, view, flow), way))
    }
}

/// What tells packets apart that may be fragmented.
fn identification(bytes: &[u8], view: &View, entropy: u32) -> u16 {
    let identity = if view.is_v6() {
        let at = match (view.part, view.key.protocol) {
            (Part::Later(_), _) => view.transport - 6,
            (_, TCP) => view.transport + 16,
            (_, UDP) => view.transport + 6,
            _ => view.transport + 2,
        };
        let own = u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        view.identification.to_be() ^ u32::from(own)
    } else {
        long(bytes, view.ip + 4).to_be()
    };
    ((identity ^ entropy).wrapping_mul(0x9E37_79B1) >> 16) as u16
}

/// The target's source address, some of its low bits varied by flow.
fn outer_source(target: &TargetEntry, v6: bool, entropy: u32) -> IpAddr {
    let open = (1u64 << target.source_bits.min(32)) - 1;
    let vary = |low: u32| low & !(open as u32) | entropy & open as u32;
    match address(target.source, v6).unwrap() {
        IpAddr::V4(source) => IpAddr::V4(vary(source.to_bits()).into()),
        IpAddr::V6(source) => {
            let bits = source.to_bits();
            let low = u128::from(vary(bits as u32));
            IpAddr::V6((bits >> 32 << 32 | low).into())
        }
    }
}

/// What stands between the outer header and the packet.
fn middle(
    encapsulation: Encapsulation,
    target: &TargetEntry,
    entropy: u32,
    view: &View,
    bytes: &[u8],
) -> Vec<u8> {
    let mut middle = Vec::new();
    let own = match encapsulation {
        Encapsulation::None | Encapsulation::Ipip => return middle,
        Encapsulation::Gue => 8,
        Encapsulation::Geneve => 16,
    };
    // From the dynamic ports; no checksum.
    middle.extend((0xC000 | (entropy >> 16) as u16).to_be_bytes());
    middle.extend(target.encapsulation_port.get().to_be_bytes());
    middle.extend((view.ip_length() as u16 + own).to_be_bytes());
    middle.extend([0, 0]);
    if own == 16 {
        middle.extend([0, 0, bytes[view.ip - 2], bytes[view.ip - 1]]);
        middle.extend((target.virtual_network << 8).to_be_bytes());
    }
    middle
}
