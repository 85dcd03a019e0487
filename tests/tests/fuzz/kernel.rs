//! The loaded programs, and what is in their maps.

use std::net::{IpAddr, Ipv6Addr};

use aya::{
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
    programs::{TestRun as _, TestRunOptions},
};
use lb_common::{
    Address, Ipv4, Ipv6,
    counters::{DropReason, Traffic},
    flow::{Endpoints, FlowEntry, FlowKey},
    fragment::{FragmentEntry, FragmentKey},
    listener::{SourceRateKey, Window},
    note::Note,
    tcp::State,
    wire::Wide,
};
use lb_user::{
    config::{Capacity, TcMode, XdpMode},
    dataplane::{AttachOptions, Dataplane},
    reconcile::{MapState, diff},
};
use xlb_tests::{
    netns::{Namespace, Series},
    require_root,
};

use super::{
    model::{Counts, Flow, Flows, Hook, Outcome, Seen, Verdict},
    packet::Key,
    world,
};

/// Far more than a run uses: nothing is ever evicted.
const CAPACITY: Capacity = Capacity {
    listeners: 64,
    targets: 64,
    flows: 32_768,
    half_open_flows: 32_768,
};

pub struct Kernel {
    pub interfaces: [u32; 3],
    dataplane: Dataplane,
    agent: MapState,
    /// How often everything was forgotten.
    pasts: u32,
    maps: Vec<(String, u32)>,
    output: Vec<u8>,
    _namespace: Namespace,
}

impl Kernel {
    /// Moves the calling thread into a namespace of its own.
    pub fn new() -> Self {
        require_root().unwrap();
        let namespace = Namespace::create(Series::new(), "fuzz").unwrap();
        world::set_up(&namespace);
        namespace.join().unwrap();
        let interfaces =
            ["eth0", "eth1", "eth2"].map(|name| nix::net::if_::if_nametoindex(name).unwrap());
        let mut dataplane = Dataplane::load(&CAPACITY).unwrap();
        for (n, index) in interfaces.into_iter().enumerate() {
            let name = format!("eth{n}");
            let options = AttachOptions {
                interface: &name,
                index,
                xdp: XdpMode::Native,
                tc: TcMode::Auto,
                filters: &[],
            };
            dataplane.attach(&options).unwrap();
        }
        let ids = dataplane.ingress().unwrap().info().unwrap();
        let ids = ids.map_ids().unwrap().unwrap();
        let name = |id| {
            let map = MapData::from_id(id).unwrap();
            let info = map.info().unwrap();
            (info.name_as_str().unwrap_or_default().to_owned(), id)
        };
        Self {
            interfaces,
            dataplane,
            agent: MapState::default(),
            pasts: 0,
            maps: ids.into_iter().map(name).collect(),
            output: vec![0; 16_384],
            _namespace: namespace,
        }
    }

    /// The same map as the agent's, by its name or as much of it as the kernel
    /// keeps.
    fn map(&self, name: &str) -> MapData {
        let name = &name[..name.len().min(15)];
        let found = self.maps.iter().find(|(other, _)| other == name);
        MapData::from_id(found.unwrap_or_else(|| panic!("no map {name}")).1).unwrap()
    }

    pub fn configure(&mut self, agent: &MapState) {
        let mut agent = agent.clone();
        // Answers of the routing table that are kept from before are void.
        if agent.settings.route_epoch != 0 {
            agent.settings.route_epoch |= self.pasts << 16;
        }
        for change in diff(&self.agent, &agent) {
            self.dataplane.apply(&change).unwrap();
        }
        self.agent = agent;
    }

    /// Runs a frame through a hook.
    pub fn run(&mut self, hook: Hook, input: &[u8]) -> Outcome {
        match hook {
            Hook::Out => self.egress(input),
            Hook::In(interface) => self.ingress(self.interfaces[interface], input),
        }
    }

    fn egress(&mut self, input: &[u8]) -> Outcome {
        let options = TestRunOptions {
            data_in: Some(input),
            data_out: Some(&mut self.output),
            ..TestRunOptions::default()
        };
        let program = self.dataplane.egress().unwrap();
        let result = program
            .test_run(options)
            .unwrap_or_else(|error| panic!("{error}: {input:02x?}"));
        let verdict = match result.return_value.cast_signed() {
            -1 => Verdict::Pass,
            2 => Verdict::Drop,
            other => panic!("tc action {other}"),
        };
        outcome(verdict, &self.output[..result.data_size_out as usize])
    }

