//! What the maps take of the kernel's memory, added up from the limits: none of
//! them may be raised without a look at the sum. ARCHITECTURE.md has the parts.

use lb_common::{
    Ipv4, Ipv6,
    capture::Scratch,
    counters::{DropReason, Traffic},
    flow::{FlowEntry4, FlowEntry6, FlowKey4, FlowKey6},
    fragment::{FragmentEntry, FragmentKey},
    limits::{
        DEFAULT_FLOWS, DEFAULT_HALF_OPEN_FLOWS, DEFAULT_TABLE_SIZE, ENTRIES_PER_FLOW, MAX_FLOWS,
        MAX_FRAGMENTED, MAX_GROUPS, MAX_INTERFACES, MAX_LISTENER_ADDRESSES, MAX_LISTENER_RANGES,
        MAX_LISTENERS, MAX_MACS, MAX_SECURITY_PREFIXES, MAX_SOURCE_RATES, MAX_TABLE_SIZE,
        MAX_TARGETS, ROUTE_SLOTS, SLOTS_PER_ELEMENT,
    },
    listener::{
        ListenerEntry, ListenerKey4, ListenerKey6, ListenerLimits, SourceRateKey, VipEntry, Window,
    },
    security_group::SourceKey,
    settings::InterfaceEntry,
    target::TargetEntry,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Per-CPU maps are counted for a machine of so many.
const CPUS: u64 = 64;

struct Capacity {
    listeners: u32,
    targets: u32,
    groups: u32,
    table_size: u32,
    flows: u32,
    half_open_flows: u32,
}

/// What the configuration is without `[capacity]`, with one group.
const DEFAULT: Capacity = Capacity {
    listeners: 128,
    targets: 1_024,
    groups: 1,
    table_size: DEFAULT_TABLE_SIZE,
    flows: DEFAULT_FLOWS,
    half_open_flows: DEFAULT_HALF_OPEN_FLOWS,
};

const LARGEST: Capacity = Capacity {
    listeners: MAX_LISTENERS,
    targets: MAX_TARGETS,
    groups: MAX_GROUPS,
    table_size: MAX_TABLE_SIZE,
    flows: MAX_FLOWS,
    half_open_flows: MAX_FLOWS,
};

const fn padded(size: usize) -> u64 {
    size.next_multiple_of(8) as u64
}

/// `struct htab_elem` and what follows it (kernel/bpf/hashtab.c).
const fn hash_entry<K, V>() -> u64 {
    48 + padded(size_of::<K>()) + padded(size_of::<V>())
}

/// `struct bucket`, a power of two of them.
fn buckets(entries: u32) -> u64 {
    16 * u64::from(entries.next_power_of_two())
}

/// `struct lpm_trie_node` (kernel/bpf/lpm_trie.c), twice: there may be as many
/// nodes between as there are prefixes.
const fn trie_entry<K, V>() -> u64 {
    2 * (40 + padded(size_of::<K>() + size_of::<V>()))
}

/// A hash that is filled from the beginning.
fn whole_hash<K, V>(entries: u32) -> u64 {
    buckets(entries) + u64::from(entries) * hash_entry::<K, V>()
}

/// Bytes of `WORK`, one of its slots, and of one of `ROUTES`.
const WORK: u64 = 768;
const ROUTE: u64 = 96;

fn table(slots: u32) -> u64 {
    let element = padded(size_of::<u16>() * SLOTS_PER_ELEMENT as usize);
    element * u64::from(slots.div_ceil(SLOTS_PER_ELEMENT))
}

impl Capacity {
    /// What is taken before the first packet.
    fn at_start(&self) -> u64 {
        let per_cpu = (padded(size_of::<Traffic>()) * u64::from(self.listeners + self.targets)
            + 4 * WORK
            + u64::from(ROUTE_SLOTS) * ROUTE
            + padded(size_of::<Window>())
            + u64::from(DropReason::COUNT) * 8
            // Descriptors of perf buffers.
            + 8)
            * CPUS;
        let half_open = self.half_open_flows * ENTRIES_PER_FLOW;
        let both_families = 2
            * (buckets(self.flows * ENTRIES_PER_FLOW)
                // Listeners and VIPs.
                + 2 * buckets(MAX_LISTENER_ADDRESSES));
        let targets = padded(size_of::<TargetEntry>()) + 8;
        both_families
            + whole_hash::<FlowKey4, FlowEntry4>(half_open)
            + whole_hash::<FlowKey6, FlowEntry6>(half_open)
            + whole_hash::<FragmentKey<Ipv4>, FragmentEntry>(MAX_FRAGMENTED)
            + whole_hash::<FragmentKey<Ipv6>, FragmentEntry>(MAX_FRAGMENTED)
            + whole_hash::<SourceRateKey, Window>(MAX_SOURCE_RATES)
            + buckets(MAX_INTERFACES)
            + buckets(MAX_MACS)
            + u64::from(self.targets) * targets
            + u64::from(self.listeners) * padded(size_of::<ListenerLimits>())
            + u64::from(MAX_LISTENERS) * padded(size_of::<Window>())
            + padded(size_of::<Scratch>())
            + u64::from(MAX_GROUPS) * 8
            + u64::from(self.groups) * table(self.table_size)
            + per_cpu
    }

    /// What is taken when nothing more fits.
    fn full(&self) -> u64 {
        let flows = u64::from(self.flows * ENTRIES_PER_FLOW);
        let addresses = u64::from(MAX_LISTENER_ADDRESSES);
        let ranges = u64::from(MAX_LISTENER_RANGES);
        // Old and new rules while they change.
        let rules = 2 * u64::from(MAX_SECURITY_PREFIXES);
        self.at_start()
            + flows * hash_entry::<FlowKey4, FlowEntry4>()
            + flows * hash_entry::<FlowKey6, FlowEntry6>()
            + addresses * hash_entry::<ListenerKey4, ListenerEntry>()
            + addresses * hash_entry::<ListenerKey6, ListenerEntry>()
            + addresses * hash_entry::<Ipv4, VipEntry>()
            + addresses * hash_entry::<Ipv6, VipEntry>()
            + ranges * trie_entry::<ListenerKey4, ListenerEntry>()
            + ranges * trie_entry::<ListenerKey6, ListenerEntry>()
            + rules * trie_entry::<SourceKey<Ipv4>, u32>()
            + rules * trie_entry::<SourceKey<Ipv6>, u32>()
            + u64::from(MAX_INTERFACES) * hash_entry::<u32, InterfaceEntry>()
            + u64::from(MAX_MACS) * hash_entry::<u64, u64>()
    }
}

#[test]
fn the_parts() {
    assert_eq!(hash_entry::<FlowKey4, FlowEntry4>(), 96);
    assert_eq!(hash_entry::<ListenerKey4, ListenerEntry>(), 72);
    assert_eq!(buckets(DEFAULT_FLOWS * ENTRIES_PER_FLOW), 32 * MIB);
    assert_eq!(table(DEFAULT_TABLE_SIZE) / KIB, 128);
    assert_eq!(table(MAX_TABLE_SIZE) / KIB, 1_280);
}

#[test]
fn the_default_fits_a_small_machine() {
    assert_eq!(DEFAULT.at_start() / MIB, 117);
    assert_eq!(DEFAULT.full() / MIB, 658);
}

#[test]
fn the_largest_is_bounded() {
    assert_eq!(LARGEST.at_start() / MIB, 3_683);
    assert_eq!(LARGEST.full() / MIB, 5_597);
}

/// A map that isn't in the sums would make them lies.
#[test]
fn no_map_is_forgotten() {
    const COUNTED: [&str; 32] = [
        "ESTABLISHED_V4",
        "ESTABLISHED_V6",
        "HALF_OPEN_V4",
        "HALF_OPEN_V6",
        "FRAGMENTS_V4",
        "FRAGMENTS_V6",
        "VIPS_V4",
        "VIPS_V6",
        "LISTENERS_V4",
        "LISTENERS_V6",
        "LISTENER_RANGES_V4",
        "LISTENER_RANGES_V6",
        "SECURITY_V4",
        "SECURITY_V6",
        "LISTENER_LIMITS",
        "LISTENER_RATES",
        "SOURCE_RATES",
        "TARGETS",
        "TARGET_FLOWS",
        "MAGLEV",
        "FILTER",
        "SETTINGS",
        "INTERFACES",
        "ROUTES",
        "WORK",
        "MACS",
        "ICMP_RATE",
        "LISTENER_TRAFFIC",
        "TARGET_TRAFFIC",
        "DROPS",
        "CAPTURE",
        "CAPTURED",
    ];
    let source = include_str!("../../lb-ebpf/src/maps.rs");
    let maps: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub static ")?.split(':').next())
        .collect();
    assert_eq!(maps, COUNTED);
}
