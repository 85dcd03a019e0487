//! What comes next: packets of clients, answers to what came out, errors about
//! it, fragments, repeats and nonsense.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use lb_user::reconcile::MapState;

use super::{
    build::{Body, Spec},
    config::{self, GROUPS},
    control,
    model::{Hook, Outcome, Verdict},
    mutate,
    packet::{self, ACK, FIN, Part, RST, SYN, TCP, UDP, View},
    random::Random,
    world::{at, beyond, mac},
};

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Step {
    Packet(Hook, Vec<u8>),
    Configure(Arc<MapState>),
    /// So many seconds without a packet.
    Wait(u32),
}

/// A frame that was run.
struct Past {
    hook: Hook,
    input: Vec<u8>,
    output: Vec<u8>,
    verdict: Verdict,
}

/// Frames that are remembered.
const MEMORY: usize = 300;

pub struct Generator {
    random: Random,
    base: Arc<MapState>,
    state: MapState,
    past: Vec<Past>,
    next: VecDeque<Step>,
    /// Client ports in use: few make flows meet, many make them many.
    ports: usize,
    /// How often the agent changes something, once in so many packets.
    calm: usize,
}

impl Generator {
    pub fn new(seed: u64, base: &Arc<MapState>) -> Self {
        let mut random = Random::new(seed);
        let mut state = MapState::clone(base);
        // Whether answers of the routing table are kept.
        state.settings.route_epoch = *random.pick(&[0, 1]);
        for _ in 0..*random.pick(&[0, 3, 12]) {
            control::change(&mut state, base, &mut random);
        }
        Self {
            ports: *random.pick(&[2, 10, 200]),
            calm: *random.pick(&[40, 150, 1000]),
            random,
            base: base.clone(),
            past: Vec::new(),
            next: [Step::Configure(Arc::new(state.clone()))].into(),
            state,
        }
    }

    /// Takes note of what a frame became. One that is handed to the kernel goes
    /// out next.
    pub fn learn(&mut self, hook: Hook, input: &[u8], outcome: &Outcome) {
        if let Verdict::Handoff(_, tags, _) = outcome.verdict {
            let mut bytes = outcome.bytes.clone();
            bytes.drain(12..12 + 4 * tags as usize);
            if can_go_out(&bytes) {
                self.next.push_front(Step::Packet(Hook::Out, bytes));
            }
        }
        let past = Past {
            hook,
            input: input.to_vec(),
            output: outcome.bytes.clone(),
            verdict: outcome.verdict,
        };
        if self.past.len() < MEMORY {
            self.past.push(past);
        } else {
            let index = self.random.below(MEMORY);
            self.past[index] = past;
        }
    }

    pub fn next(&mut self) -> Step {
        match self.any() {
            Step::Packet(Hook::Out, bytes) if !can_go_out(&bytes) => {
                Step::Packet(Hook::In(1), bytes)
            }
            step => step,
        }
    }

    fn any(&mut self) -> Step {
        if let Some(step) = self.next.pop_front() {
            return step;
        }
        if self.random.one_in(self.calm) {
            control::change(&mut self.state, &self.base, &mut self.random);
            return Step::Configure(Arc::new(self.state.clone()));
        }
        // To make every flow older takes long.
        if self.random.one_in(600) {
            return Step::Wait(*self.random.pick(&[1, 10, 35, 70, 130, 400]));
        }
        let step = match self.random.weighted(&[38, 28, 9, 5, 4, 3]) {
            0 => Some(self.client()),
            1 => self.reply(),
            2 => self.error(),
            3 => Some(self.fragments()),
            4 => self.again(),
            _ => Some(self.echo()),
        };
        let step = step.unwrap_or_else(|| self.client());
        match step {
            Step::Packet(hook, mut bytes) if self.random.one_in(8) => {
                mutate::mutate(&mut bytes, &mut self.random);
                Step::Packet(hook, bytes)
            }
            step => step,
        }
    }

