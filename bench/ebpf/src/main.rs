//! The harness in which xlb's data path is measured, and the floors to compare
//! it with.
//!
//! `BPF_PROG_TEST_RUN` doesn't reset the packet between repeats: of a program
//! that rewrites, all but the first would see another packet. So it is this
//! program that is repeated. Each time it restores the frame, and then becomes
//! the program under test by a tail call.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For any other target this crate is empty: it exists so that workspace-wide
// commands don't stumble over it.
#![cfg(target_arch = "bpf")]
#![feature(asm_experimental_arch)]

mod bare;
mod link;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::generated::bpf_xdp_adjust_head,
    macros::{map, xdp},
    maps::{Array, LruHashMap, ProgramArray},
    programs::XdpContext,
};
use link::Link;

/// Bytes that are restored: every header that is measured with, and a whole
/// number of words.
const WORDS: usize = 12;

/// What each repeat starts with. Must be as user space has it, see `harness.rs`
/// there.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Frame {
    /// Of the whole frame, in bytes; at least that of `words`.
    length: u32,
    /// Which end of the flow varies, a `VARY_…`.
    vary: u32,
    words: [u64; WORDS],
}

const VARY_SOURCE_V4: u32 = 1;
const VARY_DESTINATION_V4: u32 = 2;
const VARY_SOURCE_V6: u32 = 3;
const VARY_DESTINATION_V6: u32 = 4;

/// Flows that a varying frame goes through, as a power of two.
const FLOW_BITS: u32 = 20;

