//! What differs between address families on the packet's way: the maps that
//! hold their keys, and the header that a rewrite touches.

use aya_ebpf::{
    bindings::{BPF_F_PSEUDO_HDR, bpf_fib_lookup},
    programs::TcContext,
};
use lb_common::{
    Address, Ipv4,
    checksum::Delta,
    flow::{Endpoints, FlowEntry, FlowKey},
    listener::{ListenerEntry, ListenerKey},
};
use network_types::ip::Ipv4Hdr;

use crate::{
    maps,
    packet::Packet,
    select::{self, Search},
};

/// An address family, named by its address type.
pub trait Family: Address + 'static {
    /// Of the flow table. Pointers into it stay valid for the packet, since
    /// the kernel frees entries after an RCU grace period.
    fn established(key: &FlowKey<Self>) -> Option<*mut FlowEntry<Self>>;
    fn half_open(key: &FlowKey<Self>) -> Option<*mut FlowEntry<Self>>;
    fn insert_established(key: &FlowKey<Self>, entry: &FlowEntry<Self>) -> bool;
    /// `flags` as for `bpf_map_update_elem`. Returns whether it was inserted.
    fn insert_half_open(key: &FlowKey<Self>, entry: &FlowEntry<Self>, flags: u64) -> bool;
    fn remove_established(key: &FlowKey<Self>);
    fn remove_half_open(key: &FlowKey<Self>);
    fn listener(key: &ListenerKey<Self>) -> Option<ListenerEntry>;
    /// Runs [`crate::select`]'s search; 0 if it found a target.
    fn search(search: &mut Search<Self>) -> u32;

    /// The change of source and destination in a ones' complement sum.
    fn delta(from: &Endpoints<Self>, to: &Endpoints<Self>) -> Delta;
    /// Writes the addresses and the time to live, and mends the header's
    /// checksum where the family has one; `None` if the header isn't there.
    fn rewrite_header(
        packet: &Packet,
        offset: usize,
        to: &Endpoints<Self>,
        delta: Delta,
        time_to_live: u8,
    ) -> Option<()>;
    /// Replaces the addresses in an skb's transport checksum at `offset`;
    /// `flags` as for `bpf_l4_csum_replace`, without the size.
    fn replace_in_checksum(
        ctx: &TcContext,
        offset: usize,
        from: &Endpoints<Self>,
        to: &Endpoints<Self>,
        flags: u64,
    ) -> Option<()>;
    /// Sets family and addresses of a route look-up.
    fn fill_route(query: &mut bpf_fib_lookup, endpoints: &Endpoints<Self>);
}

/// Linux's address family number (`AF_INET`).
const AF_INET: u8 = 2;

impl Family for Ipv4 {
    #[inline(always)]
    fn established(key: &FlowKey<Self>) -> Option<*mut FlowEntry<Self>> {
        maps::ESTABLISHED_V4.get_ptr_mut(key)
    }

    #[inline(always)]
    fn half_open(key: &FlowKey<Self>) -> Option<*mut FlowEntry<Self>> {
        maps::HALF_OPEN_V4.get_ptr_mut(key)
    }

    #[inline(always)]
    fn insert_established(key: &FlowKey<Self>, entry: &FlowEntry<Self>) -> bool {
        maps::ESTABLISHED_V4.insert(key, entry, 0).is_ok()
    }

    #[inline(always)]
    fn insert_half_open(key: &FlowKey<Self>, entry: &FlowEntry<Self>, flags: u64) -> bool {
        maps::HALF_OPEN_V4.insert(key, entry, flags).is_ok()
    }

    #[inline(always)]
    fn remove_established(key: &FlowKey<Self>) {
        // Not there is as good as removed.
        let _ = maps::ESTABLISHED_V4.remove(key);
    }

    #[inline(always)]
    fn remove_half_open(key: &FlowKey<Self>) {
        // Not there is as good as removed.
        let _ = maps::HALF_OPEN_V4.remove(key);
    }

    #[inline(always)]
    fn listener(key: &ListenerKey<Self>) -> Option<ListenerEntry> {
        // SAFETY: the entry is copied at once; the agent replaces entries as a
        // whole, and the kernel frees the old one after an RCU grace period.
        unsafe { maps::LISTENERS_V4.get(key) }.copied()
    }

    #[inline(always)]
    fn search(search: &mut Search<Self>) -> u32 {
        select::xlb_search_v4(search)
    }

    #[inline(always)]
    fn delta(from: &Endpoints<Self>, to: &Endpoints<Self>) -> Delta {
        Delta::NONE
            .ipv4(from.source, to.source)
            .ipv4(from.destination, to.destination)
    }

    #[inline(always)]
    fn rewrite_header(
        packet: &Packet,
        offset: usize,
        to: &Endpoints<Self>,
        delta: Delta,
        time_to_live: u8,
    ) -> Option<()> {
        let mut header: Ipv4Hdr = packet.read(offset)?;
        let word = |ttl| u16::from_ne_bytes([ttl, header.proto as u8]);
        let check = delta
            .word(word(header.ttl), word(time_to_live))
            .apply(u16::from_ne_bytes(header.check));
        header.ttl = time_to_live;
        header.check = check.to_ne_bytes();
        header.src_addr = to.source.to_bytes();
        header.dst_addr = to.destination.to_bytes();
        packet.write(offset, header)
    }

    #[inline(always)]
    fn replace_in_checksum(
        ctx: &TcContext,
        offset: usize,
        from: &Endpoints<Self>,
        to: &Endpoints<Self>,
        flags: u64,
    ) -> Option<()> {
        let flags = flags | size_of::<Self>() as u64;
        let changes = [(from.source, to.source), (from.destination, to.destination)];
        for (from, to) in changes {
            if from != to {
                ctx.l4_csum_replace(offset, from.raw().into(), to.raw().into(), flags)
                    .ok()?;
            }
        }
        Some(())
    }

    #[inline(always)]
    fn fill_route(query: &mut bpf_fib_lookup, endpoints: &Endpoints<Self>) {
        query.family = AF_INET;
        query.__bindgen_anon_3.ipv4_src = endpoints.source.raw();
        query.__bindgen_anon_4.ipv4_dst = endpoints.destination.raw();
    }
}

/// Flag of `bpf_l4_csum_replace` for what the pseudo-header covers.
pub const PSEUDO_HEADER: u64 = BPF_F_PSEUDO_HDR as u64;
