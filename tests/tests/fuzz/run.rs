//! Both sides on the same steps, and what is said when they differ.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::counters::DropReason;
use lb_user::reconcile::MapState;
use xlb_tests::clock;

use super::{
    config,
    generate::{Generator, Step},
    kernel::Kernel,
    model::{Counts, Flows, Hook, Model, Outcome, Verdict},
    packet,
};

/// Steps of an episode, which begins with empty tables.
const STEPS: usize = 3_000;
/// Replays that looking for a shorter way to a difference may take.
const REPLAYS: usize = 400;

#[derive(Debug, Default)]
pub struct Report {
    pub packets: u64,
    pub episodes: u64,
    /// Ended early because the clock ticked within a packet.
    pub cut: u64,
    /// Packets that were sent on, rewritten.
    pub sent: u64,
    /// Everything that was counted.
    pub reasons: std::collections::BTreeMap<&'static str, u64>,
    pub established: u64,
}

/// All that packets of the generator can meet. Not so a full flow table, a host
/// that doesn't forward, a driver without room in front of frames, and a bug.
const REASONS: [DropReason; 23] = [
    DropReason::NotOurs,
    DropReason::NotIp,
    DropReason::Truncated,
    DropReason::BadIpHeader,
    DropReason::BadTotalLength,
    DropReason::OtherProtocol,
    DropReason::Fragment,
    DropReason::ExtensionHeaders,
    DropReason::BadTcpHeader,
    DropReason::BadUdpLength,
    DropReason::FragmentOrder,
    DropReason::Denied,
    DropReason::NewFlowLimit,
    DropReason::SourceLimit,
    DropReason::TargetLimit,
    DropReason::NoTarget,
    DropReason::PortAllocation,
    DropReason::FlowCollision,
    DropReason::FlowReset,
    DropReason::EchoAnswered,
    DropReason::TtlExpired,
    DropReason::NoRoute,
    DropReason::TooBig,
];

impl Report {
    /// That both sides are the same says little of a run in which little happens.
    ///
    /// # Panics
    /// If it was such a one.
    pub fn assert_worth(&self) {
        assert!(self.packets > 100_000, "too few packets");
        assert!(self.sent > self.packets / 4, "too few were sent on");
        let flows = self.established / self.episodes;
        assert!(flows > 20, "{flows} established flows an episode");
        let missing = REASONS
            .iter()
            .map(|reason| reason.name())
            .filter(|name| !self.reasons.contains_key(name));
        let missing: Vec<_> = missing.collect();
        assert!(missing.is_empty(), "no packet met {missing:?}");
    }
}

pub struct Fuzz {
    kernel: Kernel,
    base: Arc<MapState>,
    report: Report,
}

/// Where both sides differ.
struct Difference {
    /// Index of the step behind which it shows.
    step: usize,
    text: String,
}

impl Fuzz {
    pub fn new() -> Self {
        let kernel = Kernel::new();
        let base = Arc::new(config::base(kernel.interfaces));
        Self {
            kernel,
            base,
            report: Report::default(),
        }
    }

    /// Runs episodes until the time is over, or at the most so many.
    ///
    /// # Panics
    /// On the first difference, with all that is needed to repeat it.
    pub fn run(mut self, seed: u64, time: Duration) -> Report {
        let start = Instant::now();
        let mut episode = 0;
        while start.elapsed() < time {
            let seed = seed.wrapping_add(episode);
            self.episode(seed);
            episode += 1;
        }
        self.report.episodes = episode;
        self.report
    }

    fn episode(&mut self, seed: u64) {
        let mut generator = Generator::new(seed, &self.base);
        let mut steps = Vec::with_capacity(STEPS);
        let mut model = self.begin();
        let mut difference = None;
        for index in 0..STEPS {
            let step = generator.next();
            steps.push(step);
            match self.step(&mut model, &steps[index]) {
                Ok(Some(outcome)) => {
                    if let Step::Packet(hook, input) = &steps[index] {
                        generator.learn(*hook, input, &outcome);
                        self.note(&outcome);
                    }
                }
                Ok(None) => {}
                Err(Halt::Ticked) => {
                    // The model has not had this packet: nothing is the same.
                    self.report.cut += 1;
                    return;
                }
                Err(Halt::Differs(text)) => {
                    difference = Some(Difference { step: index, text });
                    break;
                }
            }
        }
        let difference = difference.or_else(|| {
            let text = self.compare(&model)?;
            let step = steps.len() - 1;
            Some(Difference { step, text })
        });
        match difference {
            Some(difference) => self.fail(seed, &steps, difference),
            None => self.sum_up(&model),
        }
    }

