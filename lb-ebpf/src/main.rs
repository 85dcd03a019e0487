//! xlb's kernel programs.
//!
//! | program | hook | what for |
//! |---|---|---|
//! | `xlb_ingress` | XDP | every packet that comes in: the packet's way, see `pipeline.rs` |
//! | `xlb_handoff` | tc ingress | sends what XDP has rewritten but can't send itself |
//! | `xlb_egress` | tc egress | replies of local targets, and of those that the kernel forwards |
//!
//! This file is the only place where a result becomes an action, and a drop
//! reason a count unless the packet goes on all the same (`pipeline::answer`,
//! `flow::promote`).

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For any other target this crate is empty: it exists so that workspace-wide
// commands don't stumble over it.
#![cfg(target_arch = "bpf")]
#![feature(asm_experimental_arch)]

mod capture;
mod egress;
mod encap;
mod family;
mod filter;
mod flow;
mod fragment;
mod handoff;
mod icmp;
mod limit;
mod link;
mod listener;
mod maps;
mod max_segment;
mod nat;
mod outcome;
mod packet;
mod parse;
mod pipeline;
mod reset;
mod route;
mod security_group;
mod select;
mod stats;
mod transmit;
mod tunnel;
mod work;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action, xdp_md},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use family::Family;
use lb_common::{Ipv4, Ipv6, counters::DropReason};
use packet::Packet;
use parse::ethernet;
use transmit::Way;

/// Takes frames of several buffers too, as jumbo frames are.
#[xdp(frags)]
pub fn xlb_ingress(ctx: XdpContext) -> u32 {
    if capture::is_on() {
        capture::arrive(ctx.ctx);
    }
    let link = match ethernet::parse(&Packet::of_xdp(&ctx)) {
        Ok(link) => link,
        Err(reason) => return conclude(ctx.ctx, Err(reason)),
    };
    match link.ethertype {
        Ipv4::ETHERTYPE => conclude(ctx.ctx, pipeline::ingress::<Ipv4>(ctx.ctx, &link)),
        Ipv6::ETHERTYPE => conclude(ctx.ctx, pipeline::ingress::<Ipv6>(ctx.ctx, &link)),
        _ => conclude(ctx.ctx, Err(DropReason::NotIp)),
    }
}

#[inline(always)]
fn conclude(ctx: *mut xdp_md, result: Result<Way, DropReason>) -> u32 {
    if capture::is_on() {
        capture::conclude(ctx, result);
    }
    match result {
        Ok(Way::Stack | Way::Handoff(_)) => xdp_action::XDP_PASS,
        Ok(Way::Transmit) => xdp_action::XDP_TX,
        Ok(Way::Redirect(interface)) => transmit::redirect(interface),
        Err(reason) => {
            stats::count(reason);
            if reason.is_drop() {
                xdp_action::XDP_DROP
            } else {
                xdp_action::XDP_PASS
            }
        }
    }
}

/// `TC_ACT_UNSPEC` lets programs and filters behind this one have their say.
#[classifier]
pub fn xlb_egress(ctx: TcContext) -> i32 {
    if capture::is_on() {
        capture::depart(ctx.skb.skb);
    }
    let result = egress::reply(&ctx);
    if capture::is_on() {
        capture::conclude_reply(ctx.skb.skb, result);
    }
    match result {
        Ok(()) => TC_ACT_UNSPEC,
        Err(reason) if reason.is_drop() => {
            stats::count(reason);
            TC_ACT_SHOT
        }
        // The host's own traffic, which is nothing to report.
        Err(_) => TC_ACT_UNSPEC,
    }
}

#[classifier]
pub fn xlb_handoff(ctx: TcContext) -> i32 {
    handoff::send(&ctx).unwrap_or(TC_ACT_UNSPEC)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier accepts no program in which this can be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

/// The kernel lets only GPL-compatible programs call `bpf_fib_lookup`'s kin.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
