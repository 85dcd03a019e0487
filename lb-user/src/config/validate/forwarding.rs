//! How packets reach a group's targets.

use super::target::check_families;
use crate::{
    address::{Family, Prefix},
    config::{
        Encapsulation, Forwarding, Target, Tunnel,
        diagnostic::Diagnostic,
        reader::{At, Section},
        values,
    },
};

/// UDP ports of the encapsulations: GUE's by IANA, Geneve's by RFC 8926.
const GUE_PORT: u16 = 6080;
const GENEVE_PORT: u16 = 6081;
/// A virtual network identifier has 24 bits.
const MAX_VIRTUAL_NETWORK: u32 = (1 << 24) - 1;
/// Outer source addresses vary in 24 bits of IPv4 and 32 of IPv6 at most.
const MIN_SOURCE_LENGTH: [u8; 2] = [8, 96];

pub(super) fn forwarding(section: &Section<'_>, targets: &[At<Target>]) -> Forwarding {
    const TUNNEL: [&str; 4] = [
        "encapsulation",
        "encapsulation_port",
        "encapsulation_source",
        "virtual_network",
    ];
    if section.word("forwarding", &["nat", "dsr"]) != Some(1) {
        reject(section, &TUNNEL, "goes with `forwarding = \"dsr\"` only");
        check_families(section, targets);
        return Forwarding::Nat {
            preserve_client_ip: section.boolean("preserve_client_ip").unwrap_or(false),
        };
    }
    let why = "goes with `nat` only: a target of `dsr` always sees the client's address";
    reject(section, &["preserve_client_ip"], why);
    if let Some(local) = targets.iter().find(|target| target.value.address.is_none()) {
        let message = "a target of `dsr` is another host, so it needs an address";
        section.report(Diagnostic::error(local.span.clone(), message));
    }
    Forwarding::Dsr(tunnel(section, targets))
}

fn tunnel(section: &Section<'_>, targets: &[At<Target>]) -> Tunnel {
    let all = [
        Encapsulation::None,
        Encapsulation::Ipip,
        Encapsulation::Gue,
        Encapsulation::Geneve,
    ];
    let encapsulation = section
        .word("encapsulation", &["none", "ipip", "gue", "geneve"])
        .map_or(Encapsulation::None, |word| all[word]);
    let mut tunnel = Tunnel {
        encapsulation,
        ..Tunnel::default()
    };
    match encapsulation {
        Encapsulation::None => {
            check_families(section, targets);
            reject(
                section,
                &["encapsulation_source"],
                "needs an `encapsulation`",
            );
        }
        _ => tunnel.source = source(section, targets),
    }
    match encapsulation {
        Encapsulation::None | Encapsulation::Ipip => {
            let why = "goes with `gue` and `geneve` only, which have UDP ports";
            reject(section, &["encapsulation_port"], why);
        }
        Encapsulation::Gue => tunnel.port = port(section, GUE_PORT),
        Encapsulation::Geneve => tunnel.port = port(section, GENEVE_PORT),
    }
    if encapsulation == Encapsulation::Geneve {
        tunnel.virtual_network = section
            .number("virtual_network", 0..=MAX_VIRTUAL_NETWORK)
            .map_or(0, |number| number.value);
    } else {
        reject(
            section,
            &["virtual_network"],
            "goes with `encapsulation = \"geneve\"` only",
        );
    }
    tunnel
}

fn port(section: &Section<'_>, default: u16) -> u16 {
    section
        .number("encapsulation_port", 1..=u32::from(u16::MAX))
        .map_or(default, |port| port.value as u16)
}

/// A prefix of the targets' family, or a single address.
fn source(section: &Section<'_>, targets: &[At<Target>]) -> Option<Prefix> {
    let key = "encapsulation_source";
    let At { value, span } = section.text(key)?;
    let report = |message: String| {
        section.report(Diagnostic::error(span.clone(), message));
        None
    };
    let prefix = match values::prefix(value) {
        Ok(prefix) => prefix,
        Err(error) => return report(error),
    };
    if let Some(why) = values::not_reachable(prefix.address()) {
        return report(format!("`{value}` can't be used: {why}"));
    }
    let family = Family::of(prefix.address());
    let [v4, v6] = MIN_SOURCE_LENGTH;
    let least = if family == Family::V4 { v4 } else { v6 };
    if prefix.length() < least {
        return report(format!("`{key}` must be a prefix of {least} bits at least"));
    }
    let other = |target: &At<Target>| target.value.address.map(Family::of) != Some(family);
    if targets.iter().any(other) {
        return report(format!(
            "`{key}` is {family}, and not all targets have {family} addresses"
        ));
    }
    Some(prefix)
}

/// Reports keys that mean nothing here.
fn reject(section: &Section<'_>, keys: &[&'static str], why: &str) {
    for key in keys {
        if let Some(span) = section.place(key) {
            section.report(Diagnostic::error(span, format!("`{key}` {why}")));
        }
    }
}
