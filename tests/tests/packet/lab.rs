//! A namespace with the loaded programs, and how a step of a test is run there.

use std::{collections::BTreeMap, fmt::Write as _};

use aya::programs::{TestRun as _, TestRunOptions};
use lb_common::{
    Be16, Ipv4,
    counters::{DropReason, Traffic},
    flow,
    listener::{ListenerEntry, ListenerKey4},
    settings::{InterfaceEntry, Settings, VlanTag},
    target::TargetEntry,
};
use lb_user::{
    config::{Capacity, TcMode, XdpMode},
    dataplane::Dataplane,
    reconcile::Change,
};
use xlb_tests::{
    netns::{Namespace, Series},
    require_root,
};

use super::builder::{Frame, Transport};

pub const CLIENT: [u8; 4] = [10, 0, 1, 2];
/// An own address of the host, with local targets.
pub const HOST: [u8; 4] = [10, 0, 1, 1];
/// Listeners on this address go to a remote target by source NAT.
pub const NAT_VIP: [u8; 4] = [10, 0, 1, 10];
/// On this one to a remote target that sees the client's address.
pub const KEEP_VIP: [u8; 4] = [10, 0, 1, 11];
/// A remote target, behind eth1, and this host's address there.
pub const TARGET: [u8; 4] = [10, 0, 2, 2];
pub const SOURCE: [u8; 4] = [10, 0, 2, 1];

pub const TABLE_SIZE: u32 = 251;
pub const PORTS: (u16, u16) = (20_000, 20_000);

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed to the kernel, or to what comes after on egress.
    Pass,
    /// Passed with a note to the handoff program: (interface, tags to take off).
    Handoff(u32, u32),
    Drop,
    Transmit,
    Redirect,
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

/// The hook that a step meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP on eth0.
    Eth0,
    /// XDP on eth1.
    Eth1,
    /// tc egress.
    Egress,
}

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

/// The namespace, the programs and what is in their maps.
pub struct Lab {
    pub namespace: Namespace,
    pub dataplane: Dataplane,
    pub eth0: u32,
    pub eth1: u32,
    pub eth2: u32,
}

pub const CAPACITY: Capacity = Capacity {
    listeners: 16,
    targets: 16,
    flows: 1_000,
    half_open_flows: 1_000,
};

impl Lab {
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// Moves the calling thread into a namespace of its own: eth0 towards the
    /// clients, eth1 towards targets, eth2 with a small MTU.
    pub fn with_capacity(capacity: Capacity) -> Self {
        require_root().unwrap();
        let namespace = Namespace::create(Series::new(), "packet").unwrap();
        // No router solicitations: the programs are attached, and would count them.
        for setting in ["all", "default"] {
            namespace
                .sysctl(&format!("ipv6/conf/{setting}/disable_ipv6"), "1")
                .unwrap();
        }
        for (n, mtu) in [(0u8, 1500), (1, 1500), (2, 600)] {
            let network = n + 1;
            for words in [
                format!("link add eth{n} type veth peer name peer{n}"),
                format!("link set eth{n} mtu {mtu} address 02:00:00:00:0{network}:01 up"),
                format!("link set peer{n} up"),
                format!("addr add 10.0.{network}.1/24 dev eth{n}"),
                format!(
                    "neigh add 10.0.{network}.2 dev eth{n} nud permanent \
                     lladdr 02:00:00:00:0{network}:02"
                ),
            ] {
                namespace.ip(&words).unwrap();
            }
        }
        for (kind, network) in [("unreachable", 21), ("blackhole", 22), ("prohibit", 23)] {
            namespace
                .ip(&format!("route add {kind} 10.0.{network}.0/24"))
                .unwrap();
        }
        namespace.sysctl("ipv4/ip_forward", "1").unwrap();
        namespace.join().unwrap();
        let [eth0, eth1, eth2] = ["eth0", "eth1", "eth2"].map(index);
        let mut dataplane = Dataplane::load(&capacity).unwrap();
        for (name, index) in [("eth0", eth0), ("eth1", eth1)] {
            dataplane
                .attach(name, index, XdpMode::Native, TcMode::Auto)
                .unwrap();
        }
        let mut lab = Self {
            namespace,
            dataplane,
            eth0,
            eth1,
            eth2,
        };
        lab.fill();
        lab
    }

    /// Local targets 0 and 1 behind `HOST`, NAT targets 2 and 3 behind
    /// `NAT_VIP`, 4 and 5 behind `KEEP_VIP`: the even ones TCP port 80, the odd
    /// ones UDP port 53. Listener, group and target have the same id.
    fn fill(&mut self) {
        self.apply(Change::SetSettings(SETTINGS));
        for index in [self.eth0, self.eth1, self.eth2] {
            self.interface(
                index,
                InterfaceEntry::TRANSMIT | InterfaceEntry::REDIRECT,
                &[],
            );
        }
        for (id, target) in (0..).zip(targets()) {
            self.apply(Change::SetTarget(id, target));
            let slots = vec![id as u16; TABLE_SIZE as usize];
            self.apply(Change::CreateTable { group: id, slots });
            let address = [HOST, NAT_VIP, KEEP_VIP][id as usize / 2];
            let (port, protocol) = if id % 2 == 0 {
                (80, flow::TCP)
            } else {
                (53, flow::UDP)
            };
            self.listen(address, port, protocol, id, id);
        }
    }

