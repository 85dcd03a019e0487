//! What can't be ours, told from its addresses alone.

use lb_common::{counters::DropReason, filter::bit};

use crate::{family::Family, maps, parse::Parsed};

/// Refuses a packet whose destination is neither a listener's address nor one
/// that source NAT writes, and whose source is no target's. To be asked for
/// TCP and UDP only: an ICMP error about a flow comes from anywhere.
#[inline(always)]
pub fn check<F: Family>(parsed: &Parsed<F>) -> Result<(), DropReason> {
    let filter = maps::FILTER.get(0).ok_or(DropReason::Internal)?;
    let has = |address: F| {
        let (word, mask) = bit(address.to_wide());
        filter[word % filter.len()] & mask != 0
    };
    if has(parsed.ip.destination) || has(parsed.ip.source) {
        Ok(())
    } else {
        Err(DropReason::NotOurs)
    }
}