    fn ingress(&mut self, interface: u32, input: &[u8]) -> Outcome {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, queue, egress.
        let context: [u32; 6] = [0, input.len() as u32, 0, interface, 0, 0];
        let mut context_out = [0u8; 24];
        let options = TestRunOptions {
            data_in: Some(input),
            data_out: Some(&mut self.output),
            ctx_in: Some(bytemuck::cast_slice(&context)),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        };
        let program = self.dataplane.ingress().unwrap();
        let result = program.test_run(options).unwrap();
        let output = &self.output[..result.data_size_out as usize];
        // What lies in front of the frame is at the head of the output.
        let metadata = u32::from_ne_bytes(context_out[..4].try_into().unwrap()) as usize;
        let (metadata, frame) = output.split_at(metadata);
        let verdict = match (result.return_value, Note::of(metadata)) {
            // What is left in front of a frame that goes nowhere is nothing.
            (1, _) => Verdict::Drop,
            (2, None) => Verdict::Pass,
            (2, Some(note)) => handoff(&note),
            (3, None) => Verdict::Transmit,
            (4, None) => Verdict::Redirect,
            other => panic!("XDP action and note {other:?}"),
        };
        outcome(verdict, frame)
    }
}

fn outcome(verdict: Verdict, bytes: &[u8]) -> Outcome {
    Outcome {
        verdict,
        bytes: bytes.to_vec(),
        loose: Vec::new(),
    }
}

fn handoff(note: &Note) -> Verdict {
    let neighbour = match note.family {
        0 => None,
        family => Some(ip(note.next_hop, family == libc::AF_INET6 as u32)),
    };
    Verdict::Handoff(note.interface, note.tags, neighbour)
}

fn ip(wide: Wide, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::from(Ipv6::from_words(wide)).into()
    } else {
        IpAddr::from(wide[0].to_ne_bytes())
    }
}

/// Reading, clearing and ageing what the data path itself has written.
impl Kernel {
    pub fn flows(&self) -> Flows {
        let flows = self.dataplane.flows().unwrap();
        let mut all = Flows::default();
        for (key, entry) in flows.v4.established().unwrap() {
            all.established.insert(key_of(&key), flow_of(&key, &entry));
        }
        for (key, entry) in flows.v6.established().unwrap() {
            all.established.insert(key_of(&key), flow_of(&key, &entry));
        }
        for (key, entry) in flows.v4.half_open().unwrap() {
            all.half_open.insert(key_of(&key), flow_of(&key, &entry));
        }
        for (key, entry) in flows.v6.half_open().unwrap() {
            all.half_open.insert(key_of(&key), flow_of(&key, &entry));
        }
        all
    }

    pub fn counts(&self) -> Counts {
        let dataplane = &self.dataplane;
        let traffic = |t: Traffic| {
            [
                t.forward_packets,
                t.forward_bytes,
                t.reply_packets,
                t.reply_bytes,
                t.new_flows,
            ]
        };
        let target_flows = Array::<_, u32>::try_from(Map::Array(self.map("TARGET_FLOWS"))).unwrap();
        let drops = dataplane.drops().unwrap().into_iter();
        Counts {
            reasons: drops
                .map(|(reason, count)| (reason.name(), count))
                .filter(|(_, count)| *count > 0)
                .collect(),
            listeners: (0..CAPACITY.listeners)
                .map(|id| (id, traffic(dataplane.listener_traffic(id).unwrap())))
                .filter(|(_, traffic)| *traffic != [0; 5])
                .collect(),
            targets: (0..CAPACITY.targets)
                .map(|id| (id, traffic(dataplane.target_traffic(id).unwrap())))
                .filter(|(_, traffic)| *traffic != [0; 5])
                .collect(),
            target_flows: (0..CAPACITY.targets)
                .map(|id| (id, target_flows.get(&id, 0).unwrap()))
                .filter(|(_, flows)| *flows > 0)
                .collect(),
        }
    }

