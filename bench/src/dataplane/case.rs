//! A case set up, and measured a round at a time.

use anyhow::{Result, ensure};
use lb_common::{counters::DropReason, flow};

use super::{
    cases::{Case, FLOWS, Flow, Kind, Price, Table, Way, flows},
    frame::{self, Transport, V4, Varies},
    harness::Harness,
    world::{Mode, PORT, World, XDP_PASS, XDP_TX, varied},
};

/// A case ready to be measured again and again.
pub struct Bench {
    kind: Kind,
    interface: u32,
    state: State,
}

enum State {
    Floor(Harness, Vec<u8>),
    World(Box<World>, Packet),
    /// A world of its own for each round.
    Fresh,
}

/// What is sent, and what must become of each.
struct Packet {
    frame: Vec<u8>,
    varies: Varies,
    expected: Expected,
}

#[derive(Clone, Copy)]
struct Expected {
    action: u32,
    length: usize,
    /// Packets of the listener's clients and targets, and new flows, each for
    /// so many packets.
    forward: u64,
    reply: u64,
    new_flows: u64,
    reason: Option<DropReason>,
}

impl Bench {
    pub fn prepare(case: &Case, interface: u32) -> Result<Self> {
        let state = match case.kind {
            Kind::Floor(program, ..) => {
                let mut harness = Harness::load(interface, 1)?;
                harness.use_own(program)?;
                State::Floor(harness, floor_frame()?)
            }
            Kind::Price(price) if price.table != Table::Empty => {
                State::Floor(price.harness(interface)?, floor_frame()?)
            }
            Kind::Price(_) => State::Fresh,
            Kind::Flow(flow) if flow.way == Way::New => State::Fresh,
            Kind::Flow(flow) => {
                let (world, packet) = make(interface, flow)?;
                State::World(Box::new(world), packet)
            }
            Kind::Foreign(net) => {
                let plan = flows(net, Mode::Keep, flow::TCP, Way::Forward, 0).plan;
                let mut world = World::new(interface, plan)?;
                world.establish_one()?;
                let frame = frame::build(Transport::Ack, (net.client, 1_024), (net.other, PORT))?;
                let expected = Expected {
                    action: XDP_PASS,
                    length: frame.len(),
                    forward: 0,
                    reply: 0,
                    new_flows: 0,
                    reason: Some(DropReason::NotOurs),
                };
                let packet = Packet {
                    frame,
                    varies: Varies::Nothing,
                    expected,
                };
                State::World(Box::new(world), packet)
            }
        };
        Ok(Self {
            kind: case.kind,
            interface,
            state,
        })
    }

    /// Nanoseconds a packet, of so many; each has gone the way that is meant.
    pub fn round(&mut self, packets: u32) -> Result<f64> {
        match (&mut self.state, self.kind) {
            (State::Floor(harness, frame), Kind::Floor(_, varies, action, grows)) => {
                run_own(harness, frame, varies, packets, (action, grows))
            }
            (State::Floor(harness, frame), Kind::Price(price)) => {
                let end = (XDP_TX, price.grows);
                run_own(harness, frame, price.varies, packets, end)
            }
            (State::Fresh, Kind::Price(price)) => {
                let mut harness = price.harness(self.interface)?;
                let end = (XDP_TX, price.grows);
                run_own(&mut harness, &floor_frame()?, price.varies, packets, end)
            }
            (State::World(world, packet), _) => measure(world, packet, packets),
            (State::Fresh, Kind::Flow(flow)) => {
                let (mut world, packet) = make(self.interface, flow)?;
                measure(&mut world, &packet, packets)
            }
            _ => anyhow::bail!("a case without its state"),
        }
    }
}

