//! Every capacity and bound of the data path, by name.

/// Listeners at the most, and so ids `0..MAX_LISTENERS`.
pub const MAX_LISTENERS: u32 = 1_024;
/// Target groups at the most. Each listener names one, so more are of no use.
pub const MAX_GROUPS: u32 = MAX_LISTENERS;
/// Targets at the most, in all groups together, and so ids `0..MAX_TARGETS`.
pub const MAX_TARGETS: u32 = 16_384;
/// Targets at the most in one group.
pub const MAX_TARGETS_PER_GROUP: u32 = 1_000;
/// Flows at the most that the flow table may be configured for.
pub const MAX_FLOWS: u32 = 4_000_000;
/// Flows that the flow table holds unless the configuration says otherwise.
pub const DEFAULT_FLOWS: u32 = 1_000_000;
/// Half-open flows that are kept unless the configuration says otherwise.
pub const DEFAULT_HALF_OPEN_FLOWS: u32 = 65_536;
/// Entries of the flow maps that one flow takes: one a direction.
pub const ENTRIES_PER_FLOW: u32 = 2;
/// Largest weight of a target.
pub const MAX_WEIGHT: u16 = 256;
/// Slots of a group's Maglev table unless the configuration says otherwise.
pub const DEFAULT_TABLE_SIZE: u32 = 65_537;
/// Bounds of a Maglev table's size (a prime). The lower one keeps a table of a
/// few targets even; the upper one bounds a group's memory to 1.3 MB.
pub const MIN_TABLE_SIZE: u32 = 251;
pub const MAX_TABLE_SIZE: u32 = 655_373;
/// Maglev slots that one element of a table's map holds, a power of two. The
/// kernel writes a table element by element: a whole one in 1,025 steps of two
/// cache lines, where with elements of four slots that would take as long as
/// the table itself.
pub const SLOTS_PER_ELEMENT: u32 = 64;
/// VLAN tags that the parser looks through (802.1ad service + customer tag).
pub const MAX_VLAN_TAGS: usize = 2;
/// Source ports that are tried for a new flow before it is dropped.
pub const PORT_ATTEMPTS: u32 = 32;
/// How far a new flow looks for a free source port while it meets those of
/// closed and half-open flows, one of which it takes then: looking has its
/// price, and a flood leaves none. A port of a half-open flow weighs so much,
/// one of a closed flow 1: whoever gets that may have to send its SYN again,
/// since the target remembers the port in TIME-WAIT.
pub const HALF_OPEN_WEIGHT: u32 = 4;
pub const SPARE_WEIGHT: u32 = 16;
/// Slots that are tried for a new flow when the first ones name targets that
/// take no new flow or whose reply side is taken. Between a target's loss and
/// the table's rewrite every slot of it is such a one: of two targets half of
/// all, and 16 in a row are one flow in 65,536.
pub const SELECT_ATTEMPTS: u32 = 16;
/// Source ports for rewritten flows unless the configuration says otherwise:
/// below Linux's default ip_local_port_range (32768-60999), so that the host's
/// own connections to a target never meet a rewritten one.
pub const DEFAULT_SOURCE_PORTS: (u16, u16) = (1_024, 32_767);
/// Interfaces that the data path can know.
pub const MAX_INTERFACES: u32 = 256;
/// What a Maglev slot holds when the group has no target to send to.
pub const NO_TARGET: u16 = u16::MAX;
/// Addresses of listeners at the most: one that listens on every address of
/// its interfaces takes one for each.
pub const MAX_LISTENER_ADDRESSES: u32 = 16_384;
/// IPv6 extension headers that the parser walks through, and their bytes.
pub const MAX_EXTENSION_HEADERS: usize = 6;
pub const MAX_EXTENSION_BYTES: usize = 256;
/// Datagrams whose fragments are followed at once, per address family.
pub const MAX_FRAGMENTED: u32 = 16_384;
/// Seconds for which later fragments follow their first one: as long as Linux
/// waits for them (`net.ipv4.ipfrag_time`).
pub const FRAGMENT_SECONDS: u32 = 30;
/// Prefixes of all security groups together, per address family.
pub const MAX_SECURITY_PREFIXES: u32 = 131_072;
/// Security groups at the most: one a listener, and id 0 is none.
pub const MAX_SECURITY_GROUPS: u32 = MAX_LISTENERS;
/// Port prefixes of all listeners with port ranges, per address family. A range
/// takes up to 30.
pub const MAX_LISTENER_RANGES: u32 = 65_536;
/// Source prefixes whose new flows are counted at once.
pub const MAX_SOURCE_RATES: u32 = 65_536;
/// Destinations whose next hop a CPU keeps, a power of two. Two with the same
/// slot cost each other a look at the routing table.
pub const ROUTE_SLOTS: u32 = 1_024;
/// "Too big" messages that one CPU sends in a second at the most.
pub const ICMP_ERRORS_PER_SECOND: u32 = 1_000;
/// Link-layer addresses of this host that the data path can know.
pub const MAX_MACS: u32 = 1_024;