    /// A frame to xlb with what a client may make of it.
    fn plain(&mut self, v6: bool) -> Spec {
        let random = &mut self.random;
        let client = match random.below(8) {
            0 => at(v6, 1, 3),
            1 => at(v6, 1, 77),
            2 | 3 => beyond(v6, random.below(4) as u8),
            _ => at(v6, 1, 2),
        };
        let group = random.below(GROUPS as usize) as u32;
        let udp = random.one_in(3);
        let port = match random.below(10) {
            0 => 8000 + random.below(12) as u16,
            1 => *random.pick(&[0, 22, 443, 65_535, 8081]),
            _ if udp => 53,
            _ => 80,
        };
        let tags = match random.below(12) {
            0 => vec![(0x8100, 0xA00A)],
            1 => vec![(0x88A8, 7), (0x8100, 0x6FFF)],
            _ => Vec::new(),
        };
        let client_port = 40_000 + random.below(self.ports) as u16;
        let body = if udp {
            Body::Udp(!random.one_in(5))
        } else {
            let size = 536 + random.below(1000) as u16;
            let offer = random.one_in(4).then_some(size);
            Body::Tcp(flags(random), offer)
        };
        Spec {
            macs: (mac(1, 1), mac(1, 2)),
            tags,
            source: (client, client_port),
            destination: (config::vip(v6, group), port),
            body,
            hop_limit: if random.one_in(30) {
                random.below(3) as u8
            } else {
                64
            },
            traffic_class: if random.one_in(4) {
                random.next() as u8
            } else {
                0
            },
            identification: random.below(6) as u16,
            whole: random.one_in(2),
            options: if random.one_in(12) {
                random.below(11)
            } else {
                0
            },
            extensions: Vec::new(),
            inner_extensions: Vec::new(),
            payload: payload(random),
            padding: if random.one_in(10) {
                random.below(20)
            } else {
                0
            },
        }
    }

    fn dressed(&mut self, v6: bool) -> Spec {
        let mut spec = self.plain(v6);
        let random = &mut self.random;
        if v6 && random.one_in(8) {
            for _ in 0..random.below(8) {
                let kind = *random.pick(&[0, 43, 60]);
                let eights = if random.one_in(4) {
                    random.below(31)
                } else {
                    0
                };
                spec.extensions.push((kind, eights as u8));
            }
        }
        if random.one_in(60) {
            spec.macs.0 = *random.pick(&[mac(9, 9), [0xFF; 6], mac(2, 1)]);
        }
        if random.one_in(400) {
            spec.source.0 = config::vip(v6, random.below(GROUPS as usize) as u32);
        }
        spec
    }

    fn client(&mut self) -> Step {
        let v6 = self.random.one_in(2);
        let bytes = self.dressed(v6).bytes();
        let hook = match self.random.below(20) {
            0 => Hook::In(1),
            1 => Hook::In(2),
            2 => Hook::Out,
            _ => Hook::In(0),
        };
        Step::Packet(hook, bytes)
    }

    /// All pieces of a datagram, mostly in order.
    fn fragments(&mut self) -> Step {
        let v6 = self.random.one_in(2);
        let mut spec = self.dressed(v6);
        spec.payload.resize(40 + self.random.below(300), 7);
        if v6 && self.random.one_in(3) {
            let eights = self.random.below(3) as u8;
            spec.inner_extensions = vec![(60, eights)];
        }
        if self.random.one_in(8) {
            spec.body = Body::Icmp(if v6 { 128 } else { 8 }, 0, 1);
        }
        let size = 8 * (3 + self.random.below(12));
        let mut pieces = spec.fragments(size);
        if self.random.one_in(3) {
            let (a, b) = (
                self.random.below(pieces.len()),
                self.random.below(pieces.len()),
            );
            pieces.swap(a, b);
        }
        for piece in pieces {
            self.next.push_back(Step::Packet(Hook::In(0), piece));
        }
        self.next.pop_front().expect("a datagram has a piece")
    }

    fn some_past(&mut self) -> Option<&Past> {
        if self.past.is_empty() {
            return None;
        }
        let index = self.random.below(self.past.len());
        Some(&self.past[index])
    }

    /// The same frame once more.
    fn again(&mut self) -> Option<Step> {
        let past = self.some_past()?;
        Some(Step::Packet(past.hook, past.input.clone()))
    }

    /// What came out, read again, and by which hook an answer would come.
    fn came_out(&mut self) -> Option<(View, Vec<u8>, Hook)> {
        let past = self.some_past()?;
        let (output, verdict) = (past.output.clone(), past.verdict);
        let view = packet::parse_any(&output)?;
        let hook = match (verdict, self.random.below(10)) {
            (Verdict::Drop, _) => return None,
            (Verdict::Pass, 0) | (_, 1) => Hook::In(1),
            (Verdict::Pass, _) | (_, 0) => Hook::Out,
            (_, 2) => Hook::In(2),
            (_, 3) => Hook::In(0),
            _ => Hook::In(1),
        };
        Some((view, output, hook))
    }

