//! Capturing: a packet before and after its way, for `xlb capture`.
//!
//! All of it hangs on a constant that the agent sets when it loads the programs.
//! While that is off, which it always is but in a variant that the agent loads
//! for a capture, the verifier takes everything here out of the programs.
//!
//! What stages find out they leave in [`Work`]. That of a packet before is
//! cleared first, and so nothing is said of one that comes from another.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_CURRENT_CPU, xdp_md},
    helpers::generated::{
        bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_perf_event_output, bpf_skb_load_bytes,
        bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
};
use lb_common::{
    Ipv4, Ipv6,
    capture::{
        Capture, DESTINATION, EGRESS, Ends, HOSTS, Head, INGRESS, MAX_SNAP, NONE, PORTS, SCRATCHES,
        SOURCE, Scratch, TARGETS, Verdict,
    },
    counters::DropReason,
    flow::{Endpoints, FlowEntry, FlowKey},
    wire::Wide,
};

use crate::{
    family::Family,
    maps,
    packet::opaque,
    transmit::Way,
    work::{User, Work},
};

/// What to capture. The agent puts another one here, by this name.
#[unsafe(no_mangle)]
static CAPTURE_SETTINGS: Capture = Capture::OFF;

/// A word of it: one that the compiler doesn't know, and the verifier does.
macro_rules! setting {
    ($($field:tt)+) => {
        // SAFETY: a live, aligned word of the static.
        unsafe { (&raw const CAPTURE_SETTINGS.$($field)+).read_volatile() }
    };
}

#[inline(always)]
pub fn is_on() -> bool {
    setting!(on) != 0
}

/// Keeps a frame as it comes in.
#[inline(never)]
pub fn arrive(ctx: *mut xdp_md) {
    clear::<Ipv4>(User::Ingress);
    clear::<Ipv6>(User::Ingress);
    let Some(scratch) = scratch(INGRESS) else {
        return;
    };
    // SAFETY: the pointer is this program's context.
    let length = unsafe { bpf_xdp_get_buff_len(ctx) } as u32;
    let (to, captured) = (scratch.before.as_mut_ptr(), nonzero(length));
    // SAFETY: `captured` is at most what `to` has room for.
    let failed = unsafe { bpf_xdp_load_bytes(ctx, 0, to.cast(), captured) } != 0;
    scratch.head.before = if failed { 0 } else { length };
}

/// Keeps a frame as it goes out.
#[inline(never)]
pub fn depart(skb: *mut __sk_buff) {
    clear::<Ipv4>(User::Egress);
    clear::<Ipv6>(User::Egress);
    let Some(scratch) = scratch(EGRESS) else {
        return;
    };
    // SAFETY: the kernel translates this read of the context.
    let length = unsafe { (*skb).len };
    let (to, captured) = (scratch.before.as_mut_ptr(), nonzero(length));
    // SAFETY: as above.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), 0, to.cast(), captured) } != 0;
    scratch.head.before = if failed { 0 } else { length };
}

/// Says what becomes of a frame that came in, if the filter admits it.
#[inline(always)]
pub fn conclude(ctx: *mut xdp_md, result: Result<Way, DropReason>) {
    let (verdict, out, reason) = match result {
        Ok(Way::Stack) => (Verdict::Pass, 0, NONE),
        Ok(Way::Transmit) => (Verdict::Transmit, 0, NONE),
        Ok(Way::Redirect(device)) => (Verdict::Redirect, device, NONE),
        Ok(Way::Handoff(device)) => (Verdict::Handoff, device, NONE),
        Err(reason) if reason.is_drop() => (Verdict::Drop, 0, reason as u32),
        Err(reason) => (Verdict::Pass, 0, reason as u32),
    };
    note(ctx, verdict as u32, out, reason);
}

/// The same for one that this host sends or forwards. Most are nothing to xlb.
#[inline(always)]
pub fn conclude_reply(skb: *mut __sk_buff, result: Result<(), DropReason>) {
    match result {
        Ok(()) => note_reply(skb, Verdict::Pass as u32, NONE),
        Err(reason) if reason.is_drop() => note_reply(skb, Verdict::Drop as u32, reason as u32),
        Err(_) => {}
    }
}

