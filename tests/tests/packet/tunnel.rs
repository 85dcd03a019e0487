//! Direct server return: the ways to a target, and what goes there.

use std::net::IpAddr;

use lb_common::{
    Be16, flow,
    target::{Encapsulation, TargetEntry},
    wire::wide,
};
use lb_user::reconcile::Change;

use super::{
    builder::{ETH1_MAC, Frame, Mac, TARGET_MAC, Transport, transport},
    lab::Lab,
    net::{NETS, Net},
};

pub const GUE_PORT: u16 = 6080;
pub const GENEVE_PORT: u16 = 6081;
pub const VIRTUAL_NETWORK: u32 = 0x00AB_CDEF;
/// Of the listener, on [`Net::keep_vip`].
pub const PORT: u16 = 443;

/// How packets of one family reach a target of another one, or the same.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    pub encapsulation: Encapsulation,
    pub inner: Net,
    pub outer: Net,
    pub udp: bool,
    /// Of listener, group and target.
    pub id: u32,
}

/// What of an outer header varies, by flow or by packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Varying {
    pub source: IpAddr,
    /// UDP's source port.
    pub port: u16,
    /// IPv6's flow label.
    pub label: u32,
    /// IPv4's, by packet where it may be fragmented.
    pub identification: u16,
}

impl Varying {
    /// What varies by flow.
    pub fn of_flow(self) -> Self {
        Self {
            identification: 0,
            ..self
        }
    }
}

/// What every path takes of IPv6.
pub const LEAST_MTU: usize = 1_280;

impl Tunnel {
    pub fn all() -> Vec<Self> {
        use Encapsulation as E;
        let mut all = Vec::new();
        for encapsulation in [E::None, E::Ipip, E::Gue, E::Geneve] {
            for (inner, outer) in NETS.into_iter().flat_map(|a| NETS.map(|b| (a, b))) {
                if encapsulation == E::None && inner != outer {
                    continue;
                }
                all.extend([false, true].map(|udp| Self {
                    encapsulation,
                    inner,
                    outer,
                    udp,
                    id: 16 + 2 * u32::from(inner.v6()) + u32::from(udp),
                }));
            }
        }
        all
    }

    pub fn what(&self) -> String {
        let protocol = if self.udp { "UDP" } else { "TCP" };
        let (inner, outer) = (self.inner.name, self.outer.name);
        let encapsulation = self.encapsulation;
        format!("{inner} {protocol}, {encapsulation:?} over {outer}")
    }

    pub fn ids(&self) -> (u32, u32) {
        (self.id, self.id)
    }

    pub fn entry(&self) -> TargetEntry {
        let family = if self.outer.v6() {
            TargetEntry::IPV6
        } else {
            0
        };
        TargetEntry {
            address: wide(self.outer.target),
            source: wide(self.outer.source),
            flags: TargetEntry::ACCEPTS | TargetEntry::KEEPS | TargetEntry::DSR | family,
            generation: 1,
            encapsulation: self.encapsulation as u8,
            encapsulation_port: Be16::new(self.udp_port()),
            virtual_network: VIRTUAL_NETWORK,
            ..TargetEntry::default()
        }
    }

    fn udp_port(&self) -> u16 {
        match self.encapsulation {
            Encapsulation::Geneve => GENEVE_PORT,
            _ => GUE_PORT,
        }
    }

    /// Makes this the way to the listener's target.
    pub fn set(&self, lab: &mut Lab, change: impl FnOnce(&mut TargetEntry)) {
        let mut entry = self.entry();
        change(&mut entry);
        lab.apply(Change::SetTarget(self.id, entry));
        lab.table(self.id, self.id);
        let protocol = if self.udp { flow::UDP } else { flow::TCP };
        lab.listen(self.inner.keep_vip, PORT, protocol, self.id, self.id);
    }

    /// A frame from a client.
    pub fn request(&self, n: u16, flags: u8) -> Frame {
        let net = self.inner;
        let (client, vip) = ((net.client, 30_000 + n), (net.keep_vip, PORT));
        Frame::new(transport(self.udp, flags), client, vip)
    }

    /// What the target gets of `request`, with `varying` in its outer header.
    /// Of one with tags the kernel changes the link-layer header.
    pub fn sent(&self, request: &Frame, varying: &Varying) -> Frame {
        let macs = if request.tags.is_empty() {
            (ETH1_MAC, TARGET_MAC)
        } else {
            request.macs
        };
        self.sent_by(request, varying, macs)
    }

    pub fn sent_by(&self, request: &Frame, varying: &Varying, macs: (Mac, Mac)) -> Frame {
        let inner = request.clone().with(|f| f.time_to_live -= 1);
        if self.encapsulation == Encapsulation::None {
            return inner.with(|f| f.macs = macs);
        }
        let ethertype = if self.inner.v6() {
            [0x86, 0xDD]
        } else {
            [8, 0]
        };
        let mut payload = Vec::new();
        if self.encapsulation == Encapsulation::Geneve {
            let [_, a, b, c] = VIRTUAL_NETWORK.to_be_bytes();
            payload.extend([0, 0, ethertype[0], ethertype[1], a, b, c, 0]);
        }
        payload.extend(inner.packet());
        let transport = match self.encapsulation {
            Encapsulation::Ipip if self.inner.v6() => Transport::Other(41),
            Encapsulation::Ipip => Transport::Other(4),
            _ => Transport::UdpUnchecked,
        };
        let source = (varying.source, varying.port);
        Frame::new(transport, source, (self.outer.target, self.udp_port())).with(|f| {
            f.macs = macs;
            f.tags.clone_from(&inner.tags);
            f.type_of_service = inner.type_of_service;
            // Of IPv6 only what every path has to take is fragmented outside.
            f.whole = match self.inner.v6() {
                true => inner.packet().len() > LEAST_MTU,
                false => inner.whole,
            };
            f.identification = match f.whole {
                true => 0,
                false => varying.identification.into(),
            };
            f.flow_label = varying.label;
            f.payload = payload;
            f.padding = inner.padding;
        })
    }

    /// What varies in a frame that came out, if anything does.
    pub fn varying(&self, output: &[u8], tags: usize) -> Varying {
        let ip = &output[14 + 4 * tags..];
        let word = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        let udp = matches!(
            self.encapsulation,
            Encapsulation::Gue | Encapsulation::Geneve
        );
        let source: IpAddr = if self.encapsulation == Encapsulation::None {
            self.outer.source
        } else if self.outer.v6() {
            <[u8; 16]>::try_from(&ip[8..24]).unwrap().into()
        } else {
            <[u8; 4]>::try_from(&ip[12..16]).unwrap().into()
        };
        Varying {
            source,
            port: if udp { word(self.outer.header()) } else { 0 },
            label: if self.outer.v6() {
                u32::from(word(0) & 0xF) << 16 | u32::from(word(2))
            } else {
                0
            },
            identification: match self.encapsulation {
                Encapsulation::None => 0,
                _ if self.outer.v6() => 0,
                _ => word(4),
            },
        }
    }
}