    fn reply(&mut self) -> Option<Step> {
        let (view, _, hook) = self.came_out()?;
        let mut spec = self.plain(view.is_v6());
        if view.part != Part::Whole {
            return None;
        }
        spec.source = view.key.destination;
        spec.destination = view.key.source;
        spec.body = match view.key.protocol {
            TCP => {
                let offer = self.random.one_in(4).then_some(1460);
                let answer = match self.random.below(8) {
                    0 => RST | ACK,
                    1 => FIN | ACK,
                    2 => ACK,
                    3 => flags(&mut self.random),
                    _ if view.flags & SYN != 0 => SYN | ACK,
                    _ => ACK,
                };
                Body::Tcp(answer, offer)
            }
            UDP => Body::Udp(!self.random.one_in(5)),
            _ => return None,
        };
        spec.macs = (mac(2, 1), mac(2, 2));
        if self.random.one_in(20) {
            let mut pieces = spec.fragments(24);
            let first = pieces.remove(0);
            let later = pieces.into_iter().map(|piece| Step::Packet(hook, piece));
            self.next.extend(later);
            return Some(Step::Packet(hook, first));
        }
        Some(Step::Packet(hook, spec.bytes()))
    }

    /// An ICMP error about what came out.
    fn error(&mut self) -> Option<Step> {
        let (view, output, hook) = self.came_out()?;
        let v6 = view.is_v6();
        let mut spec = self.plain(v6);
        let router: IpAddr = at(v6, 2, 200);
        spec.source = (*self.random.pick(&[router, view.key.destination.0]), 0);
        spec.destination = (view.key.source.0, 0);
        let kinds: &[u8] = if v6 {
            &[1, 2, 3, 4, 100]
        } else {
            &[3, 4, 5, 11, 12]
        };
        let (kind, code) = (*self.random.pick(kinds), self.random.below(5) as u8);
        spec.body = Body::Icmp(kind, code, self.random.next() as u32);
        let all = &output[view.ip..view.end];
        let headers = view.transport - view.ip;
        let quoted = match self.random.below(6) {
            0 => headers + 8,
            1 => headers + self.random.below(24),
            2 => self.random.below(all.len() + 1),
            _ => all.len(),
        };
        spec.payload = all[..quoted.min(all.len()).min(1232)].to_vec();
        if self.random.one_in(8) {
            mutate::flip(&mut spec.payload, &mut self.random);
        }
        spec.macs = (mac(2, 1), mac(2, 2));
        Some(Step::Packet(hook, spec.bytes()))
    }

    fn echo(&mut self) -> Step {
        let v6 = self.random.one_in(2);
        let mut spec = self.dressed(v6);
        let kind = *self.random.pick(&[if v6 { 128 } else { 8 }, 0, 129, 135]);
        let code = u8::from(self.random.one_in(8));
        spec.body = Body::Icmp(kind, code, self.random.next() as u32);
        Step::Packet(Hook::In(0), spec.bytes())
    }
}

/// The kernel makes no skb without an IP header and none of more than a page,
/// and nothing to this host itself leaves it.
fn can_go_out(bytes: &[u8]) -> bool {
    let own = |address| {
        let networks = [1, 2, 3].into_iter();
        networks
            .flat_map(|n| [at(false, n, 1), at(true, n, 1)])
            .any(|own| own == address)
    };
    let to_own = packet::parse(bytes).is_ok_and(|view| own(view.key.destination.0));
    (14 + 40..3_000).contains(&bytes.len()) && !to_own
}

/// As connections have them, mostly.
fn flags(random: &mut Random) -> u8 {
    match random.weighted(&[40, 40, 6, 4, 2, 3]) {
        0 => SYN,
        1 => ACK,
        2 => FIN | ACK,
        3 => RST,
        4 => SYN | ACK,
        _ => random.next() as u8,
    }
}

fn payload(random: &mut Random) -> Vec<u8> {
    let length = match random.below(48) {
        0..4 => 0,
        4..8 => 1 + random.below(1400),
        8..12 => 1180 + random.below(60),
        12..16 => 1390 + random.below(50),
        // Frames of several buffers, from some 3,500 bytes on.
        16 => 1500 + random.below(8_000),
        _ => random.below(40),
    };
    let first = random.next();
    let byte = |index: usize| (first >> (8 * (index % 8))) as u8;
    let all_ones = random.one_in(20);
    (0..length)
        .map(|index| if all_ones { 0xFF } else { byte(index) })
        .collect()
}