#[inline(never)]
fn note(ctx: *mut xdp_md, verdict: u32, out: u32, reason: u32) {
    let Some(scratch) = scratch(INGRESS) else {
        return;
    };
    let head = &mut scratch.head;
    head.hook = INGRESS;
    head.verdict = verdict;
    head.reason = reason;
    // SAFETY: the kernel translates this read of the context.
    head.interface = unsafe { (*ctx).ingress_ifindex };
    head.out = match verdict == Verdict::Transmit as u32 {
        true => head.interface,
        false => out,
    };
    head.after = match reason {
        // SAFETY: the pointer is this program's context.
        NONE => unsafe { bpf_xdp_get_buff_len(ctx) as u32 },
        _ => 0,
    };
    describe(User::Ingress, head);
    emit_xdp(ctx);
}

#[inline(never)]
fn note_reply(skb: *mut __sk_buff, verdict: u32, reason: u32) {
    let Some(scratch) = scratch(EGRESS) else {
        return;
    };
    let head = &mut scratch.head;
    head.hook = EGRESS;
    head.verdict = verdict;
    head.reason = reason;
    // SAFETY: the kernel translates these reads of the context.
    let (interface, length) = unsafe { ((*skb).ifindex, (*skb).len) };
    head.interface = interface;
    (head.out, head.after) = match reason {
        NONE => (interface, length),
        _ => (0, 0),
    };
    describe(User::Egress, head);
    emit_skb(skb);
}

/// Sends the record if the filter admits it. Not a global function, which kernels
/// before 6.8 verify even if nothing calls it.
#[inline(never)]
fn emit_xdp(ctx: *mut xdp_md) {
    if let Some(scratch) = scratch(INGRESS) {
        send(ctx.cast(), scratch);
    }
}

/// The same on egress.
#[inline(never)]
fn emit_skb(skb: *mut __sk_buff) {
    if let Some(scratch) = scratch(EGRESS) {
        send(skb.cast(), scratch);
    }
}

/// Clears what is read of a packet's [`Work`].
#[inline(always)]
fn clear<F: Family>(user: User) {
    if let Some(work) = Work::<F>::of_this_cpu(user) {
        work.parsed.key = FlowKey::default();
        work.flow = FlowEntry::default();
        work.listener.table_size = 0;
        work.answered = 0;
    }
}

/// Says what is known of the packet. Only in its own family that is anything.
#[inline(always)]
fn describe(user: User, head: &mut Head) {
    head.protocol = 0;
    head.listener = NONE;
    head.target = 0;
    head.generation = 0;
    head.flags = 0;
    for ends in &mut head.ends {
        ends.family = 0;
    }
    describe_in::<Ipv4>(user, head);
    describe_in::<Ipv6>(user, head);
}

#[inline(always)]
fn describe_in<F: Family>(user: User, head: &mut Head) {
    let Some(work) = Work::<F>::of_this_cpu(user) else {
        return;
    };
    let (key, flow) = (&work.parsed.key, &work.flow);
    if key.protocol == 0 {
        return;
    }
    head.protocol = key.protocol;
    head.ends[0] = ends(&key.endpoints);
    // No table has no slots, and no generation is 0.
    if work.listener.table_size != 0 {
        head.listener = work.listener.id;
    }
    if work.answered != 0 {
        head.reason = work.answered;
    }
    if flow.generation == 0 {
        return;
    }
    head.listener = flow.listener.into();
    head.target = flow.target;
    head.generation = flow.generation;
    head.flags = flow.flags.into();
    if !flow.is_dsr() {
        head.ends[1] = ends(&flow.rewrite);
    } else if let Some(target) = maps::TARGETS.get(flow.target) {
        // It leaves as it came, for there.
        head.ends[1] = Ends {
            source: head.ends[0].source,
            destination: target.address,
            source_port: head.ends[0].source_port,
            destination_port: target.port,
            family: F::LINUX_FAMILY.into(),
        };
    }
}

#[inline(always)]
fn ends<F: Family>(at: &Endpoints<F>) -> Ends {
    Ends {
        source: at.source.to_wide(),
        destination: at.destination.to_wide(),
        source_port: at.source_port,
        destination_port: at.destination_port,
        family: F::LINUX_FAMILY.into(),
    }
}

