//! What is measured, and what each case is compared with.

use anyhow::{Result, ensure};
use lb_common::{counters::DropReason, flow, target::Encapsulation};
use lb_user::config::Capacity;

use super::{
    frame::{self, Net, Transport, V4, V6, Varies},
    harness::Harness,
    world::{Mode, PORT, Plan, World, XDP_PASS, XDP_TX, varied},
};

/// Flows that a varying frame goes through.
const FLOWS: u64 = 1 << 20;
/// So many that each may have ports enough for its part of a million flows.
const MANY_TARGETS: u32 = 256;

/// A row of the benchmark.
pub struct Case {
    pub name: &'static str,
    /// The name of the row that it is compared with; none for a floor.
    pub floor: Option<&'static str>,
    /// The largest ratio to that.
    pub goal: Option<f64>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// A program of the harness, what it returns, and how much it adds.
    Floor(&'static str, Varies, u32, usize),
    Flow(Flow),
    /// To an address of no listener.
    Foreign(Net),
    /// A program of the harness that does one thing that xlb can't do without.
    Price(Price),
}

#[derive(Clone, Copy)]
struct Price {
    program: &'static str,
    varies: Varies,
    /// The flows are in the table before.
    is_known: bool,
}

#[derive(Clone, Copy)]
struct Flow {
    plan: Plan,
    way: Way,
    /// Bytes that the frame grows by.
    grows: usize,
}

/// Which packets of what flows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the client of an established flow.
    Forward,
    /// From its target.
    Reply,
    /// From the clients of a million established flows.
    Million,
    /// The first of each flow, in tables that have room.
    New,
    /// The same in tables that are full.
    Flood,
    /// The same to one target, all of whose source ports are taken too.
    Exhausting,
}

const fn flows(net: Net, mode: Mode, protocol: u8, way: Way, prefixes: u32) -> Flow {
    let header = if net.v6 { 40 } else { 20 };
    let grows = match mode {
        Mode::Dsr(encapsulation) => header + encapsulation.overhead(),
        _ => 0,
    };
    let half_open = match way {
        Way::New => 1_200_000,
        _ => 65_536,
    };
    let plan = Plan {
        net,
        mode,
        protocol,
        targets: match way {
            Way::New | Way::Flood => MANY_TARGETS,
            _ => 1,
        },
        capacity: Capacity {
            listeners: 8,
            targets: MANY_TARGETS,
            flows: FLOWS as u32 + 1_000,
            half_open_flows: half_open,
        },
        prefixes,
    };
    Flow { plan, way, grows }
}

const IPIP: Mode = Mode::Dsr(Encapsulation::Ipip);

const DROP: &str = "floor: drop";
const TRANSMIT: &str = "floor: swap MAC, TX";
const WRAP_20: &str = "floor: 20 bytes in front, TX";
const WRAP_40: &str = "floor: 40 bytes in front, TX";
const TRANSMIT_VARIED: &str = "floor: swap MAC, TX; a million flows";
const WRAP_20_VARIED: &str = "floor: 20 bytes in front, TX; a million flows";

/// The least that any balancer with a flow table takes: no row of that output
/// can be below it.
fn prices() -> [Case; 4] {
    let price = |name, floor, program, varies, is_known| Case {
        name,
        floor: Some(floor),
        goal: None,
        kind: Kind::Price(Price {
            program,
            varies,
            is_known,
        }),
    };
    let (one, all) = (Varies::Nothing, Varies::SourceV4);
    [
        price(
            "price: floor and a look-up",
            TRANSMIT,
            "price_look_up",
            one,
            true,
        ),
        price(
            "price: floor and a look-up; a million flows",
            TRANSMIT_VARIED,
            "price_look_up",
            all,
            true,
        ),
        price(
            "price: floor and a new entry",
            TRANSMIT_VARIED,
            "price_insert",
            all,
            false,
        ),
        price(
            "price: floor and two new entries",
            TRANSMIT_VARIED,
            "price_insert_two",
            all,
            false,
        ),
    ]
}

pub fn all() -> Vec<Case> {
    let mut all = Vec::from_iter(prices());
    all.splice(0..0, floors());
    all.extend(rows());
    all
}

fn floors() -> Vec<Case> {
    let floor = |name, program, varies, action, grows| Case {
        name,
        floor: None,
        goal: None,
        kind: Kind::Floor(program, varies, action, grows),
    };
    vec![
        floor(DROP, "floor_drop", Varies::Nothing, 1, 0),
        floor(TRANSMIT, "floor_transmit", Varies::Nothing, XDP_TX, 0),
        floor(WRAP_20, "floor_encapsulate_20", Varies::Nothing, XDP_TX, 20),
        floor(WRAP_40, "floor_encapsulate_40", Varies::Nothing, XDP_TX, 40),
        floor(
            TRANSMIT_VARIED,
            "floor_transmit",
            Varies::SourceV4,
            XDP_TX,
            0,
        ),
        floor(
            WRAP_20_VARIED,
            "floor_encapsulate_20",
            Varies::SourceV4,
            XDP_TX,
            20,
        ),
    ]
}

