//! Frames that are sent and counted by the kernel itself, at either end of a
//! network: as many as one CPU can, with as little else as possible.
//!
//! `generate` is run by `BPF_PROG_TEST_RUN` with live frames, which transmits
//! what a program returns with `XDP_TX`. The kernel uses frames again without
//! restoring them, so each is written anew. `receive` is attached where they
//! arrive; `reflect` and `forward` are the least that a host in between can do.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For any other target this crate is empty: it exists so that workspace-wide
// commands don't stumble over it.
#![cfg(target_arch = "bpf")]

mod link;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::bpf_redirect,
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};
use link::Link;

/// Bytes of a frame, in words: Ethernet, IPv4, UDP and 22 bytes, the shortest
/// that Ethernet has (its checksum isn't there).
const WORDS: usize = 8;
const HALVES: usize = WORDS * 4;
/// In half words: the source port, and what balances its part of the checksum.
const PORT: usize = 17;
const BALANCE: usize = 21;

/// What is sent. Must be as user space has it, see `network/live.rs` there.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Template {
    /// How many flows there are, from the first one's source port on.
    flows: u32,
    /// The first one's port, and the balance to it, in the host's order.
    port: u16,
    balance: u16,
    words: [u64; WORDS],
}

/// Where `forward` sends frames. Must be as user space has it too.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Way {
    /// The device, by its index.
    interface: u32,
    /// Destination and source.
    macs: [u16; 6],
}

const IPV4: u16 = 0x0800_u16.to_be();

#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);
/// The flow of the next frame.
#[map]
static NEXT: Array<u32> = Array::with_max_entries(1, 0);
/// 0: whatever arrives is passed. 1: frames are counted, and go no further.
#[map]
static COUNTING: Array<u32> = Array::with_max_entries(1, 0);
/// Frames that have arrived, by the CPU that took them.
#[map]
static RECEIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// By the index of the device that a frame came by, which is small in a
/// namespace of its own.
#[map]
static WAYS: Array<Way> = Array::with_max_entries(64, 0);

#[xdp(frags)]
pub fn generate(ctx: XdpContext) -> u32 {
    match write(ctx.data(), ctx.data_end()) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn write(start: usize, end: usize) -> Option<()> {
    if start + size_of::<[u64; WORDS]>() > end {
        return None;
    }
    let template = TEMPLATE.get(0)?;
    let next = NEXT.get_ptr_mut(0)?;
    // SAFETY: one CPU sends.
    let flow = unsafe { *next };
    let following = if flow + 1 < template.flows {
        flow + 1
    } else {
        0
    };
    // SAFETY: as above.
    unsafe { *next = following };
    for (index, word) in template.words.iter().enumerate() {
        // SAFETY: within what was just checked; half words are at even
        // addresses, and what the machine is, it may write unaligned.
        unsafe { (start as *mut u64).add(index).write_unaligned(*word) };
    }
    let halves = start as *mut [u16; HALVES];
    // The port grows by what the balance shrinks, so that the UDP checksum is
    // the same for every flow.
    // SAFETY: within what was just checked.
    unsafe {
        (*halves)[PORT] = (template.port + flow as u16).to_be();
        (*halves)[BALANCE] = (template.balance - flow as u16).to_be();
    }
    Some(())
}

#[xdp(frags)]
pub fn receive(ctx: XdpContext) -> u32 {
    match count(ctx.data(), ctx.data_end()) {
        Some(()) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_PASS,
    }
}

/// UDP, and what is in another IP header: no packet of anybody else's is.
#[inline(always)]
fn count(start: usize, end: usize) -> Option<()> {
    const IPIP: u8 = 4;
    const UDP: u8 = 17;
    if start + 34 > end || *COUNTING.get(0)? == 0 {
        return None;
    }
    // SAFETY: just checked.
    let (ethertype, protocol) = unsafe {
        (
            ((start + 12) as *const u16).read_unaligned(),
            ((start + 23) as *const u8).read(),
        )
    };
    if ethertype != IPV4 || !matches!(protocol, IPIP | UDP) {
        return None;
    }
    let received = RECEIVED.get_ptr_mut(0)?;
    // SAFETY: this CPU's own, on which programs of this kind don't interrupt each
    // other.
    unsafe { *received += 1 };
    Some(())
}

/// Sends each frame back to whom it came from.
#[xdp(frags)]
pub fn reflect(ctx: XdpContext) -> u32 {
    match link::swap(ctx.data(), ctx.data_end()) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Sends IPv4 out of another device, to a certain host: the least that a host
/// between two networks can do.
#[xdp(frags)]
pub fn forward(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of::<Link>() > end {
        return xdp_action::XDP_ABORTED;
    }
    let link = start as *mut Link;
    // SAFETY: just checked; half words are at even addresses.
    let [.., ethertype] = unsafe { link.read() };
    // SAFETY: the context is live; the kernel translates this read.
    let incoming = unsafe { (*ctx.ctx).ingress_ifindex };
    let (Some(way), IPV4) = (WAYS.get(incoming), ethertype) else {
        return xdp_action::XDP_PASS;
    };
    let [a, b, c, d, e, f] = way.macs;
    // SAFETY: as above; and a helper that takes two numbers.
    unsafe {
        link.write([a, b, c, d, e, f, ethertype]);
        bpf_redirect(way.interface, 0) as u32
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier accepts no program in which this can be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
