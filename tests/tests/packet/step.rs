//! Steps of a test: a packet, what should become of it, and the counters that
//! it should move.

use std::{collections::BTreeMap, fmt::Write as _};

use lb_common::counters::{DropReason, Traffic};

use super::{
    builder::Frame,
    lab::{Hook, IDS, Lab, Verdict},
};

/// One packet and all that it should do.
#[derive(Clone, Debug)]
pub struct Step {
    pub what: String,
    pub hook: Hook,
    pub input: Vec<u8>,
    pub verdict: Verdict,
    /// The same as `input` if nothing may be touched.
    pub output: Vec<u8>,
    pub counts: Counts,
}

/// A step whose frame must come out as another.
pub fn rewritten(
    what: impl Into<String>,
    hook: Hook,
    input: &Frame,
    verdict: Verdict,
    output: &Frame,
    counts: Counts,
) -> Step {
    Step {
        what: what.into(),
        hook,
        input: input.bytes(),
        verdict,
        output: output.bytes(),
        counts,
    }
}

/// A step whose bytes must come out as they went in.
pub fn untouched(
    what: impl Into<String>,
    hook: Hook,
    input: Vec<u8>,
    verdict: Verdict,
    counts: Counts,
) -> Step {
    Step {
        what: what.into(),
        hook,
        output: input.clone(),
        input,
        verdict,
        counts,
    }
}

/// Counters that a step moves; all others must stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub drops: BTreeMap<&'static str, u64>,
    pub listeners: BTreeMap<u32, [u64; 5]>,
    pub targets: BTreeMap<u32, [u64; 5]>,
}

impl Counts {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn reason(reason: DropReason) -> Self {
        Self {
            drops: [(reason.name(), 1)].into(),
            ..Self::default()
        }
    }

    pub fn and(mut self, reason: DropReason) -> Self {
        *self.drops.entry(reason.name()).or_default() += 1;
        self
    }

    /// A packet from a client, of an existing flow.
    pub fn forward(ids: (u32, u32), frame: &Frame) -> Self {
        Self::of(ids, [1, frame.ip_length(), 0, 0, 0])
    }

    /// The first packet of a flow.
    pub fn new_flow(ids: (u32, u32), frame: &Frame) -> Self {
        Self::of(ids, [1, frame.ip_length(), 0, 0, 1])
    }

    pub fn reply(ids: (u32, u32), frame: &Frame) -> Self {
        Self::of(ids, [0, 0, 1, frame.ip_length(), 0])
    }

    fn of((listener, target): (u32, u32), traffic: [u64; 5]) -> Self {
        Self {
            listeners: [(listener, traffic)].into(),
            targets: [(target, traffic)].into(),
            ..Self::default()
        }
    }
}

impl Lab {
    /// Runs a step and compares everything; panics with both packets shown.
    pub fn check(&mut self, step: &Step) {
        self.check_by(step.hook, &step.input, |_| step.clone());
    }

    /// The same where something in the output is known from the output only.
    pub fn check_by(&mut self, hook: Hook, input: &[u8], step: impl FnOnce(&[u8]) -> Step) {
        let before = self.counters();
        let (verdict, output) = self.run(hook, input);
        let counts = difference(&before, &self.counters());
        let step = step(&output);
        let mut wrong = String::new();
        if verdict != step.verdict {
            writeln!(wrong, "verdict {verdict:?}, expected {:?}", step.verdict).unwrap();
        }
        if output != step.output {
            writeln!(wrong, "in:       {}", decoded(&step.input)).unwrap();
            writeln!(wrong, "expected: {}", decoded(&step.output)).unwrap();
            writeln!(wrong, "out:      {}", decoded(&output)).unwrap();
        }
        if counts != step.counts {
            writeln!(wrong, "counted {counts:?}\nexpected {:?}", step.counts).unwrap();
        }
        assert!(
            wrong.is_empty(),
            "{} ({:?}):\n{wrong}",
            step.what,
            step.hook
        );
    }

    pub fn counters(&self) -> Counts {
        let traffic = |traffic: Traffic| {
            [
                traffic.forward_packets,
                traffic.forward_bytes,
                traffic.reply_packets,
                traffic.reply_bytes,
                traffic.new_flows,
            ]
        };
        let dataplane = &self.dataplane;
        let drops = dataplane.drops().unwrap();
        Counts {
            drops: drops
                .into_iter()
                .map(|(reason, count)| (reason.name(), count))
                .collect(),
            listeners: (0..IDS)
                .map(|id| (id, traffic(dataplane.listener_traffic(id).unwrap())))
                .collect(),
            targets: (0..IDS)
                .map(|id| (id, traffic(dataplane.target_traffic(id).unwrap())))
                .collect(),
        }
    }
}

/// What has moved.
pub fn difference(before: &Counts, after: &Counts) -> Counts {
    let moved = |before: &BTreeMap<u32, [u64; 5]>, after: &BTreeMap<u32, [u64; 5]>| {
        let deltas = after.iter().map(|(id, now)| {
            let mut delta = *now;
            delta
                .iter_mut()
                .zip(before[id])
                .for_each(|(now, before)| *now -= before);
            (*id, delta)
        });
        deltas.filter(|(_, delta)| *delta != [0; 5]).collect()
    };
    Counts {
        drops: after
            .drops
            .iter()
            .map(|(name, now)| (*name, now - before.drops[name]))
            .filter(|(_, delta)| *delta > 0)
            .collect(),
        listeners: moved(&before.listeners, &after.listeners),
        targets: moved(&before.targets, &after.targets),
    }
}

/// A packet for a person to read.
fn decoded(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match etherparse::PacketHeaders::from_ethernet_slice(bytes) {
        Ok(headers) => format!("{:?}\n  {:?}\n  {hex}", headers.net, headers.transport),
        Err(error) => format!("{error}\n  {hex}"),
    }
}