    fn note(&mut self, outcome: &Outcome) {
        self.report.packets += 1;
        let goes = !matches!(outcome.verdict, Verdict::Drop | Verdict::Pass);
        self.report.sent += u64::from(goes);
    }

    fn sum_up(&mut self, model: &Model) {
        for (reason, count) in &model.counts.reasons {
            *self.report.reasons.entry(reason).or_default() += count;
        }
        self.report.established += model.flows.established.len() as u64;
    }

    /// Both sides without a past.
    fn begin(&mut self) -> Model {
        self.kernel.reset();
        self.kernel.configure(&self.base);
        let mut model = Model::new(self.kernel.interfaces);
        model.configure(&self.base);
        model
    }

    fn step(&mut self, model: &mut Model, step: &Step) -> Result<Option<Outcome>, Halt> {
        match step {
            Step::Configure(state) => {
                self.kernel.configure(state);
                model.configure(state);
                Ok(None)
            }
            Step::Wait(seconds) => {
                self.kernel.age(*seconds);
                model.flows.age(*seconds);
                Ok(None)
            }
            Step::Packet(hook, input) => {
                let now = clock::settled();
                model.now = now as u32;
                let outcome = self.kernel.run(*hook, input);
                if clock::now() != now {
                    return Err(Halt::Ticked);
                }
                let expected = model.run(*hook, input);
                match differs(input, &outcome, &expected) {
                    Some(text) => Err(Halt::Differs(text)),
                    None => Ok(Some(outcome)),
                }
            }
        }
    }

    /// Tables and counters.
    fn compare(&self, model: &Model) -> Option<String> {
        let mut text = String::new();
        let flows = self.kernel.flows();
        table_differs(&mut text, "established", &flows, &model.flows, |flows| {
            &flows.established
        });
        table_differs(&mut text, "half-open", &flows, &model.flows, |flows| {
            &flows.half_open
        });
        let (counts, expected) = (self.kernel.counts(), without_zeros(&model.counts));
        if counts != expected {
            writeln!(text, "counts {counts:?}\n expected {expected:?}").unwrap();
        }
        (!text.is_empty()).then_some(text)
    }

    /// Runs steps and compares everything behind each.
    fn replay(&mut self, steps: &[Step]) -> Option<Difference> {
        'again: loop {
            let mut model = self.begin();
            for (step, each) in steps.iter().enumerate() {
                let text = match self.step(&mut model, each) {
                    Err(Halt::Ticked) => continue 'again,
                    Err(Halt::Differs(text)) => Some(text),
                    Ok(_) => self.compare(&model),
                };
                if let Some(text) = text {
                    return Some(Difference { step, text });
                }
            }
            return None;
        }
    }

    /// Takes steps out as long as the difference stays.
    fn shorten(&mut self, mut steps: Vec<Step>, mut found: Difference) -> (Vec<Step>, Difference) {
        steps.truncate(found.step + 1);
        let mut replays = 0;
        let mut size = steps.len() / 2;
        while size > 0 && replays < REPLAYS {
            let mut at = 0;
            while at < steps.len() && replays < REPLAYS {
                let mut fewer = steps.clone();
                fewer.drain(at..(at + size).min(steps.len()));
                replays += 1;
                match self.replay(&fewer) {
                    Some(still) => {
                        fewer.truncate(still.step + 1);
                        (steps, found) = (fewer, still);
                    }
                    None => at += size,
                }
            }
            size /= 2;
        }
        (steps, found)
    }

    fn fail(&mut self, seed: u64, steps: &[Step], difference: Difference) -> ! {
        let found = self.replay(steps);
        let (steps, difference) = match found {
            Some(found) => self.shorten(steps.to_vec(), found),
            // It came and went.
            None => (steps.to_vec(), difference),
        };
        let mut text = format!("seed {seed}, {} steps:\n", steps.len());
        let mut state = self.base.clone();
        for step in steps.iter().skip(steps.len().saturating_sub(20)) {
            describe(&mut text, step, &mut state);
        }
        let packets = self.report.packets;
        panic!(
            "{text}{}\n({packets} packets were the same before)",
            difference.text
        );
    }
}

