//! A loaded data path with its maps filled, in the harness.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use lb_common::{
    Be16,
    counters::{DropReason, Traffic},
    flow,
    limits::DEFAULT_TABLE_SIZE,
    listener::{ListenerEntry, VipEntry},
    settings::{InterfaceEntry, Settings},
    target::{Encapsulation, TargetEntry},
    wire::wide,
};
use lb_user::{
    address::Prefix,
    config::{Capacity, Rule},
    dataplane::Dataplane,
    reconcile::{Change, Place},
};
use xlb_tests::netns::{Namespace, Series};

use super::{
    frame::{self, End, HOST_MAC, Net, Transport, V4, V6, Varies},
    harness::{Harness, Output},
};

pub const DEVICE: &str = "eth0";
/// The listener's port, and the targets'.
pub const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// The id of the listener, of its group and of its security group.
const LISTENER: u32 = 1;
/// Of flows that are made at once: fewer than the half-open table holds.
const CHUNK: u64 = 16_384;

pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;

/// How packets reach the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    SourceNat,
    /// `nat`, the client's address kept.
    Keep,
    Dsr(Encapsulation),
}

/// What a world is made for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub net: Net,
    pub mode: Mode,
    pub protocol: u8,
    /// Targets that share the flows.
    pub targets: u32,
    pub capacity: Capacity,
    /// Of the listener's security group; 0 for none.
    pub prefixes: u32,
}

/// A namespace with a device to whose network clients and targets belong. The
/// calling thread is moved into it.
pub fn enter() -> Result<(Namespace, u32)> {
    let namespace = Namespace::create(Series::new(), "bench")?;
    let ip = |words: &str| namespace.ip(words);
    ip(&format!("link add {DEVICE} type veth peer name peer0"))?;
    let mac = HOST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    ip(&format!("link set {DEVICE} address {mac} up"))?;
    ip("link set peer0 up")?;
    for (net, bits, family) in [(V4, 24, "-4"), (V6, 64, "-6")] {
        ip(&format!("addr add {}/{bits} dev {DEVICE} nodad", net.host))?;
        for (neighbour, last) in [(net.gateway, 2), (net.target, 4)] {
            let mac = format!("02:00:00:00:01:{last:02x}");
            ip(&format!(
                "neigh add {neighbour} dev {DEVICE} nud permanent lladdr {mac}"
            ))?;
        }
        ip(&format!("{family} route add default via {}", net.gateway))?;
    }
    namespace.sysctl("ipv4/ip_forward", "1")?;
    namespace.sysctl("ipv6/conf/all/forwarding", "1")?;
    namespace.join()?;
    let interface = nix::net::if_::if_nametoindex(DEVICE)?;
    Ok((namespace, interface))
}

pub struct World {
    pub plan: Plan,
    dataplane: Dataplane,
    harness: Harness,
}

impl World {
    pub fn new(interface: u32, plan: Plan) -> Result<Self> {
        let mut dataplane = Dataplane::load(&plan.capacity)?;
        for change in changes(interface, &plan)? {
            dataplane.apply(&change)?;
        }
        let mut harness = Harness::load(interface, 1)?;
        harness.use_program(dataplane.ingress()?.fd()?)?;
        Ok(Self {
            plan,
            dataplane,
            harness,
        })
    }

    /// A packet from the first client.
    pub fn request(&self, transport: Transport) -> Result<Vec<u8>> {
        frame::build(
            transport,
            (self.plan.net.client, 1_024),
            (self.plan.net.vip, PORT),
        )
    }

    /// A target's answer to whom it saw.
    pub fn response(&self, transport: Transport, to: End) -> Result<Vec<u8>> {
        frame::build(transport, (self.plan.net.target, self.target_port()), to)
    }

    fn target_port(&self) -> u16 {
        match self.plan.mode {
            Mode::Dsr(_) => PORT,
            _ => TARGET_PORT,
        }
    }