impl Price {
    fn harness(self, interface: u32) -> Result<Harness> {
        let entries = match (self.varies, self.table) {
            (Varies::Nothing, _) => 1_000,
            // One each way, and some more: an LRU table gives up entries before
            // it is full.
            (_, Table::Known | Table::Empty) => 2 * FLOWS as u32 + 100_000,
            // As many as xlb has for half-open flows.
            (_, Table::Full) => 2 * 65_536,
        };
        let mut harness = Harness::load(interface, entries)?;
        let before = match self.table {
            Table::Empty => 0,
            Table::Known => FLOWS as u32,
            Table::Full => 300_000,
        };
        if before > 0 {
            harness.use_own(self.entering())?;
            harness.run(&floor_frame()?, self.varies, before)?;
        }
        harness.use_own(self.program)?;
        Ok(harness)
    }

    /// The program that enters flows as this one needs them.
    fn entering(self) -> &'static str {
        match self.program {
            "price_look_up" => "price_insert",
            itself => itself,
        }
    }
}

fn floor_frame() -> Result<Vec<u8>> {
    frame::build(Transport::Ack, (V4.client, 1_024), (V4.vip, PORT))
}

/// Runs a program of the harness, of which every packet has the same end.
fn run_own(
    harness: &mut Harness,
    frame: &[u8],
    varies: Varies,
    packets: u32,
    (action, grows): (u32, usize),
) -> Result<f64> {
    let output = harness.run(frame, varies, packets)?;
    let length = frame.len() + grows;
    ensure!(
        output.action == action && output.frame.len() == length,
        "a program of the harness returned {} and {} bytes",
        output.action,
        output.frame.len()
    );
    Ok(output.time)
}

fn make(interface: u32, flow: Flow) -> Result<(World, Packet)> {
    let mut world = World::new(interface, flow.plan)?;
    let (source, _) = varied(flow.plan.net);
    let later = match flow.plan.protocol {
        flow::UDP => Transport::Udp,
        _ => Transport::Ack,
    };
    let (frame, varies) = match flow.way {
        Way::Forward => {
            world.establish_one()?;
            (world.request(later)?, Varies::Nothing)
        }
        Way::Reply => {
            let seen = world.establish_one()?;
            (world.response(later, seen)?, Varies::Nothing)
        }
        Way::Million => {
            world.establish_all(FLOWS)?;
            (world.request(later)?, source)
        }
        Way::New => (world.request(Transport::Syn)?, source),
        Way::Flood | Way::Exhausting => {
            let frame = world.request(Transport::Syn)?;
            // Until the tables are full.
            world.run(&frame, source, 300_000)?;
            (frame, source)
        }
    };
    let begins = matches!(flow.way, Way::New | Way::Flood | Way::Exhausting);
    let expected = Expected {
        action: XDP_TX,
        length: frame.len() + flow.grows,
        forward: (flow.way != Way::Reply).into(),
        reply: (flow.way == Way::Reply).into(),
        new_flows: begins.into(),
        reason: None,
    };
    let packet = Packet {
        frame,
        varies,
        expected,
    };
    Ok((world, packet))
}

fn measure(world: &mut World, packet: &Packet, packets: u32) -> Result<f64> {
    let (traffic, drops) = (world.traffic()?, world.drops()?);
    let output = world.run(&packet.frame, packet.varies, packets)?;
    let expected = packet.expected;
    ensure!(
        output.action == expected.action && output.frame.len() == expected.length,
        "the last packet: action {} and {} bytes, action {} and {} bytes were meant",
        output.action,
        output.frame.len(),
        expected.action,
        expected.length
    );
    let after = world.traffic()?;
    let count = u64::from(packets);
    for (what, counted, each) in [
        (
            "forward",
            after.forward_packets - traffic.forward_packets,
            expected.forward,
        ),
        (
            "reply",
            after.reply_packets - traffic.reply_packets,
            expected.reply,
        ),
        (
            "new",
            after.new_flows - traffic.new_flows,
            expected.new_flows,
        ),
    ] {
        ensure!(
            counted == each * count,
            "{counted} of {count} packets were {what}"
        );
    }
    for ((reason, before), (_, after)) in drops.into_iter().zip(world.drops()?) {
        let meant = if expected.reason == Some(reason) {
            count
        } else {
            0
        };
        let counted = after - before;
        ensure!(
            counted == meant,
            "{} was counted {counted} times",
            reason.name()
        );
    }
    Ok(output.time)
}