/// The frame as it is now is appended by the kernel.
#[inline(always)]
fn send(ctx: *mut c_void, scratch: &mut Scratch) {
    if !admits(&scratch.head) {
        return;
    }
    // SAFETY: the helper has no arguments and no failure.
    scratch.head.time = unsafe { bpf_ktime_get_ns() };
    let after = u64::from(cut(scratch.head.after)) << 32;
    let flags = u64::from(BPF_F_CURRENT_CPU as u32) | after;
    let size = size_of::<Head>() + opaque((cut(scratch.head.before) & MAX_SNAP) as usize);
    let record: *mut Head = &raw mut scratch.head;
    let buffers = (&raw const maps::CAPTURED).cast_mut().cast();
    // SAFETY: the frame lies behind the head, and `size` ends within it.
    let sent = unsafe { bpf_perf_event_output(ctx, buffers, flags, record.cast(), size as u64) };
    if sent != 0 {
        scratch.lost += 1;
    }
}

#[inline(always)]
fn admits(head: &Head) -> bool {
    let is_passed = head.verdict == Verdict::Pass as u32 && head.reason != NONE;
    let (listener, protocol, reasons) = (setting!(listener), setting!(protocol), setting!(reasons));
    if is_passed && setting!(all) == 0 && reasons == 0
        || listener != NONE && listener != head.listener
        || setting!(verdicts) >> (head.verdict & 31) & 1 == 0
        || reasons != 0 && (head.reason >= 64 || reasons >> (head.reason & 63) & 1 == 0)
        || protocol != 0 && !is_of(protocol, head.protocol)
    {
        return false;
    }
    is_for_target(head) && hosts_hold(head) && ports_hold(head)
}

#[inline(always)]
fn is_of(protocol: u32, packet: u32) -> bool {
    let is_icmp = protocol == u32::from(<Ipv4 as Family>::ICMP);
    packet == protocol || is_icmp && packet == u32::from(<Ipv6 as Family>::ICMP)
}

#[inline(always)]
fn is_for_target(head: &Head) -> bool {
    let count = setting!(targets) as usize;
    let mut found = count == 0;
    for index in 0..TARGETS {
        if index < count {
            found |= setting!(target[index].id) == head.target
                && setting!(target[index].generation) == head.generation;
        }
    }
    found
}

#[inline(always)]
fn hosts_hold(head: &Head) -> bool {
    let count = setting!(hosts) as usize;
    for index in 0..HOSTS {
        if index < count && !host_holds(index, &head.ends[0]) && !host_holds(index, &head.ends[1]) {
            return false;
        }
    }
    true
}

#[inline(always)]
fn host_holds(index: usize, ends: &Ends) -> bool {
    let of = setting!(host[index].ends);
    setting!(host[index].family) == ends.family
        && (of & SOURCE != 0 && has(index, &ends.source)
            || of & DESTINATION != 0 && has(index, &ends.destination))
}

#[inline(always)]
fn has(index: usize, address: &Wide) -> bool {
    let mut differs = 0;
    for (at, word) in address.iter().enumerate() {
        let mask = setting!(host[index].mask[at]);
        differs |= word & mask ^ setting!(host[index].address[at]);
    }
    differs == 0
}

#[inline(always)]
fn ports_hold(head: &Head) -> bool {
    let count = setting!(ports) as usize;
    for index in 0..PORTS {
        if index < count && !port_holds(index, &head.ends[0]) && !port_holds(index, &head.ends[1]) {
            return false;
        }
    }
    true
}

#[inline(always)]
fn port_holds(index: usize, ends: &Ends) -> bool {
    let (of, port) = (setting!(port[index].ends), setting!(port[index].port));
    let is = |at: u16| port == u32::from(at);
    // Without a family there is no end.
    ends.family != 0
        && (of & SOURCE != 0 && is(ends.source_port.get())
            || of & DESTINATION != 0 && is(ends.destination_port.get()))
}

/// Bytes that are captured of so many.
#[inline(always)]
fn cut(length: u32) -> u32 {
    length.min(setting!(snap)).min(MAX_SNAP)
}

/// The same, but not 0: helpers that read a frame refuse what may be nothing.
/// In a form in which every kernel's verifier sees both bounds.
#[inline(always)]
fn nonzero(length: u32) -> u32 {
    let last = opaque((cut(length).max(1) - 1) as usize) as u32;
    opaque(((last & MAX_SNAP) + 1) as usize) as u32
}

#[inline(always)]
fn scratch(hook: u32) -> Option<&'static mut Scratch> {
    // SAFETY: the helper has no arguments and no failure.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let scratch = maps::CAPTURE.get_ptr_mut(cpu * SCRATCHES + hook)?;
    // SAFETY: it is of this CPU and this hook, whose programs run one after the
    // other, and each function asks for it once.
    Some(unsafe { &mut *scratch })
}
