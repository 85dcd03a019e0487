//! What is measured, and what each case is compared with.

use lb_common::{flow, target::Encapsulation};
use lb_user::config::Capacity;

use super::{
    frame::{Net, V4, V6, Varies},
    world::{Mode, Plan, XDP_TX},
};

/// Flows that a varying frame goes through.
pub(super) const FLOWS: u64 = 1 << 20;
/// So many that each may have ports enough for its part of a million flows.
const MANY_TARGETS: u32 = 256;

/// A row of the benchmark.
pub struct Case {
    pub name: &'static str,
    /// The name of the row that it is compared with; none for a floor.
    pub floor: Option<&'static str>,
    /// The largest ratio to that.
    pub goal: Option<f64>,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A program of the harness, what it returns, and how much it adds.
    Floor(&'static str, Varies, u32, usize),
    Flow(Flow),
    /// To an address of no listener.
    Foreign(Net),
    /// A program of the harness that does one thing that xlb can't do without, or
    /// just those for one kind of packet.
    Price(Price),
}

#[derive(Clone, Copy)]
pub(super) struct Price {
    pub(super) program: &'static str,
    pub(super) varies: Varies,
    pub(super) table: Table,
    /// Bytes that the frame grows by.
    pub(super) grows: usize,
}

/// What the table of a price holds before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// The flows.
    Known,
    /// Nothing, and it has room for them.
    Empty,
    /// As much as goes into it, which is few of them.
    Full,
}

#[derive(Clone, Copy)]
pub(super) struct Flow {
    pub(super) plan: Plan,
    pub(super) way: Way,
    /// Bytes that the frame grows by.
    pub(super) grows: usize,
}

/// Which packets of what flows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
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

pub(super) const fn flows(net: Net, mode: Mode, protocol: u8, way: Way, prefixes: u32) -> Flow {
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
fn prices() -> Vec<Case> {
    let price = |name, floor, program, varies, table| Case {
        name,
        floor: Some(floor),
        goal: None,
        kind: Kind::Price(Price {
            program,
            varies,
            table,
            grows: match floor {
                WRAP_20 | WRAP_20_VARIED => 20,
                _ => 0,
            },
        }),
    };
    let (one, all) = (Varies::Nothing, Varies::SourceV4);
    use Table::{Empty, Full, Known};
    vec![
        price(
            "price: floor and a look-up",
            TRANSMIT,
            "price_look_up",
            one,
            Known,
        ),
        price(
            "price: floor and a look-up; a million flows",
            TRANSMIT_VARIED,
            "price_look_up",
            all,
            Known,
        ),
        price(
            "price: floor and a new entry",
            TRANSMIT_VARIED,
            "price_insert",
            all,
            Empty,
        ),
        price(
            "price: floor and two new entries",
            TRANSMIT_VARIED,
            "price_insert_two",
            all,
            Empty,
        ),
        price(
            "price: floor and a new entry; the table full",
            TRANSMIT_VARIED,
            "price_insert",
            all,
            Full,
        ),
        price(
            "price: floor and two new entries; the table full",
            TRANSMIT_VARIED,
            "price_insert_two",
            all,
            Full,
        ),
        price(
            "price: bare balancer, dsr ipip",
            WRAP_20,
            "bare_ipip",
            one,
            Known,
        ),
        price(
            "price: bare balancer, nat",
            TRANSMIT,
            "bare_nat",
            one,
            Known,
        ),
        price(
            "price: bare balancer, dsr ipip; a million flows",
            WRAP_20_VARIED,
            "bare_ipip",
            all,
            Known,
        ),
        price(
            "price: bare balancer, nat; a million flows",
            TRANSMIT_VARIED,
            "bare_nat",
            all,
            Known,
        ),
    ]
}

pub fn all() -> Vec<Case> {
    let mut all = floors();
    all.extend(prices());
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