fn rows() -> Vec<Case> {
    let row = |name, floor, goal, kind| Case {
        name,
        floor: Some(floor),
        goal: Some(goal),
        kind,
    };
    let tcp = |net, mode, way| Kind::Flow(flows(net, mode, flow::TCP, way, 0));
    let udp = |net, mode, way| Kind::Flow(flows(net, mode, flow::UDP, way, 0));
    let secured = Kind::Flow(flows(V4, Mode::SourceNat, flow::TCP, Way::New, 100_000));
    let gue = Mode::Dsr(Encapsulation::Gue);
    let geneve = Mode::Dsr(Encapsulation::Geneve);
    use {Mode::Keep, Mode::SourceNat, Way::*};
    vec![
        row("not ours, IPv4", DROP, 1.6, Kind::Foreign(V4)),
        row("not ours, IPv6", DROP, 1.6, Kind::Foreign(V6)),
        row("dsr ipip, IPv4", WRAP_20, 1.9, tcp(V4, IPIP, Forward)),
        row("dsr ipip, IPv6", WRAP_40, 1.9, tcp(V6, IPIP, Forward)),
        row("dsr gue", WRAP_20, 2.2, tcp(V4, gue, Forward)),
        row("dsr geneve", WRAP_20, 2.2, tcp(V4, geneve, Forward)),
        row(
            "dsr ipip, UDP",
            "dsr ipip, IPv4",
            1.1,
            udp(V4, IPIP, Forward),
        ),
        row("nat, IPv4", TRANSMIT, 3.0, tcp(V4, SourceNat, Forward)),
        row(
            "nat, IPv4, replies",
            TRANSMIT,
            3.0,
            tcp(V4, SourceNat, Reply),
        ),
        row("nat, IPv6", TRANSMIT, 3.0, tcp(V6, SourceNat, Forward)),
        row(
            "nat, IPv6, replies",
            TRANSMIT,
            3.0,
            tcp(V6, SourceNat, Reply),
        ),
        row("nat, UDP", "nat, IPv4", 1.1, udp(V4, SourceNat, Forward)),
        row(
            "nat, UDP, replies",
            "nat, IPv4, replies",
            1.1,
            udp(V4, SourceNat, Reply),
        ),
        row(
            "dsr ipip, a million flows",
            WRAP_20_VARIED,
            4.2,
            tcp(V4, IPIP, Million),
        ),
        row(
            "nat, a million flows",
            TRANSMIT_VARIED,
            6.5,
            tcp(V4, Keep, Million),
        ),
        row(
            "dsr ipip, new flows",
            WRAP_20_VARIED,
            4.0,
            tcp(V4, IPIP, New),
        ),
        row(
            "nat, client kept, new flows",
            TRANSMIT_VARIED,
            14.0,
            tcp(V4, Keep, New),
        ),
        row(
            "nat, new flows",
            TRANSMIT_VARIED,
            14.0,
            tcp(V4, SourceNat, New),
        ),
        row(
            "nat, new flows, 100,000 prefixes",
            "nat, new flows",
            1.25,
            secured,
        ),
        row(
            "dsr ipip, SYN flood",
            WRAP_20_VARIED,
            4.0,
            tcp(V4, IPIP, Flood),
        ),
        row(
            "nat, SYN flood",
            TRANSMIT_VARIED,
            20.0,
            tcp(V4, SourceNat, Flood),
        ),
        row(
            "nat, SYN flood to one target",
            TRANSMIT_VARIED,
            20.0,
            tcp(V4, SourceNat, Exhausting),
        ),
    ]
}

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
            Kind::Price(price) if price.is_known => {
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
                run_own(harness, frame, price.varies, packets, (XDP_TX, 0))
            }
            (State::Fresh, Kind::Price(price)) => {
                let mut harness = price.harness(self.interface)?;
                run_own(
                    &mut harness,
                    &floor_frame()?,
                    price.varies,
                    packets,
                    (XDP_TX, 0),
                )
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
        // One each way, and some more: an LRU table gives up entries before it
        // is full.
        let entries = match self.varies {
            Varies::Nothing => 1_000,
            _ => 2 * FLOWS as u32 + 100_000,
        };
        let mut harness = Harness::load(interface, entries)?;
        if self.is_known {
            harness.use_own("price_insert")?;
            harness.run(&floor_frame()?, self.varies, FLOWS as u32)?;
        }
        harness.use_own(self.program)?;
        Ok(harness)
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
