//! Which listener a packet is for.

use lb_common::{
    counters::DropReason,
    flow::FlowKey,
    listener::{ListenerEntry, ListenerKey},
};

use crate::family::Family;

/// The listener at the packet's destination. What has none isn't ours.
#[inline(always)]
pub fn find<F: Family>(key: &FlowKey<F>) -> Result<ListenerEntry, DropReason> {
    let at = &key.endpoints;
    F::listener(&ListenerKey::new(
        at.destination,
        at.destination_port,
        key.protocol(),
    ))
    .ok_or(DropReason::NotOurs)
}
