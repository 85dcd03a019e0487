//! What is measured, of which cases, and what is aimed at.

use anyhow::Result;
use xlb_tests::{tunnel::Encapsulation, wrk::Connections};

use super::{
    bulk, connections, packets,
    rig::{Case, Mode},
};
use crate::report::Better;

pub struct Measurement {
    /// For `--only`.
    pub name: &'static str,
    pub cases: &'static [Case],
    /// What a run gives, in this order.
    pub quantities: &'static [Quantity],
    pub run: fn(Case) -> Result<Vec<f64>>,
}

pub struct Quantity {
    pub title: &'static str,
    pub about: &'static str,
    pub unit: &'static str,
    pub better: Better,
    /// What all but xlb are compared with.
    pub base: Case,
    /// What xlb is compared with, in each of its modes, and the ratio to it that
    /// is aimed at.
    pub goals: &'static [(Against, f64)],
}

#[derive(Clone, Copy, Debug)]
pub enum Against {
    Case(Case),
    /// The best of the other balancers in the same round.
    BestOther,
}

const NAT: Case = Case::Xlb(Mode::SourceNat);
const KEEP: Case = Case::Xlb(Mode::Keep);
const DSR: Case = Case::Xlb(Mode::Dsr);

/// Proxies of UDP are left out: HAProxy is none, and nginx sends datagrams from
/// user space.
const PACKET_CASES: &[Case] = &[
    Case::Reflect,
    Case::Forward,
    Case::Routed,
    Case::NFTABLES,
    NAT,
    KEEP,
    DSR,
    Case::Xlb(Mode::Tunnel(Encapsulation::Ipip)),
    Case::Xlb(Mode::Tunnel(Encapsulation::Gue)),
    Case::Xlb(Mode::Tunnel(Encapsulation::Geneve)),
];
const CONNECTION_CASES: &[Case] = &[
    Case::Direct,
    Case::Forward,
    Case::Routed,
    Case::NFTABLES,
    Case::HAPROXY,
    Case::NGINX,
    NAT,
    KEEP,
    DSR,
];
/// All but the direct way, which has no balancer.
const COST_CASES: &[Case] = CONNECTION_CASES.split_at(1).1;

const PACKET_GOALS: &[(Against, f64)] = &[
    (Against::Case(Case::Reflect), 0.80),
    (Against::Case(Case::NFTABLES), 4.5),
];
const AHEAD: &[(Against, f64)] = &[(Against::BestOther, 1.0)];

pub const ALL: &[Measurement] = &[
    Measurement {
        name: "packets, one flow",
        cases: PACKET_CASES,
        quantities: &[Quantity {
            title: "Packets of one flow",
            about: "UDP frames of 64 bytes, which the kernel sends itself (`BPF_PROG_TEST_RUN` \
                with live frames) from the client's device; an XDP program counts and drops what \
                arrives at the target's. Sending, balancing and counting share one CPU, each in \
                batches of 64, so that next to nothing is lost: with more than 1 % lost, or \
                counted on another CPU, a measurement is made again. The floor is a program that sends every frame back with `XDP_TX`; the other one \
                sends it out of another device, as all that stand between two networks must. \
                What xlb takes beyond that is its program's own time, see *Data path*.",
            unit: "M/s",
            better: Better::Higher,
            base: Case::Reflect,
            goals: PACKET_GOALS,
        }],
        run: |case| Ok(vec![packets::measure(case, 1)?]),
    },
    Measurement {
        name: "packets, 1,000 flows",
        cases: PACKET_CASES,
        quantities: &[Quantity {
            title: "Packets of 1,000 flows",
            about: "The same, each frame of the next of 1,000 flows.",
            unit: "M/s",
            better: Better::Higher,
            base: Case::Reflect,
            goals: PACKET_GOALS,
        }],
        run: |case| Ok(vec![packets::measure(case, 1_000)?]),
    },
    Measurement {
        name: "connections",
        cases: CONNECTION_CASES,
        quantities: &[Quantity {
            title: "New connections",
            about: "By wrk, 50 at a time, each with one HTTP request to nginx. wrk, nginx and the \
                kernel's TCP take most of the CPUs' time: the floor has what a balancer would \
                reach that costs nothing but the way through its host.",
            unit: "k/s",
            better: Better::Higher,
            base: Case::Direct,
            goals: &[
                (Against::Case(Case::NFTABLES), 1.25),
                (Against::Case(Case::Direct), 0.9),
                (Against::BestOther, 1.0),
            ],
        }],
        run: |case| Ok(vec![connections::rate(case)?]),
    },
    Measurement {
        name: "latency",
        cases: CONNECTION_CASES,
        quantities: &[
            Quantity {
                title: "Latency of new connections, median",
                about: "From the SYN to the end of the answer to one request, of two clients \
                    that make one connection after the other.",
                unit: "µs",
                better: Better::Lower,
                base: Case::Direct,
                goals: AHEAD,
            },
            Quantity {
                title: "Latency of new connections, 99th percentile",
                about: "",
                unit: "µs",
                better: Better::Lower,
                base: Case::Direct,
                goals: AHEAD,
            },
            Quantity {
                title: "Latency of new connections, 99.9th percentile",
                about: "A few milliseconds are the scheduler's: clients, server, whatever \
                    receives for them and the balancer share the CPUs, and both clients wait at \
                    the same time then.",
                unit: "µs",
                better: Better::Lower,
                base: Case::Direct,
                goals: AHEAD,
            },
        ],
        run: connections::latency,
    },
    Measurement {
        name: "cost of connections",
        cases: COST_CASES,
        quantities: &[Quantity {
            title: "The balancer's CPU time per new connection",
            about: "Threads receive what comes by each device (threaded NAPI). Those of the \
                balancer's devices and its processes have one CPU, all else the other; it is the \
                scheduler that says how long they ran. wrk makes new connections meanwhile, each \
                with one request. Most of it is the way of about ten packets through veth and of \
                waking a thread for them, which the floor pays too: a program that looks at \
                nothing, without which no packet passes.",
            unit: "µs",
            better: Better::Lower,
            base: Case::Forward,
            goals: &[
                (Against::Case(Case::NFTABLES), 0.454),
                (Against::Case(Case::HAPROXY), 0.2),
                (Against::BestOther, 1.0),
            ],
        }],
        run: |case| Ok(vec![connections::cost(case, Connections::New)?]),
    },
    Measurement {
        name: "cost of requests",
        cases: COST_CASES,
        quantities: &[Quantity {
            title: "The balancer's CPU time per request",
            about: "The same of requests on 50 connections that are kept.",
            unit: "µs",
            better: Better::Lower,
            base: Case::Forward,
            goals: AHEAD,
        }],
        run: |case| Ok(vec![connections::cost(case, Connections::Kept)?]),
    },
    Measurement {
        name: "bulk",
        cases: CONNECTION_CASES,
        quantities: &[Quantity {
            title: "Bulk throughput",
            about: "One connection by iperf3, from the client to the target.",
            unit: "Gbit/s",
            better: Better::Higher,
            base: Case::Direct,
            goals: AHEAD,
        }],
        run: |case| Ok(vec![bulk::measure(case)?]),
    },
];
