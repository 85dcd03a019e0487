//! A namespace with the loaded programs, and how a packet is run there.

use std::net::IpAddr;

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lb_common::{
    flow,
    listener::{ListenerEntry, VipEntry},
    note::Note,
    settings::{InterfaceEntry, Settings, VlanTag},
    target::TargetEntry,
};
use lb_user::{
    config::{Capacity, TcMode, XdpMode},
    dataplane::{AttachOptions, Dataplane},
    reconcile::{Change, Place},
};
use xlb_tests::{
    netns::{Namespace, Series},
    require_root,
};

use super::{
    builder::mac,
    net::{self, NETS, Net},
};
pub use net::{PORTS, V4, V6};

/// The addresses of tests for which the family makes no difference.
pub const CLIENT: IpAddr = V4.client;
pub const HOST: IpAddr = V4.host;
pub const KEEP_VIP: IpAddr = V4.keep_vip;
pub const TARGET: IpAddr = V4.target;
pub const SOURCE: IpAddr = V4.source;

pub const TABLE_SIZE: u32 = 251;

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

/// The namespace, the programs and what is in their maps.
pub struct Lab {
    pub namespace: Namespace,
    pub dataplane: Dataplane,
    pub eth0: u32,
    pub eth1: u32,
    pub eth2: u32,
}

/// Ids of listeners and of targets that there are.
pub const IDS: u32 = 32;

pub const CAPACITY: Capacity = Capacity {
    listeners: IDS,
    targets: IDS,
    flows: 1_000,
    half_open_flows: 1_000,
};

impl Lab {
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    /// Moves the calling thread into a namespace of its own, see [`net::prepare`].
    pub fn with_capacity(capacity: Capacity) -> Self {
        require_root().unwrap();
        let namespace = Namespace::create(Series::new(), "packet").unwrap();
        net::prepare(&namespace);
        namespace.join().unwrap();
        let [eth0, eth1, eth2] = ["eth0", "eth1", "eth2"].map(index);
        let mut dataplane = Dataplane::load(&capacity).unwrap();
        for (name, index) in [("eth0", eth0), ("eth1", eth1)] {
            let options = AttachOptions {
                interface: name,
                index,
                xdp: XdpMode::Native,
                tc: TcMode::Auto,
                filters: &[],
            };
            dataplane.attach(&options).unwrap();
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

    /// The targets of [`Net::targets`] in both families, each behind a listener
    /// of TCP port 80 or UDP port 53. Listener, group and target have one id.
    fn fill(&mut self) {
        self.apply(Change::SetSettings(SETTINGS));
        for index in [self.eth0, self.eth1, self.eth2] {
            let flags = InterfaceEntry::TRANSMIT | InterfaceEntry::REDIRECT;
            self.interface(index, flags, &[]);
        }
        for network in 1..=3 {
            let [a, b, c, d, e, f] = mac(network, 1);
            let mac = u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]);
            self.apply(Change::AddMac(mac));
        }
        for net in NETS {
            for (n, target) in (0..).zip(net.targets()) {
                let id = net.base + n;
                self.apply(Change::SetTarget(id, target));
                self.table(id, id);
                let address = [net.host, net.nat_vip, net.keep_vip][n as usize / 2];
                let (port, protocol) = if n % 2 == 0 {
                    (80, flow::TCP)
                } else {
                    (53, flow::UDP)
                };
                self.listen(address, port, protocol, id, id);
            }
        }
    }

    /// A table with one target only.
    pub fn table(&mut self, group: u32, target: u32) {
        self.slots(group, vec![target as u16; TABLE_SIZE as usize]);
    }

    /// A table with these slots.
    pub fn slots(&mut self, group: u32, slots: Vec<u16>) {
        let slots = slots.into();
        self.apply(Change::CreateTable { group, slots });
    }

    pub fn apply(&mut self, change: Change) {
        self.dataplane.apply(&change).unwrap();
    }

    pub fn listen(&mut self, address: IpAddr, port: u16, protocol: u8, id: u32, group: u32) {
        self.listener(Place::port(address, port, protocol), id, group, |_| {});
        self.apply(Change::SetVip(address, VipEntry::default()));
    }

    pub fn listener(
        &mut self,
        place: Place,
        id: u32,
        group: u32,
        change: impl FnOnce(&mut ListenerEntry),
    ) {
        let mut entry = ListenerEntry {
            id,
            group,
            table_size: TABLE_SIZE,
            ..ListenerEntry::default()
        };
        change(&mut entry);
        self.apply(Change::SetListener(place, entry));
    }

    /// One of the targets that there are from the beginning, changed.
    pub fn target(&mut self, id: u32, change: impl FnOnce(&mut TargetEntry)) {
        let mut target = target(id);
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

    /// Entries of half-open and of established flows.
    pub fn flows(&self, net: Net) -> (usize, usize) {
        let flows = self.dataplane.flows().unwrap();
        if net.v6() {
            let (half, open) = (flows.v6.half_open(), flows.v6.established());
            (half.unwrap().len(), open.unwrap().len())
        } else {
            let (half, open) = (flows.v4.half_open(), flows.v4.established());
            (half.unwrap().len(), open.unwrap().len())
        }
    }

    /// Runs a packet through a hook: its verdict and the bytes that come out.
    pub fn run(&mut self, hook: Hook, input: &[u8]) -> (Verdict, Vec<u8>) {
        if hook == Hook::Egress {
            let mut output = vec![0; input.len() + 512];
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
        run(self.dataplane.ingress().unwrap(), interface, input)
    }
}

/// Runs a packet that comes in by an interface through the ingress program.
pub fn run(program: &Xdp, interface: u32, input: &[u8]) -> (Verdict, Vec<u8>) {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, queue, egress.
    let context: [u32; 6] = [0, input.len() as u32, 0, interface, 0, 0];
    let mut context_out = [0u8; 24];
    let mut output = vec![0; input.len() + 512];
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
    let metadata: Vec<u8> = output.drain(..word(&context_out, 0) as usize).collect();
    (xdp_verdict(result.return_value, &metadata), output)
}

pub const SETTINGS: Settings = Settings {
    hash_key: 7,
    half_open_timeout: 60,
    established_timeout: 350,
    closing_timeout: 30,
    udp_timeout: 120,
    route_epoch: 0,
    paused_until: 0,
};

/// See [`Lab::fill`].
pub fn target(id: u32) -> TargetEntry {
    let of = |net: Net| net.targets().get((id - net.base) as usize).copied();
    if id >= V6.base { of(V6) } else { of(V4) }.unwrap()
}

pub fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_ne_bytes(bytes[index * 4..index * 4 + 4].try_into().unwrap())
}

fn xdp_verdict(action: u32, metadata: &[u8]) -> Verdict {
    match (action, Note::of(metadata)) {
        (1, None) => Verdict::Drop,
        (2, None) => Verdict::Pass,
        (2, Some(note)) => Verdict::Handoff(note.interface, note.tags),
        (3, None) => Verdict::Transmit,
        (4, None) => Verdict::Redirect,
        other => panic!("XDP action {other:?}"),
    }
}