#[map]
static FRAME: Array<Frame> = Array::with_max_entries(1, 0);
/// How many varying frames there have been.
#[map]
static COUNTER: Array<u64> = Array::with_max_entries(1, 0);
/// Element 0 is the program under test.
#[map]
static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[xdp(frags)]
pub fn harness(ctx: XdpContext) -> u32 {
    if restore(ctx.ctx).is_some() {
        // SAFETY: what it is given is this program's own context.
        unsafe { UNDER_TEST.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn restore(ctx: *mut xdp_md) -> Option<()> {
    let frame = FRAME.get(0)?;
    // SAFETY: the context is live; the kernel translates these reads.
    let length = unsafe { (*ctx).data_end - (*ctx).data };
    if length != frame.length {
        let grown = length.wrapping_sub(frame.length) as i32;
        // SAFETY: it is this program's own context.
        if unsafe { bpf_xdp_adjust_head(ctx, grown) } != 0 {
            return None;
        }
    }
    // SAFETY: as above.
    let (start, end) = unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) };
    if start + size_of::<[u64; WORDS]>() > end {
        return None;
    }
    for (index, word) in frame.words.iter().enumerate() {
        // SAFETY: within what was just checked. Test runs begin a frame 256
        // bytes inside a page, which is aligned to a word.
        unsafe { (start as *mut u64).add(index).write(*word) };
    }
    match frame.vary {
        VARY_SOURCE_V4 => vary(start, 26, 34),
        VARY_DESTINATION_V4 => vary(start, 30, 36),
        VARY_SOURCE_V6 => vary(start, 34, 54),
        VARY_DESTINATION_V6 => vary(start, 50, 56),
        _ => Some(()),
    }
}

/// Gives the frame the next flow's address and port. Addresses differ in their
/// low bits, and come in an order that no prefetcher follows.
#[inline(always)]
fn vary(start: usize, address: usize, port: usize) -> Option<()> {
    const MASK: u32 = (1 << FLOW_BITS) - 1;
    let counter = COUNTER.get_ptr_mut(0)?;
    // SAFETY: the one test run that uses it goes on one CPU.
    let number = unsafe {
        *counter += 1;
        *counter as u32
    };
    // A bijection of 20 bits: each step can be undone.
    let mut flow = number & MASK;
    flow ^= flow >> 10;
    flow = flow.wrapping_mul(0x9_E375) & MASK;
    flow ^= flow >> 11;
    flow = flow.wrapping_mul(0x5_2DC1) & MASK;
    // SAFETY: `restore` has checked that all of it is there, and each of these
    // is at an even offset, which is all that u16 asks for.
    unsafe {
        let high = (start + address) as *mut u16;
        let base = u16::from_be(high.read());
        high.write((base | (flow >> 16) as u16).to_be());
        high.add(1).write((flow as u16).to_be());
        let port_of = 1024 | (flow & 0x3FFF) as u16;
        ((start + port) as *mut u16).write(port_of.to_be());
    }
    Some(())
}

/// The floor of what drops, and of what passes: both do nothing.
#[xdp(frags)]
pub fn floor_drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// The floor of what goes out as long as it came in.
#[xdp(frags)]
pub fn floor_transmit(ctx: XdpContext) -> u32 {
    match link::swap(ctx.data(), ctx.data_end()) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// The floors of what goes out in another header, which is constant here.
#[xdp(frags)]
pub fn floor_encapsulate_20(ctx: XdpContext) -> u32 {
    encapsulate::<20, 10>(&ctx)
}

#[xdp(frags)]
pub fn floor_encapsulate_40(ctx: XdpContext) -> u32 {
    encapsulate::<40, 20>(&ctx)
}

#[inline(always)]
fn encapsulate<const BYTES: usize, const HALVES: usize>(ctx: &XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of::<Link>() > end {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: just checked; half words are at even offsets.
    let [a, b, c, d, e, f, ethertype] = unsafe { (start as *const Link).read() };
    // SAFETY: it is this program's own context.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(BYTES as i32)) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of::<Link>() + BYTES > end {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: just checked, and as above.
    unsafe {
        (start as *mut Link).write([d, e, f, a, b, c, ethertype]);
        let header = (start + size_of::<Link>()) as *mut u16;
        for half in 0..HALVES {
            header.add(half).write(half as u16);
        }
    }
    xdp_action::XDP_TX
}

/// As large as an entry of the flow table.
type Key = [u32; 4];
const VALUE: [u32; 7] = [0; 7];

/// A table like that of the flows; as large as the case needs.
#[map]
static FLOWS: LruHashMap<Key, [u32; 7]> = LruHashMap::with_max_entries(1, 0);

/// The floor and what no flow table does without: a look-up of the flow…
#[xdp(frags)]
pub fn price_look_up(ctx: XdpContext) -> u32 {
    with_flow(&ctx, |key| FLOWS.get_ptr(key).map(drop))
}

/// … the entry of a new one, as `dsr` needs it…
#[xdp(frags)]
pub fn price_insert(ctx: XdpContext) -> u32 {
    with_flow(&ctx, |key| FLOWS.insert(key, VALUE, 0).ok())
}

/// … and one of each direction, as NAT does.
#[xdp(frags)]
pub fn price_insert_two(ctx: XdpContext) -> u32 {
    with_flow(&ctx, |key| {
        let [source, destination, ports, protocol] = *key;
        let reply = [destination, source, ports.rotate_left(16), protocol];
        FLOWS.insert(key, VALUE, 0).ok()?;
        FLOWS.insert(reply, VALUE, 0).ok()
    })
}

/// Does something with the key of an IPv4 frame, which then goes back.
#[inline(always)]
fn with_flow(ctx: &XdpContext, work: impl FnOnce(&Key) -> Option<()>) -> u32 {
    const ADDRESSES: usize = 26;
    let start = ctx.data();
    if start + ADDRESSES + 12 > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let word = |offset: usize| {
        // SAFETY: just checked; half words are at even offsets.
        let [low, high] = unsafe { ((start + offset) as *const [u16; 2]).read() };
        u32::from(low) | u32::from(high) << 16
    };
    let key = [word(ADDRESSES), word(ADDRESSES + 4), word(ADDRESSES + 8), 6];
    match work(&key).and_then(|()| link::swap(ctx.data(), ctx.data_end())) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier accepts no program in which this can be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

/// As that of the programs that it is to become.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
