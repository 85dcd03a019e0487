//! How many new flows a listener, and each source prefix at it, may bring.
//!
//! Events are counted by whole seconds in windows that all CPUs share, without
//! atomics. Two CPUs that count at the same moment may lose one: a limit is a
//! protection, not a meter.

use lb_common::{
    Address as _, Ipv6,
    counters::DropReason,
    limits::ICMP_ERRORS_PER_SECOND,
    listener::{ListenerEntry, ListenerLimits, SourceRateKey, Window},
    wire::Wide,
};

use crate::{family::Family, maps};

/// Admits one more new flow, or says which limit forbids it. The source's own
/// limit comes first: a flood from one prefix doesn't use up the listener's.
#[inline(always)]
pub fn admit<F: Family>(listener: &ListenerEntry, source: F, now: u32) -> Result<(), DropReason> {
    if !listener.has(ListenerEntry::LIMITED) {
        return Ok(());
    }
    let Some(limits) = maps::LISTENER_LIMITS.get(listener.id) else {
        return Ok(());
    };
    if limits.new_flows_per_source != 0 && !source_may(listener.id, limits, source, now) {
        return Err(DropReason::SourceLimit);
    }
    if limits.new_flows != 0
        && let Some(window) = maps::LISTENER_RATES.get_ptr_mut(listener.id)
        && !take(window, now, limits.new_flows)
    {
        return Err(DropReason::NewFlowLimit);
    }
    Ok(())
}

#[inline(always)]
fn source_may<F: Family>(listener: u32, limits: &ListenerLimits, source: F, now: u32) -> bool {
    let key = SourceRateKey {
        prefix: masked(source.to_wide(), F::source_prefix(limits)),
        listener,
    };
    if let Some(window) = maps::SOURCE_RATES.get_ptr_mut(key) {
        return take(window, now, limits.new_flows_per_source);
    }
    let first = Window {
        second: now,
        count: 1,
    };
    // Another CPU's may have come first; then this one goes uncounted.
    let _ = maps::SOURCE_RATES.insert(key, first, 0);
    true
}

/// The first `bits` of an address, the others zero.
#[inline(always)]
fn masked(address: Wide, bits: u32) -> Wide {
    let mut masked = Ipv6::from_wide(address).words();
    for (index, word) in masked.iter_mut().enumerate() {
        let left = bits.saturating_sub(32 * index as u32);
        let mask = if left >= 32 {
            u32::MAX
        } else {
            !(u32::MAX >> left)
        };
        *word &= mask.to_be();
    }
    masked
}

/// Counts an event of this second; false beyond `limit`.
#[inline(always)]
fn take(window: *mut Window, now: u32, limit: u32) -> bool {
    // SAFETY: the pointer is into a map that stays valid for this packet.
    // Other CPUs write the fields too; each is one aligned integer that stands
    // for itself.
    let window = unsafe { &mut *window };
    if window.second != now {
        window.second = now;
        window.count = 1;
        return true;
    }
    if window.count >= limit {
        return false;
    }
    window.count += 1;
    true
}

/// Whether this CPU may send one more ICMP error (RFC 1812, section 4.3.2.8).
#[inline(always)]
pub fn icmp_error(now: u32) -> bool {
    maps::ICMP_RATE
        .get_ptr_mut(0)
        .is_some_and(|window| take(window, now, ICMP_ERRORS_PER_SECOND))
}
