//! A balancer with nothing to spare: what xlb does for a packet of an
//! established flow, for IPv4 without options or tags, TCP, one mode and no
//! other packet. What it takes is what xlb's generality can't go below.
//!
//! The flow of a packet that has none begins with it, to made-up addresses.

use core::arch::asm;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_xdp_adjust_head},
    macros::{map, xdp},
    maps::{Array, HashMap, PerCpuArray},
    programs::XdpContext,
};

/// Bits for addresses, to tell what isn't ours without a look-up.
const FILTER_WORDS: usize = 1_024;
const FIBONACCI: u32 = 0x9E37_79B1;
const ROUTE_SLOTS: u32 = 1_024;
/// `BPF_F_NO_PREALLOC`.
const ON_DEMAND: u32 = 1;

const LINK: usize = 14;
const IP: usize = 20;
const TCP: usize = 20;

/// Source, destination, ports and protocol.
type Key = [u32; 4];

#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    source: u32,
    destination: u32,
    ports: u32,
    target: u32,
    generation: u32,
    last_seen: u32,
    listener: u32,
}

/// The answer of a routing table and what it depends on.
#[repr(C)]
#[derive(Clone, Copy)]
struct Route {
    key: [u64; 3],
    /// Destination and source MAC addresses, as they lie in a frame.
    macs: (u64, u32),
    mtu: u32,
}

#[map]
static FILTER: Array<[u64; FILTER_WORDS]> = Array::with_max_entries(1, 0);
/// As large as the case needs.
#[map]
static ESTABLISHED: HashMap<Key, Entry> = HashMap::with_max_entries(1, ON_DEMAND);
/// Their generations.
#[map]
static TARGETS: Array<u32> = Array::with_max_entries(16, 0);
/// Packets and bytes.
#[map]
static LISTENER_TRAFFIC: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(16, 0);
#[map]
static TARGET_TRAFFIC: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(16, 0);
/// The kernel's tick, and the second in which it was.
#[map]
static CLOCK: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);
#[map]
static ROUTES: PerCpuArray<Route> = PerCpuArray::with_max_entries(ROUTE_SLOTS, 0);

#[xdp(frags)]
pub fn bare_nat(ctx: XdpContext) -> u32 {
    conclude(translate(&ctx))
}

#[xdp(frags)]
pub fn bare_ipip(ctx: XdpContext) -> u32 {
    conclude(wrap(&ctx))
}

