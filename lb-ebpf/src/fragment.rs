//! Fragments: the first of a datagram has the ports and finds or begins the
//! flow; it leaves its ports for the later ones.

use lb_common::{
    counters::DropReason,
    fragment::{FragmentEntry, FragmentKey},
    limits::FRAGMENT_SECONDS,
    listener::VipEntry,
    tcp::Flags,
};

use crate::{
    family::Family,
    flow::{Hook, forget, is_past, now},
    listener,
    parse::{Ip, Parsed, Part, transport::Header},
};

/// What the first fragment said. A later one that has none is the host's own
/// or has overtaken its first. To an address of xlb's own it can't be the
/// host's; elsewhere the kernel gets it, as all that isn't ours.
#[inline(always)]
pub fn transport<F: Family>(ip: &Ip<F>, hook: Hook) -> Result<Header, DropReason> {
    // SAFETY: the entry is copied at once, and each of its fields stands for
    // itself.
    if let Some(&entry) = unsafe { F::fragments().get(key(ip, hook)) }
        && !is_past(now(), entry.second, FRAGMENT_SECONDS)
    {
        return Ok(Header {
            source_port: entry.source_port,
            destination_port: entry.destination_port,
            flags: Flags(0),
        });
    }
    Err(match listener::vip(&ip.destination) {
        Some(vip) if vip.has(VipEntry::OWNED) => DropReason::FragmentOrder,
        _ => DropReason::Fragment,
    })
}

/// A datagram begins: what an older one with its identification has left is
/// void, also if this one isn't ours.
#[inline(always)]
pub fn begin<F: Family>(ip: &Ip<F>, hook: Hook) {
    forget(F::fragments().remove(key(ip, hook)));
}

/// Leaves a first fragment's ports for those that follow.
#[inline(always)]
pub fn remember<F: Family>(parsed: &Parsed<F>, hook: Hook, now: u32) {
    if parsed.ip.fragment.part == Part::First {
        leave_ports(parsed, hook, now);
    }
}

#[inline(never)]
fn leave_ports<F: Family>(parsed: &Parsed<F>, hook: Hook, now: u32) {
    let entry = FragmentEntry {
        source_port: parsed.key.endpoints.source_port,
        destination_port: parsed.key.endpoints.destination_port,
        second: now,
    };
    // Without the entry the later ones are lost, which they can be anyway.
    let _ = F::fragments().insert(key(&parsed.ip, hook), entry, 0);
}

#[inline(always)]
fn key<F: Family>(ip: &Ip<F>, hook: Hook) -> FragmentKey<F> {
    FragmentKey {
        source: ip.source,
        destination: ip.destination,
        identification: ip.fragment.identification,
        protocol: u16::from(ip.protocol),
        hook: hook as u16,
    }
}
