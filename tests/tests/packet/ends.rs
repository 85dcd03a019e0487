//! A flow's ends as each side sees them, and its frames.

use super::{
    builder::{
        ACK, CLIENT_MAC, ETH0_MAC, ETH1_MAC, End, Frame, SYN, TARGET_MAC, Transport, transport,
    },
    lab::{Hook, Lab, PORTS, Verdict},
    net::Net,
    step::{Counts, Step, rewritten},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Local,
    SourceNat,
    KeepClient,
}

pub const MODES: [Mode; 3] = [Mode::Local, Mode::SourceNat, Mode::KeepClient];

/// The `n`th flow of a mode.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub net: Net,
    pub mode: Mode,
    pub udp: bool,
    pub client: End,
    /// What the client has connected to.
    pub vip: End,
    /// The client as the target sees it.
    pub seen: End,
    pub target: End,
    /// Of listener, group and target.
    pub id: u32,
}

impl Ends {
    pub fn new(net: Net, mode: Mode, udp: bool, n: u16) -> Self {
        let (vip, target) = match mode {
            Mode::Local => (net.host, (net.host, if udp { 5353 } else { 8081 })),
            Mode::SourceNat => (net.nat_vip, (net.target, if udp { 5300 } else { 8080 })),
            Mode::KeepClient => (net.keep_vip, (net.target, if udp { 5300 } else { 8080 })),
        };
        let client = (net.client, 40_000 + n);
        Self {
            net,
            mode,
            udp,
            client,
            vip: (vip, if udp { 53 } else { 80 }),
            seen: match mode {
                Mode::SourceNat => (net.source, PORTS.0 + n),
                _ => client,
            },
            target,
            id: net.base + mode as u32 * 2 + u32::from(udp),
        }
    }

    /// One flow of every family, mode and protocol.
    pub fn all(n: u16) -> impl Iterator<Item = Self> {
        let modes = super::net::NETS
            .into_iter()
            .flat_map(|net| MODES.map(|mode| (net, mode)));
        modes.flat_map(move |(net, mode)| [false, true].map(|udp| Self::new(net, mode, udp, n)))
    }

    pub fn what(&self) -> String {
        let protocol = if self.udp { "UDP" } else { "TCP" };
        format!("{}, {:?}, {protocol}", self.net.name, self.mode)
    }

    pub fn ids(&self) -> (u32, u32) {
        (self.id, self.id)
    }

    /// Makes the target as it was in the beginning, with no source port but the
    /// one that this flow should get.
    pub fn claim(&self, lab: &mut Lab) {
        lab.target(self.id, |t| {
            if self.mode == Mode::SourceNat {
                (t.first_source_port, t.last_source_port) = (self.seen.1, self.seen.1);
            }
        });
    }

    /// Begins the flow and, if it is TCP, goes through its handshake.
    pub fn open(&self, lab: &mut Lab) {
        self.claim(lab);
        let (first, answer) = (
            self.request(self.transport(SYN)),
            self.reply(self.transport(SYN | ACK)),
        );
        let counts = Counts::new_flow(self.ids(), &first);
        lab.check(&self.step_forward(&first, counts));
        lab.check(&self.step_back(&answer));
        let last = self.request(self.transport(ACK));
        let counts = Counts::forward(self.ids(), &last);
        lab.check(&self.step_forward(&last, counts));
    }

    /// The client's frame, without tags, reaches the target.
    pub fn step_forward(&self, input: &Frame, counts: Counts) -> Step {
        let (output, verdict) = (self.sent(input), self.verdict());
        rewritten(self.what(), Hook::Eth0, input, verdict, &output, counts)
    }

    /// The target's frame, without tags, reaches the client.
    pub fn step_back(&self, input: &Frame) -> Step {
        let (hook, output) = (self.reply_hook(), self.restored(input));
        let counts = Counts::reply(self.ids(), input);
        rewritten(self.what(), hook, input, self.verdict(), &output, counts)
    }

    pub fn transport(&self, flags: u8) -> Transport {
        transport(self.udp, flags)
    }

    /// A frame from the client.
    pub fn request(&self, transport: Transport) -> Frame {
        Frame::new(transport, self.client, self.vip)
    }

    /// What the target gets of a request. Of one with tags the kernel changes
    /// the link-layer header, see [`Verdict::Handoff`].
    pub fn sent(&self, request: &Frame) -> Frame {
        self.hop(request, (ETH1_MAC, TARGET_MAC)).with(|f| {
            f.source = self.seen;
            f.destination = self.target;
        })
    }

    /// A frame from the target.
    pub fn reply(&self, transport: Transport) -> Frame {
        Frame::new(transport, self.target, self.seen).with(|f| {
            if self.mode != Mode::Local {
                f.macs = (TARGET_MAC, ETH1_MAC);
            }
        })
    }

    /// What the client gets of a reply.
    pub fn restored(&self, reply: &Frame) -> Frame {
        self.hop(reply, (ETH0_MAC, CLIENT_MAC)).with(|f| {
            f.source = self.vip;
            f.destination = self.client;
        })
    }

    fn hop(&self, frame: &Frame, macs: (super::builder::Mac, super::builder::Mac)) -> Frame {
        frame.clone().with(|f| {
            if self.mode != Mode::Local {
                f.time_to_live -= 1;
                if f.tags.is_empty() {
                    f.macs = macs;
                }
            }
        })
    }

    /// Where replies are met.
    pub fn reply_hook(&self) -> Hook {
        match self.mode {
            Mode::Local => Hook::Egress,
            _ => Hook::Eth1,
        }
    }

    /// Of frames without tags, both ways.
    pub fn verdict(&self) -> Verdict {
        match self.mode {
            Mode::Local => Verdict::Pass,
            _ => Verdict::Redirect,
        }
    }
}