#[inline(always)]
fn conclude(sent: Option<()>) -> u32 {
    match sent {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// A word of the packet, in one access whatever its alignment.
macro_rules! load {
    ($name:ident, $word:ty, $instruction:literal) => {
        /// # Safety
        /// The word lies in the packet.
        #[inline(always)]
        unsafe fn $name(at: usize) -> $word {
            let word: u64;
            // SAFETY: the caller's.
            unsafe { asm!($instruction, out(reg) word, in(reg) at) };
            word as $word
        }
    };
}

load!(load_2, u16, "{0} = *(u16 *)({1} + 0)");
load!(load_4, u32, "{0} = *(u32 *)({1} + 0)");

/// The same to it.
macro_rules! store {
    ($name:ident, $word:ty, $instruction:literal) => {
        /// # Safety
        /// As above.
        #[inline(always)]
        unsafe fn $name(at: usize, word: $word) {
            // SAFETY: the caller's.
            unsafe { asm!($instruction, in(reg) at, in(reg) u64::from(word)) };
        }
    };
}

store!(store_2, u16, "*(u16 *)({0} + 0) = {1}");
store!(store_4, u32, "*(u32 *)({0} + 0) = {1}");
store!(store_8, u64, "*(u64 *)({0} + 0) = {1}");

/// What is known of a packet of a flow.
struct Known {
    key: Key,
    entry: &'static Entry,
    /// Of the IP packet.
    length: u16,
    /// The words of the IP header up to the checksum.
    words: [u32; 3],
    now: u64,
}

/// Reads a packet, and finds its flow.
#[inline(always)]
fn known(ctx: &XdpContext) -> Option<Known> {
    let (start, end) = (ctx.data(), ctx.data_end());
    let ip = start + LINK;
    let tcp = ip + IP;
    if tcp + TCP > end {
        return None;
    }
    // SAFETY: all of the three headers is there, as was just checked.
    let (ethertype, words, key, offset_and_flags) = unsafe {
        (
            load_2(start + 12),
            [load_4(ip), load_4(ip + 4), load_4(ip + 8)],
            [load_4(ip + 12), load_4(ip + 16), load_4(tcp), 6],
            load_2(tcp + 12),
        )
    };
    let length = ((words[0] >> 16) as u16).to_be();
    let is_plain = ethertype == 0x0800_u16.to_be()
        && words[0] & 0xFF == 0x45
        && (words[1] >> 16) as u16 & 0x3FFF_u16.to_be() == 0
        && words[2] >> 8 & 0xFF == 6;
    let header = offset_and_flags >> 4 & 0xF;
    let fits = header >= 5
        && usize::from(length) >= IP + usize::from(header) * 4
        && ip + usize::from(length) <= end;
    let is_steady = offset_and_flags >> 8 & 0x07 == 0;
    if !(is_plain && fits && is_steady) || !(ours(key[1])? || ours(key[0])?) {
        return begin(&key);
    }
    let Some(entry) = ESTABLISHED.get_ptr_mut(key) else {
        return begin(&key);
    };
    // SAFETY: as in xlb: the memory stays an entry's for this packet.
    let entry = unsafe { &mut *entry };
    if *TARGETS.get(entry.target)? != entry.generation {
        return None;
    }
    let now = second()?;
    if entry.last_seen != now as u32 {
        entry.last_seen = now as u32;
    }
    count(LISTENER_TRAFFIC.get_ptr_mut(entry.listener)?, length);
    count(TARGET_TRAFFIC.get_ptr_mut(entry.target)?, length);
    Some(Known {
        key,
        entry,
        length,
        words,
        now,
    })
}

fn place(address: u32) -> (usize, u64) {
    let hash = address.wrapping_mul(FIBONACCI);
    ((hash >> 22) as usize, 1 << (hash >> 16 & 63))
}

#[inline(always)]
fn ours(address: u32) -> Option<bool> {
    let (word, bit) = place(address);
    Some(FILTER.get(0)?[word % FILTER_WORDS] & bit != 0)
}

/// Makes a flow of the packets that have this key.
#[inline(never)]
fn begin(key: &Key) -> Option<Known> {
    let filter = FILTER.get_ptr_mut(0)?;
    let (word, bit) = place(key[1]);
    // SAFETY: a live element of the map; nobody else is here.
    unsafe { (*filter)[word % FILTER_WORDS] |= bit };
    let entry = Entry {
        source: 0x0102_000A,
        destination: 0x0202_000A,
        ports: 0x901F_0004,
        target: 1,
        generation: 0,
        last_seen: 0,
        listener: 1,
    };
    ESTABLISHED.insert(key, entry, 0).ok()?;
    None
}

/// The present second, asked for once a tick.
#[inline(always)]
fn second() -> Option<u64> {
    let clock = CLOCK.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element; the helpers take nothing and can't fail.
    unsafe {
        let tick = bpf_jiffies64();
        if (*clock)[0] != tick {
            *clock = [tick, bpf_ktime_get_coarse_ns() / 1_000_000_000];
        }
        Some((*clock)[1])
    }
}

#[inline(always)]
fn count(traffic: *mut [u64; 2], length: u16) {
    // SAFETY: this CPU's own element.
    unsafe {
        (*traffic)[0] += 1;
        (*traffic)[1] += u64::from(length);
    }
}

/// The way to an address, as kept; what isn't is made up, as the same for all.
#[inline(always)]
fn route(ctx: &XdpContext, known: &Known, to: u32, length: u16) -> Option<(u64, u32)> {
    let slot = ROUTES.get_ptr_mut(to.wrapping_mul(FIBONACCI) >> (32 - ROUTE_SLOTS.ilog2()))?;
    // SAFETY: this CPU's own element.
    let slot = unsafe { &mut *slot };
    let look = (known.words[0] >> 8 & 0xFF) << 8;
    let key = [
        u64::from(to),
        known.now << 32 | 1,
        (ctx.ingress_ifindex() as u64) << 32 | u64::from(look),
    ];
    let differs = slot.key[0] ^ key[0] | slot.key[1] ^ key[1] | slot.key[2] ^ key[2];
    if differs != 0 || u32::from(length) > slot.mtu {
        *slot = Route {
            key,
            macs: (0x0002_0202_0000_0002, 0x0102_0000),
            mtu: 1_500,
        };
    }
    Some(slot.macs)
}

/// A ones' complement sum in 16 bits.
#[inline(always)]
fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16 & 0xFFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// A checksum for what `change` was added to (RFC 1624).
#[inline(always)]
fn mended(checksum: u16, change: u64) -> u16 {
    !folded(u64::from(!checksum) + change)
}

/// As a summand, the change from one word to another.
#[inline(always)]
fn change(from: u32, to: u32) -> u64 {
    u64::from(!from) + u64::from(to)
}

#[inline(always)]
fn translate(ctx: &XdpContext) -> Option<()> {
    let known = known(ctx)?;
    let (key, to) = (known.key, known.entry);
    if known.words[2] & 0xFF <= 1 {
        return None;
    }
    let macs = route(ctx, &known, to.destination, known.length)?;
    let (start, end) = (ctx.data(), ctx.data_end());
    let ip = start + LINK;
    let tcp = ip + IP;
    if tcp + TCP > end {
        return None;
    }
    let addresses = change(key[0], to.source) + change(key[1], to.destination);
    let ports = change(key[2], to.ports);
    let hops = known.words[2] as u16;
    let fewer = hops - 1;
    let hop = u64::from(!hops) + u64::from(fewer);
    // SAFETY: just checked.
    unsafe {
        store_2(tcp + 16, mended(load_2(tcp + 16), addresses + ports));
        store_4(tcp, to.ports);
        let sum = mended((known.words[2] >> 16) as u16, addresses + hop);
        store_4(ip + 8, u32::from(fewer) | u32::from(sum) << 16);
        store_4(ip + 12, to.source);
        store_4(ip + 16, to.destination);
        store_8(start, macs.0);
        store_4(start + 8, macs.1);
    }
    Some(())
}

#[inline(always)]
fn wrap(ctx: &XdpContext) -> Option<()> {
    let known = known(ctx)?;
    let [first, fragment, third] = known.words;
    if third & 0xFF <= 1 {
        return None;
    }
    let length = known.length.checked_add(IP as u16)?;
    let (source, to) = (known.entry.source, known.entry.destination);
    let macs = route(ctx, &known, to, length)?;
    // SAFETY: it is this program's own context.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(IP as i32)) } != 0 {
        return None;
    }
    let (start, end) = (ctx.data(), ctx.data_end());
    let (outer, inner) = (start + LINK, start + LINK + IP);
    if inner + IP > end {
        return None;
    }
    let hops = third as u16;
    let inside = mended((third >> 16) as u16, u64::from(!hops) + u64::from(hops - 1));
    // Version, type of service and length; "don't fragment" as inside; 64 hops.
    let words = [
        first & 0xFFFF | u32::from(length.to_be()) << 16,
        fragment & 0xFFFF_0000,
        64 | 4 << 8,
    ];
    let all = [words[0], words[1], words[2], source, to];
    let mut sum = 0;
    for word in all {
        sum += u64::from(word);
    }
    // SAFETY: just checked.
    unsafe {
        store_4(inner + 8, u32::from(hops - 1) | u32::from(inside) << 16);
        store_4(outer, words[0]);
        store_4(outer + 4, words[1]);
        store_4(outer + 8, words[2] | u32::from(!folded(sum)) << 16);
        store_4(outer + 12, source);
        store_4(outer + 16, to);
        store_8(start, macs.0);
        store_4(start + 8, macs.1);
        store_2(start + 12, 0x0800_u16.to_be());
    }
    Some(())
}
