//! Every map. Who writes and who reads each is in ARCHITECTURE.md.
//!
//! Sizes here are the largest that the configuration may ask for; the agent
//! sets the real ones before it loads the programs. Maps that hold addresses
//! are there once for each family; [`crate::family::Family`] names them.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerfEventArray},
    macros::btf_map,
};
use lb_common::{
    Ipv4, Ipv6,
    capture::Scratch,
    counters::{DropReason, Traffic},
    filter::Filter,
    flow::{FlowEntry, FlowKey},
    fragment::{FragmentEntry, FragmentKey},
    limits::{
        ENTRIES_PER_FLOW, MAX_FLOWS, MAX_FRAGMENTED, MAX_GROUPS, MAX_INTERFACES,
        MAX_LISTENER_ADDRESSES, MAX_LISTENER_RANGES, MAX_LISTENERS, MAX_MACS,
        MAX_SECURITY_PREFIXES, MAX_SOURCE_RATES, MAX_TARGETS, ROUTE_SLOTS, SLOTS_PER_ELEMENT,
    },
    listener::{ListenerEntry, ListenerKey, ListenerLimits, SourceRateKey, VipEntry, Window},
    security_group::SourceKey,
    settings::{InterfaceEntry, Settings},
    target::TargetEntry,
};

use crate::{route, work};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
const FLOW_ENTRIES: usize = (MAX_FLOWS * ENTRIES_PER_FLOW) as usize;
const ADDRESSES: usize = MAX_LISTENER_ADDRESSES as usize;

/// Flows that both sides have confirmed. Not an LRU: nothing evicts them but
/// their own end. Memory is taken entry by entry.
pub type Established<A> = HashMap<FlowKey<A>, FlowEntry<A>, FLOW_ENTRIES, ON_DEMAND>;
/// Flows that only one side has been seen of. A flood evicts what it brought.
pub type HalfOpen<A> = LruHashMap<FlowKey<A>, FlowEntry<A>, FLOW_ENTRIES>;
/// Ports of datagrams under way in fragments.
pub type Fragments<A> = LruHashMap<FragmentKey<A>, FragmentEntry, { MAX_FRAGMENTED as usize }>;
pub type Vips<A> = HashMap<A, VipEntry, ADDRESSES, ON_DEMAND>;
/// Listeners of a single port.
pub type Listeners<A> = HashMap<ListenerKey<A>, ListenerEntry, ADDRESSES, ON_DEMAND>;
/// Listeners of port ranges, by prefixes of ports.
pub type ListenerRanges<A> =
    LpmTrie<ListenerKey<A>, ListenerEntry, { MAX_LISTENER_RANGES as usize }>;
/// Rules of all security groups, values of [`lb_common::security_group::Rule`].
pub type Security<A> = LpmTrie<SourceKey<A>, u32, { MAX_SECURITY_PREFIXES as usize }>;

#[btf_map]
pub static ESTABLISHED_V4: Established<Ipv4> = Established::new();
#[btf_map]
pub static ESTABLISHED_V6: Established<Ipv6> = Established::new();

#[btf_map]
pub static HALF_OPEN_V4: HalfOpen<Ipv4> = HalfOpen::new();
#[btf_map]
pub static HALF_OPEN_V6: HalfOpen<Ipv6> = HalfOpen::new();

#[btf_map]
pub static FRAGMENTS_V4: Fragments<Ipv4> = Fragments::new();
#[btf_map]
pub static FRAGMENTS_V6: Fragments<Ipv6> = Fragments::new();

#[btf_map]
pub static VIPS_V4: Vips<Ipv4> = Vips::new();
#[btf_map]
pub static VIPS_V6: Vips<Ipv6> = Vips::new();

#[btf_map]
pub static LISTENERS_V4: Listeners<Ipv4> = Listeners::new();
#[btf_map]
pub static LISTENERS_V6: Listeners<Ipv6> = Listeners::new();

#[btf_map]
pub static LISTENER_RANGES_V4: ListenerRanges<Ipv4> = ListenerRanges::new();
#[btf_map]
pub static LISTENER_RANGES_V6: ListenerRanges<Ipv6> = ListenerRanges::new();

#[btf_map]
pub static SECURITY_V4: Security<Ipv4> = Security::new();
#[btf_map]
pub static SECURITY_V6: Security<Ipv6> = Security::new();

#[btf_map]
pub static LISTENER_LIMITS: Array<ListenerLimits, { MAX_LISTENERS as usize }> = Array::new();

/// New flows of each listener in the present second.
#[btf_map]
pub static LISTENER_RATES: Array<Window, { MAX_LISTENERS as usize }> = Array::new();

/// New flows of source prefixes in the present second.
#[btf_map]
pub static SOURCE_RATES: LruHashMap<SourceRateKey, Window, { MAX_SOURCE_RATES as usize }> =
    LruHashMap::new();

#[btf_map]
pub static TARGETS: Array<TargetEntry, { MAX_TARGETS as usize }> = Array::new();

/// Established flows of each target.
#[btf_map]
pub static TARGET_FLOWS: Array<u32, { MAX_TARGETS as usize }> = Array::new();

/// Group → Maglev table. An element holds [`SLOTS_PER_ELEMENT`] slots; each
/// table has a size of its own, which `BPF_F_INNER_MAP` allows (Linux 5.10).
#[btf_map]
pub static MAGLEV: ArrayOfMaps<MaglevTable, { MAX_GROUPS as usize }> = ArrayOfMaps::new();

pub type MaglevTable = Array<[u16; SLOTS_PER_ELEMENT as usize], 1, { BPF_F_INNER_MAP as usize }>;

/// Addresses that packets of ours have, see [`lb_common::filter`].
#[btf_map]
pub static FILTER: Array<Filter, 1> = Array::new();

#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
pub static INTERFACES: HashMap<u32, InterfaceEntry, { MAX_INTERFACES as usize }, ON_DEMAND> =
    HashMap::new();

/// Answers of the routing table, see [`crate::route`].
#[btf_map]
pub static ROUTES: PerCpuArray<route::Slot, { ROUTE_SLOTS as usize }> = PerCpuArray::new();

/// Where a packet's stages leave what they found, see [`crate::work`].
#[btf_map]
pub static WORK: PerCpuArray<[u64; work::WORDS], { work::SLOTS }> = PerCpuArray::new();

/// Link-layer addresses of this host: six bytes as they lie in memory → 1.
#[btf_map]
pub static MACS: HashMap<u64, u64, { MAX_MACS as usize }, ON_DEMAND> = HashMap::new();

/// "Too big" messages that this CPU has sent in the present second.
#[btf_map]
pub static ICMP_RATE: PerCpuArray<Window, 1> = PerCpuArray::new();

#[btf_map]
pub static LISTENER_TRAFFIC: PerCpuArray<Traffic, { MAX_LISTENERS as usize }> = PerCpuArray::new();

#[btf_map]
pub static TARGET_TRAFFIC: PerCpuArray<Traffic, { MAX_TARGETS as usize }> = PerCpuArray::new();

#[btf_map]
pub static DROPS: PerCpuArray<u64, { DropReason::COUNT as usize }> = PerCpuArray::new();

/// Where captured packets are put together. One element while nothing is
/// captured; else one for each hook of each CPU, see [`crate::capture`].
#[btf_map]
pub static CAPTURE: Array<Scratch, 1> = Array::new();

/// A buffer for each CPU, by which captured packets reach the agent.
#[btf_map]
pub static CAPTURED: PerfEventArray = PerfEventArray::new();