    /// Establishes the first client's flow; whom its target has seen.
    pub fn establish_one(&mut self) -> Result<End> {
        let [first, answer, later] = self.conversation();
        let out = self.run(&self.request(first)?, Varies::Nothing, 1)?.frame;
        let seen = match self.plan.mode {
            Mode::Dsr(_) => {
                self.run(&self.request(later)?, Varies::Nothing, 1)?;
                self.run(&self.request(later)?, Varies::Nothing, 1)?;
                (self.plan.net.client, 1_024)
            }
            _ => {
                let seen = source_of(&out, self.plan.net.v6)?;
                self.run(&self.response(answer, seen)?, Varies::Nothing, 1)?;
                self.run(&self.request(later)?, Varies::Nothing, 1)?;
                seen
            }
        };
        self.expect_established(1)?;
        Ok(seen)
    }

    /// Establishes every flow that the harness varies. Whose source `nat` would
    /// replace can't be told in advance, so that must be kept.
    pub fn establish_all(&mut self, flows: u64) -> Result<()> {
        ensure!(self.plan.mode != Mode::SourceNat, "the source must be kept");
        let [first, answer, later] = self.conversation();
        let (source, destination) = varied(self.plan.net);
        let forward =
            |world: &Self, transport| Ok::<_, anyhow::Error>((world.request(transport)?, source));
        let mut packets = vec![forward(self, first)?];
        if let Mode::Dsr(_) = self.plan.mode {
            packets.push(forward(self, later)?);
        } else {
            let client = (self.plan.net.client, 1_024);
            packets.push((self.response(answer, client)?, destination));
        }
        packets.push(forward(self, later)?);
        for start in (0..flows).step_by(CHUNK as usize) {
            let count = CHUNK.min(flows - start) as u32;
            for (packet, varies) in &packets {
                self.harness.start_at(start)?;
                self.run(packet, *varies, count)?;
            }
        }
        self.expect_established(flows)
    }

    fn conversation(&self) -> [Transport; 3] {
        if self.plan.protocol == flow::UDP {
            [Transport::Udp; 3]
        } else {
            [Transport::Syn, Transport::SynAck, Transport::Ack]
        }
    }

    fn expect_established(&mut self, flows: u64) -> Result<()> {
        let found = self.dataplane.sweep()?.run()?.flows();
        ensure!(
            found.established == flows,
            "{} flows are established, {flows} are meant",
            found.established
        );
        Ok(())
    }

    pub fn run(&mut self, frame: &[u8], varies: Varies, repeats: u32) -> Result<Output> {
        self.harness.run(frame, varies, repeats)
    }

    pub fn traffic(&self) -> Result<Traffic> {
        Ok(self.dataplane.listener_traffic(LISTENER)?)
    }

    /// Packets that weren't balanced, by reason.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>> {
        Ok(self.dataplane.drops()?)
    }
}

/// How a frame of a client varies, and one to a client.
pub fn varied(net: Net) -> (Varies, Varies) {
    if net.v6 {
        (Varies::SourceV6, Varies::DestinationV6)
    } else {
        (Varies::SourceV4, Varies::DestinationV4)
    }
}

/// The source of a packet that has been rewritten.
fn source_of(frame: &[u8], v6: bool) -> Result<End> {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame)?;
    let address: IpAddr = match sliced.net.context("no IP packet came out")? {
        etherparse::NetSlice::Ipv4(ip) => ip.header().source_addr().into(),
        etherparse::NetSlice::Ipv6(ip) => ip.header().source_addr().into(),
        _ => anyhow::bail!("no IP packet came out"),
    };
    ensure!(address.is_ipv6() == v6, "{address} came out");
    let port = match sliced.transport.context("no transport came out")? {
        etherparse::TransportSlice::Tcp(tcp) => tcp.source_port(),
        etherparse::TransportSlice::Udp(udp) => udp.source_port(),
        _ => anyhow::bail!("neither TCP nor UDP came out"),
    };
    Ok((address, port))
}