    /// Forgets all packets that ever came.
    pub fn reset(&mut self) {
        self.pasts += 1;
        for name in ["ESTABLISHED_V4", "HALF_OPEN_V4"] {
            self.clear::<FlowKey<Ipv4>, FlowEntry<Ipv4>>(name);
        }
        for name in ["ESTABLISHED_V6", "HALF_OPEN_V6"] {
            self.clear::<FlowKey<Ipv6>, FlowEntry<Ipv6>>(name);
        }
        self.clear::<FragmentKey<Ipv4>, FragmentEntry>("FRAGMENTS_V4");
        self.clear::<FragmentKey<Ipv6>, FragmentEntry>("FRAGMENTS_V6");
        self.clear::<SourceRateKey, Window>("SOURCE_RATES");
        self.zero::<u64>("DROPS", DropReason::COUNT);
        self.zero::<Traffic>("LISTENER_TRAFFIC", CAPACITY.listeners);
        self.zero::<Traffic>("TARGET_TRAFFIC", CAPACITY.targets);
        self.zero::<Window>("ICMP_RATE", 1);
        let mut flows = Array::<_, u32>::try_from(Map::Array(self.map("TARGET_FLOWS"))).unwrap();
        let rates = Map::Array(self.map("LISTENER_RATES"));
        let mut rates = Array::<_, Window>::try_from(rates).unwrap();
        for id in 0..CAPACITY.targets.max(CAPACITY.listeners) {
            flows.set(id, 0, 0).unwrap();
            rates.set(id, Window::default(), 0).unwrap();
        }
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&self, name: &str) -> HashMap<MapData, K, V> {
        let map = self.map(name);
        let is_lru = !name.starts_with("ESTABLISHED");
        let map = if is_lru {
            Map::LruHashMap(map)
        } else {
            Map::HashMap(map)
        };
        HashMap::try_from(map).unwrap()
    }

    fn clear<K: aya::Pod, V: aya::Pod>(&self, name: &str) {
        let mut map = self.hash::<K, V>(name);
        let keys: Vec<K> = map.keys().map(Result::unwrap).collect();
        for key in keys {
            map.remove(&key).unwrap();
        }
    }

    fn zero<V: aya::Pod + Default>(&self, name: &str, count: u32) {
        let map = Map::PerCpuArray(self.map(name));
        let mut map = PerCpuArray::<_, V>::try_from(map).unwrap();
        let cpus = aya::util::nr_cpus().unwrap();
        for index in 0..count {
            let none = PerCpuValues::try_from(vec![V::default(); cpus]).unwrap();
            map.set(index, none, 0).unwrap();
        }
    }

    /// Time passes, for flows.
    pub fn age(&mut self, seconds: u32) {
        for name in ["ESTABLISHED_V4", "HALF_OPEN_V4"] {
            self.age_map::<Ipv4>(name, seconds);
        }
        for name in ["ESTABLISHED_V6", "HALF_OPEN_V6"] {
            self.age_map::<Ipv6>(name, seconds);
        }
    }

    fn age_map<A>(&self, name: &str, seconds: u32)
    where
        FlowKey<A>: aya::Pod,
        FlowEntry<A>: aya::Pod,
    {
        let mut map = self.hash::<FlowKey<A>, FlowEntry<A>>(name);
        let entries: Vec<_> = map.iter().map(Result::unwrap).collect();
        for (key, mut entry) in entries {
            entry.last_seen = entry.last_seen.wrapping_sub(seconds);
            map.insert(key, entry, 0).unwrap();
        }
    }
}

fn key<A: Address>(endpoints: &Endpoints<A>, protocol: u8) -> Key {
    let v6 = size_of::<A>() == 16;
    let end = |address: A, port: lb_common::Be16| (ip(address.to_wide(), v6), port.get());
    Key {
        source: end(endpoints.source, endpoints.source_port),
        destination: end(endpoints.destination, endpoints.destination_port),
        protocol,
    }
}

fn key_of<A: Address>(map_key: &FlowKey<A>) -> Key {
    key(&map_key.endpoints, map_key.protocol())
}

fn flow_of<A: Address>(map_key: &FlowKey<A>, entry: &FlowEntry<A>) -> Flow {
    let state = entry.state();
    Flow {
        to: key(&entry.rewrite, map_key.protocol()),
        target: entry.target,
        generation: entry.generation,
        last_seen: entry.last_seen,
        listener: entry.listener,
        seen: Seen {
            replied: state.has(State::REPLIED),
            confirmed: state.has(State::CONFIRMED),
            client_fin: state.has(State::FORWARD_FIN),
            target_fin: state.has(State::REPLY_FIN),
            reset: state.has(State::RESET),
        },
        reply: entry.flags & FlowEntry::<A>::REPLY != 0,
        local: entry.is_local(),
        dsr: entry.is_dsr(),
    }
}
