//! Whether a source may begin flows at a listener.

use aya_ebpf::btf_maps::lpm_trie::Key;
use lb_common::{
    counters::DropReason,
    listener::ListenerEntry,
    security_group::{GROUP_BITS, Rule, SourceKey},
};

use crate::family::Family;

/// Lets through what the listener's security group allows. Stateful: packets of
/// a known flow don't come here.
#[inline(always)]
pub fn check<F: Family>(listener: &ListenerEntry, source: F) -> Result<(), DropReason> {
    if listener.security_group == 0 {
        return Ok(());
    }
    let key = SourceKey {
        group: u32::from(listener.security_group),
        address: source,
    };
    let bits = GROUP_BITS + 8 * size_of::<F>() as u32;
    // A group's default is one of its entries, so that one is always found.
    match F::security().get(&Key::new(bits, key)) {
        Some(&rule) if rule == Rule::Allow as u32 => Ok(()),
        _ => Err(DropReason::Denied),
    }
}
