//! Every map. Who writes and who reads each is in ARCHITECTURE.md.
//!
//! Sizes here are the largest that the configuration may ask for; the agent
//! sets the real ones before it loads the programs.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    counters::{DropReason, Traffic},
    flow::{FlowEntry4, FlowKey4},
    limits::{
        ENTRIES_PER_FLOW, MAX_FLOWS, MAX_GROUPS, MAX_INTERFACES, MAX_LISTENER_ADDRESSES,
        MAX_LISTENERS, MAX_TARGETS, SLOTS_PER_ELEMENT,
    },
    listener::{ListenerEntry, ListenerKey4},
    settings::{InterfaceEntry, Settings},
    target::TargetEntry,
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
const FLOW_ENTRIES: usize = (MAX_FLOWS * ENTRIES_PER_FLOW) as usize;

/// Flows that both sides have confirmed. Not an LRU: nothing evicts them but
/// their own end. Memory is taken entry by entry.
#[btf_map]
pub static ESTABLISHED_V4: HashMap<FlowKey4, FlowEntry4, FLOW_ENTRIES, ON_DEMAND> = HashMap::new();

/// Flows that only one side has been seen of. A flood evicts what it brought.
#[btf_map]
pub static HALF_OPEN_V4: LruHashMap<FlowKey4, FlowEntry4, FLOW_ENTRIES> = LruHashMap::new();

#[btf_map]
pub static LISTENERS_V4: HashMap<
    ListenerKey4,
    ListenerEntry,
    { MAX_LISTENER_ADDRESSES as usize },
    ON_DEMAND,
> = HashMap::new();

#[btf_map]
pub static TARGETS: Array<TargetEntry, { MAX_TARGETS as usize }> = Array::new();

/// Group → Maglev table. An element holds [`SLOTS_PER_ELEMENT`] slots; each
/// table has a size of its own, which `BPF_F_INNER_MAP` allows (Linux 5.10).
#[btf_map]
pub static MAGLEV: ArrayOfMaps<MaglevTable, { MAX_GROUPS as usize }> = ArrayOfMaps::new();

pub type MaglevTable = Array<[u16; SLOTS_PER_ELEMENT as usize], 1, { BPF_F_INNER_MAP as usize }>;

#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
pub static INTERFACES: HashMap<u32, InterfaceEntry, { MAX_INTERFACES as usize }, ON_DEMAND> =
    HashMap::new();

#[btf_map]
pub static LISTENER_TRAFFIC: PerCpuArray<Traffic, { MAX_LISTENERS as usize }> = PerCpuArray::new();

#[btf_map]
pub static TARGET_TRAFFIC: PerCpuArray<Traffic, { MAX_TARGETS as usize }> = PerCpuArray::new();

#[btf_map]
pub static DROPS: PerCpuArray<u64, { DropReason::COUNT as usize }> = PerCpuArray::new();