    pub fn apply(&mut self, change: Change) {
        self.dataplane.apply(&change).unwrap();
    }

    pub fn listen(&mut self, address: [u8; 4], port: u16, protocol: u8, id: u32, group: u32) {
        let key = ListenerKey4::new(Ipv4::from_bytes(address), Be16::new(port), protocol);
        let entry = ListenerEntry {
            id,
            group,
            table_size: TABLE_SIZE,
            padding: 0,
        };
        self.apply(Change::SetListener(key, entry));
    }

    pub fn target(&mut self, id: u32, change: impl FnOnce(&mut TargetEntry)) {
        let mut target = targets()[id as usize % 6];
        change(&mut target);
        self.apply(Change::SetTarget(id, target));
    }

    pub fn interface(&mut self, index: u32, flags: u16, tags: &[VlanTag]) {
        let mut entry = InterfaceEntry {
            device: index,
            flags,
            ..InterfaceEntry::default()
        };
        entry.tag_count = tags.len() as u16;
        entry.tags[..tags.len()].copy_from_slice(tags);
        self.apply(Change::SetInterface(index, entry));
    }

    /// Runs a step and compares everything; panics with both packets shown.
    pub fn check(&mut self, step: &Step) {
        let before = self.counters();
        let (verdict, output) = self.run(step.hook, &step.input);
        let counts = difference(&before, &self.counters());
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

    /// Runs a packet through a hook: its verdict and the bytes that come out.
    pub fn run(&mut self, hook: Hook, input: &[u8]) -> (Verdict, Vec<u8>) {
        let mut output = vec![0; input.len() + 256];
        if hook == Hook::Egress {
            let program = self.dataplane.egress().unwrap();
            let options = TestRunOptions {
                data_in: Some(input),
                data_out: Some(&mut output),
                ..TestRunOptions::default()
            };
            let result = program.test_run(options).unwrap();
            output.truncate(result.data_size_out as usize);
            let verdict = match result.return_value as i32 {
                -1 => Verdict::Pass,
                2 => Verdict::Drop,
                other => panic!("tc action {other}"),
            };
            return (verdict, output);
        }
        let interface = if hook == Hook::Eth0 {
            self.eth0
        } else {
            self.eth1
        };
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, queue, egress.
        let context: [u32; 6] = [0, input.len() as u32, 0, interface, 0, 0];
        let mut context_out = [0u8; 24];
        let program = self.dataplane.ingress().unwrap();
        let options = TestRunOptions {
            data_in: Some(input),
            data_out: Some(&mut output),
            ctx_in: Some(bytemuck::cast_slice(&context)),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).unwrap();
        output.truncate(result.data_size_out as usize);
        // What lies in front of the frame is at the head of the output.
        let note: Vec<u8> = output.drain(..word(&context_out, 0) as usize).collect();
        (xdp_verdict(result.return_value, &note), output)
    }

    fn counters(&self) -> Counts {
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
            listeners: (0..16)
                .map(|id| (id, traffic(dataplane.listener_traffic(id).unwrap())))
                .collect(),
            targets: (0..16)
                .map(|id| (id, traffic(dataplane.target_traffic(id).unwrap())))
                .collect(),
        }
    }
}

pub const SETTINGS: Settings = Settings {
    hash_key: 7,
    half_open_timeout: 60,
    established_timeout: 350,
    closing_timeout: 30,
    udp_timeout: 120,
};

/// See [`Lab::fill`].
pub fn targets() -> [TargetEntry; 6] {
    let wide = |address: [u8; 4]| {
        let mut wide = [0; 16];
        wide[..4].copy_from_slice(&address);
        wide
    };
    let alive = TargetEntry::ACCEPTS | TargetEntry::KEEPS;
    let local = TargetEntry {
        flags: alive | TargetEntry::LOCAL,
        generation: 1,
        ..TargetEntry::default()
    };
    let remote = TargetEntry {
        flags: alive,
        address: wide(TARGET),
        generation: 1,
        ..TargetEntry::default()
    };
    let nat = TargetEntry {
        flags: alive | TargetEntry::SOURCE_NAT,
        source: wide(SOURCE),
        first_source_port: PORTS.0,
        last_source_port: PORTS.1,
        ..remote
    };
    let at = |target: TargetEntry, port| TargetEntry {
        port: Be16::new(port),
        ..target
    };
    [
        at(local, 8081),
        at(local, 5353),
        at(nat, 8080),
        at(nat, 5300),
        at(remote, 8080),
        at(remote, 5300),
    ]
}

fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_ne_bytes(bytes[index * 4..index * 4 + 4].try_into().unwrap())
}

fn xdp_verdict(action: u32, note: &[u8]) -> Verdict {
    match (action, note.is_empty()) {
        (1, true) => Verdict::Drop,
        (2, true) => Verdict::Pass,
        (2, false) => Verdict::Handoff(word(note, 1), word(note, 2)),
        (3, true) => Verdict::Transmit,
        (4, true) => Verdict::Redirect,
        other => panic!("XDP action {other:?}"),
    }
}

/// What has moved.
fn difference(before: &Counts, after: &Counts) -> Counts {
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

/// TCP with these flags, or UDP where a mode's odd target is meant.
pub fn transport(udp: bool, flags: u8) -> Transport {
    if udp {
        Transport::Udp
    } else {
        Transport::Tcp(flags)
    }
}