enum Halt {
    Ticked,
    Differs(String),
}

/// What is wrong with what came out.
fn differs(input: &[u8], outcome: &Outcome, expected: &Outcome) -> Option<String> {
    let same_verdict = outcome.verdict == expected.verdict;
    let dropped = outcome.verdict == Verdict::Drop;
    if same_verdict && (dropped || same_bytes(&outcome.bytes, expected)) {
        return None;
    }
    let mut text = String::new();
    writeln!(
        text,
        "{:?}, expected {:?}",
        outcome.verdict, expected.verdict
    )
    .unwrap();
    for (what, bytes) in [
        ("in      ", input),
        ("out     ", &outcome.bytes),
        ("expected", &expected.bytes),
    ] {
        writeln!(text, "{what} {}", decoded(bytes)).unwrap();
    }
    let at = (0..outcome.bytes.len().max(expected.bytes.len()))
        .filter(|&at| outcome.bytes.get(at) != expected.bytes.get(at));
    writeln!(
        text,
        "bytes that differ: {:?}",
        at.take(20).collect::<Vec<_>>()
    )
    .unwrap();
    Some(text)
}

fn same_bytes(bytes: &[u8], expected: &Outcome) -> bool {
    if bytes == expected.bytes {
        return true;
    }
    let mut bytes = bytes.to_vec();
    if bytes.len() != expected.bytes.len() {
        return false;
    }
    for &at in &expected.loose {
        let is_zero = |word: u16| word == 0 || word == 0xFFFF;
        let (got, wanted) = (packet::word(&bytes, at), packet::word(&expected.bytes, at));
        if is_zero(got) && is_zero(wanted) {
            bytes[at..at + 2].copy_from_slice(&wanted.to_be_bytes());
        }
    }
    bytes == expected.bytes
}

type Table = std::collections::HashMap<packet::Key, super::model::Flow>;

fn table_differs(
    text: &mut String,
    name: &str,
    got: &Flows,
    expected: &Flows,
    table: impl Fn(&Flows) -> &Table,
) {
    let (got, expected) = (table(got), table(expected));
    for (key, flow) in got
        .iter()
        .filter(|(key, flow)| expected.get(key) != Some(flow))
    {
        let wanted = expected.get(key);
        writeln!(text, "{name} {key:?}:\n  {flow:?}\n  expected {wanted:?}").unwrap();
    }
    for (key, flow) in expected.iter().filter(|(key, _)| !got.contains_key(key)) {
        writeln!(text, "{name} {key:?}:\n  nothing\n  expected {flow:?}").unwrap();
    }
}

fn without_zeros(counts: &Counts) -> Counts {
    let mut counts = counts.clone();
    counts.listeners.retain(|_, traffic| *traffic != [0; 5]);
    counts.targets.retain(|_, traffic| *traffic != [0; 5]);
    counts.target_flows.retain(|_, flows| *flows > 0);
    counts
}

fn describe(text: &mut String, step: &Step, state: &mut Arc<MapState>) {
    match step {
        Step::Packet(hook, bytes) => {
            let hook = match hook {
                Hook::In(n) => format!("eth{n}"),
                Hook::Out => "egress".to_owned(),
            };
            writeln!(text, "{hook}: {}", decoded(bytes)).unwrap();
        }
        Step::Wait(seconds) => writeln!(text, "{seconds} seconds pass").unwrap(),
        Step::Configure(new) => {
            for change in lb_user::reconcile::diff(state, new) {
                let change = format!("{change:?}");
                writeln!(text, "agent: {change:.300}").unwrap();
            }
            *state = new.clone();
        }
    }
}

/// A frame for a person to read.
fn decoded(bytes: &[u8]) -> String {
    let mut hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if hex.len() > 400 {
        hex.truncate(400);
        hex.push('…');
    }
    match packet::parse(bytes) {
        Ok(view) => format!(
            "{} > {} protocol {} flags {:#04x} {:?} hops {} {} bytes\n  {hex}",
            std::net::SocketAddr::from(view.key.source),
            std::net::SocketAddr::from(view.key.destination),
            view.key.protocol,
            view.flags,
            view.part,
            view.hop_limit,
            view.ip_length(),
        ),
        Err(reason) => format!("{}\n  {hex}", reason.name()),
    }
}
