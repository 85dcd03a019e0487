//! What maps there should be: those of the object, with room for the configured
//! capacity.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya_obj::Object;
use lb_common::{Ipv4, Ipv6, limits::ENTRIES_PER_FLOW};

use super::{
    OBJECT, SECURITY_ENTRIES,
    error::{LoadError, PinError},
    family::Keyed as _,
    pins::Pins,
    syscall::{self, MapInfo},
};
use crate::config::Capacity;

/// Maps that hold nothing which a packet needs of those before it: each start
/// makes them anew, so they may change with every build.
const SCRATCH: [&str; 5] = ["WORK", "ROUTES", "ICMP_RATE", "CAPTURE", "CAPTURED"];

/// Maps that a build with others goes on without: what they hold is over in
/// seconds, or is counted from zero then.
const RENEWABLE: [&str; 7] = [
    "FRAGMENTS_V4",
    "FRAGMENTS_V6",
    "LISTENER_RATES",
    "SOURCE_RATES",
    "LISTENER_TRAFFIC",
    "TARGET_TRAFFIC",
    "DROPS",
];

/// Whether a map outlives the agent. Names with a dot are sections of the
/// object, and no name for a pin.
pub(super) fn is_kept(name: &str) -> bool {
    !SCRATCH.contains(&name) && !name.contains('.')
}

/// Entries of the maps whose size the configuration sets.
pub(super) fn sizes(capacity: &Capacity) -> Vec<(&'static str, u32)> {
    let mut sizes = vec![
        ("TARGETS", capacity.targets),
        ("TARGET_TRAFFIC", capacity.targets),
        ("TARGET_FLOWS", capacity.targets),
        ("LISTENER_TRAFFIC", capacity.listeners),
        ("LISTENER_LIMITS", capacity.listeners),
    ];
    for names in [Ipv4::NAMES, Ipv6::NAMES] {
        sizes.extend([
            (names.established, capacity.flows * ENTRIES_PER_FLOW),
            (names.half_open, capacity.half_open_flows * ENTRIES_PER_FLOW),
            (names.security, SECURITY_ENTRIES),
        ]);
    }
    sizes
}

/// A map that is to take the place of a pinned one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resized {
    pub name: &'static str,
    /// Entries.
    pub from: u32,
    pub to: u32,
    /// It gets what the other one holds: only the number of entries differs.
    pub is_copied: bool,
}

/// Fails unless the pinned maps are what they should be, but for their size
/// where the configuration sets that, and for those that can be done without.
pub(super) fn check(pins: &Pins, capacity: &Capacity) -> Result<Vec<Resized>, LoadError> {
    let expected = shapes(capacity)?;
    let sizes = sizes(capacity);
    let mut resized = Vec::new();
    for name in pins.map_names()? {
        let Some(expected) = expected.get(&name).filter(|_| is_kept(&name)) else {
            // This version has no such map, or none that it keeps.
            continue;
        };
        let map = pins.open_map(&name)?;
        let found = syscall::map_info(map.as_fd()).map_err(|source| PinError::Io {
            action: "look at",
            path: pins.map(&name),
            source,
        })?;
        let found = MapInfo { id: 0, ..found };
        if found == *expected {
            continue;
        }
        let (from, to) = (found.max_entries, expected.max_entries);
        let is_like = MapInfo {
            max_entries: to,
            ..found
        } == *expected;
        let sized = sizes.iter().find(|(sized, _)| *sized == name);
        let renewable = RENEWABLE.into_iter().find(|it| *it == name);
        let (name, is_copied) = match (sized.filter(|_| is_like), renewable) {
            (Some(&(name, _)), _) => (name, true),
            (None, Some(name)) => (name, false),
            (None, None) => {
                let (found, expected) = (describe(&found), describe(expected));
                return Err(pins.misshapen(name, found, expected).into());
            }
        };
        resized.push(Resized {
            name,
            from,
            to,
            is_copied,
        });
    }
    Ok(resized)
}

fn describe(map: &MapInfo) -> String {
    let MapInfo {
        kind,
        key_size,
        value_size,
        max_entries,
        flags,
        ..
    } = map;
    format!(
        "{max_entries} entries of {key_size} and {value_size} bytes (type {kind}, flags {flags})"
    )
}

fn shapes(capacity: &Capacity) -> Result<BTreeMap<String, MapInfo>, LoadError> {
    let object = Object::parse(OBJECT).map_err(|error| LoadError::from_object(error.into()))?;
    let sizes: BTreeMap<&str, u32> = sizes(capacity).into_iter().collect();
    let shape = |(name, map): (&String, &aya_obj::Map)| {
        let sized = sizes.get(name.as_str()).copied();
        let info = MapInfo {
            kind: map.map_type(),
            id: 0,
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: sized.unwrap_or(map.max_entries()),
            flags: map.map_flags(),
        };
        (name.clone(), info)
    };
    Ok(object.maps.iter().map(shape).collect())
}
