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

/// What the first fragment said, the protocol too. A later one that has none is
/// the host's own or has overtaken its first. If it comes in for an address of
/// xlb's own it can't be the host's; else the kernel gets it, as all that isn't
/// ours, and as ICMP always.
#[inline(always)]
pub fn transport<F: Family>(ip: &mut Ip<F>, hook: Hook) -> Result<Header, DropReason> {
    // SAFETY: the entry is copied at once, and each of its fields stands for
    // itself.
    if let Some(&entry) = unsafe { F::fragments().get(key(ip, hook)) }
        && !is_past(now(), entry.second, FRAGMENT_SECONDS)
    {
        if entry.protocol == FragmentEntry::NOT_OURS {
            return Err(DropReason::Fragment);
        }
        ip.protocol = entry.protocol as u8;
        return Ok(Header {
            source_port: entry.source_port,
            destination_port: entry.destination_port,
            flags: Flags(0),
        });
    }
    if hook == Hook::Ingress && ip.protocol != F::ICMP && is_to_own(ip) {
        Err(DropReason::FragmentOrder)
    } else {
        Err(DropReason::Fragment)
    }
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
        protocol: u32::from(parsed.ip.protocol),
    };
    // Without the entry the later ones are lost, which they can be anyway.
    let _ = F::fragments().insert(key(&parsed.ip, hook), entry, 0);
}

/// Leaves word that a first fragment which comes in isn't ours, where those that
/// follow it would else be dropped.
#[inline(never)]
pub fn pass<F: Family>(ip: &Ip<F>) {
    if ip.fragment.part != Part::First || !is_to_own(ip) {
        return;
    }
    let entry = FragmentEntry {
        second: now(),
        protocol: FragmentEntry::NOT_OURS,
        ..FragmentEntry::default()
    };
    let _ = F::fragments().insert(key(ip, Hook::Ingress), entry, 0);
}

/// Whether the destination is an address that only xlb has.
#[inline(always)]
fn is_to_own<F: Family>(ip: &Ip<F>) -> bool {
    listener::vip(&ip.destination).is_some_and(|vip| vip.has(VipEntry::OWNED))
}

#[inline(always)]
fn key<F: Family>(ip: &Ip<F>, hook: Hook) -> FragmentKey<F> {
    FragmentKey {
        source: ip.source,
        destination: ip.destination,
        identification: ip.fragment.identification,
        protocol: match F::PROTOCOL_IDENTIFIES {
            true => u16::from(ip.protocol),
            false => 0,
        },
        hook: hook as u16,
    }
}