fn changes(interface: u32, plan: &Plan) -> Result<Vec<Change>> {
    let [a, b, c, d, e, f] = HOST_MAC;
    let mut changes = vec![
        Change::SetSettings(Settings {
            hash_key: 7,
            half_open_timeout: 600,
            established_timeout: 6_000,
            closing_timeout: 60,
            udp_timeout: 6_000,
            route_epoch: 1,
            paused_until: 0,
        }),
        Change::SetInterface(
            interface,
            InterfaceEntry {
                device: interface,
                flags: InterfaceEntry::TRANSMIT,
                ..InterfaceEntry::default()
            },
        ),
        Change::AddMac(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])),
    ];
    changes.extend((0..plan.targets).map(|id| Change::SetTarget(id, target(plan, id))));
    let slots = (0..DEFAULT_TABLE_SIZE).map(|slot| (slot % plan.targets) as u16);
    changes.push(Change::CreateTable {
        group: LISTENER,
        slots: slots.collect(),
    });
    if plan.prefixes > 0 {
        changes.push(rules(plan.prefixes)?);
    }
    let entry = ListenerEntry {
        id: LISTENER,
        group: LISTENER,
        table_size: DEFAULT_TABLE_SIZE,
        security_group: if plan.prefixes > 0 {
            LISTENER as u16
        } else {
            0
        },
        ..ListenerEntry::default()
    };
    let place = Place::port(plan.net.vip, PORT, plan.protocol);
    changes.push(Change::SetListener(place, entry));
    changes.push(Change::SetVip(plan.net.vip, VipEntry::default()));
    Ok(changes)
}

/// Each has a port of its own, so that source NAT has all source ports for it.
fn target(plan: &Plan, id: u32) -> TargetEntry {
    let net = plan.net;
    let family = if net.v6 { TargetEntry::IPV6 } else { 0 };
    let target = TargetEntry {
        flags: TargetEntry::ACCEPTS | TargetEntry::KEEPS | family,
        address: wide(net.target),
        generation: 1,
        ..TargetEntry::default()
    };
    match plan.mode {
        Mode::SourceNat => TargetEntry {
            flags: target.flags | TargetEntry::SOURCE_NAT,
            port: Be16::new(TARGET_PORT + id as u16),
            source: wide(net.host),
            first_source_port: 1_024,
            last_source_port: 32_767,
            ..target
        },
        Mode::Keep => TargetEntry {
            port: Be16::new(TARGET_PORT + id as u16),
            ..target
        },
        Mode::Dsr(encapsulation) => TargetEntry {
            flags: target.flags | TargetEntry::DSR,
            source: wide(net.host),
            encapsulation: encapsulation as u8,
            encapsulation_port: Be16::new(6_080),
            ..target
        },
    }
}

/// Prefixes of several lengths all over 10.0.0.0/8, where the clients are; all
/// are allowed.
fn rules(count: u32) -> Result<Change> {
    let around = |address: u32, length| {
        Prefix::around(IpAddr::from(address.to_be_bytes()), length).context("a length up to 32")
    };
    let mut prefixes = (0..count)
        .map(|n| match n {
            0 => around(0, 0),
            // Each /24 of it, then halves of some.
            1..=65_536 => around(0x0A00_0000 | (n - 1) << 8, 24),
            _ => around(0x0A00_0000 | (n - 65_537) << 8, 25),
        })
        .collect::<Result<Vec<_>>>()?;
    prefixes.sort();
    prefixes.dedup();
    ensure!(prefixes.len() == count as usize, "prefixes that are equal");
    let set: Vec<_> = prefixes.into_iter().map(|it| (it, Rule::Allow)).collect();
    Ok(Change::SetRules {
        id: LISTENER,
        rules: set.clone().into(),
        set,
        gone: Vec::new(),
    })
}
