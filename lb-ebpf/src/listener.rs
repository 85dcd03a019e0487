//! Which listener a packet is for.

use aya_ebpf::btf_maps::lpm_trie::Key;
use lb_common::{
    counters::DropReason,
    flow::FlowKey,
    listener::{ListenerEntry, ListenerKey, VipEntry},
};

use crate::family::Family;

/// The listener at the packet's destination. What has none isn't ours. One of
/// a single port is found before one of a range.
#[inline(always)]
pub fn find<F: Family>(key: &FlowKey<F>) -> Result<ListenerEntry, DropReason> {
    let at = &key.endpoints;
    let key = ListenerKey::new(at.destination, at.destination_port, key.protocol());
    // SAFETY: the entry is copied at once; the agent replaces entries as a
    // whole, and the memory of an old one stays an entry of this map for as long
    // as this program runs.
    if let Some(&listener) = unsafe { F::listeners().get(key) } {
        return Ok(listener);
    }
    if !vip(&at.destination).is_some_and(|vip| vip.has(VipEntry::RANGES)) {
        return Err(DropReason::NotOurs);
    }
    F::listener_ranges()
        .get(&Key::new(ListenerKey::<F>::BITS, key))
        .copied()
        .ok_or(DropReason::NotOurs)
}

/// What xlb does at an address; `None` for an address of no listener.
#[inline(always)]
pub fn vip<F: Family>(address: &F) -> Option<VipEntry> {
    // SAFETY: as above.
    unsafe { F::vips().get(address) }.copied()
}
