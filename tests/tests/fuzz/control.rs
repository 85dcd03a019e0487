//! What the agent does while packets come: one thing at a time.

use lb_common::{
    Be16,
    limits::NO_TARGET,
    listener::{ListenerEntry, ListenerLimits, VipEntry},
    settings::{InterfaceEntry, VlanTag},
    target::TargetEntry,
};
use lb_user::{config::Rule, reconcile::MapState};

use super::{
    config::{self, GROUPS},
    random::Random,
};

/// Changes `state`, which began as `base`.
pub fn change(state: &mut MapState, base: &MapState, random: &mut Random) {
    match random.weighted(&[8, 4, 2, 3, 2, 2, 1, 1, 4, 6]) {
        0 => target(state, base, random),
        1 => table(state, random),
        2 => listener_goes(state, random),
        3 => listener(state, random),
        4 => interface(state, random),
        5 => security(state, random),
        6 => vip(state, random),
        7 => timeouts(state, random),
        8 => narrow(state, random),
        _ => restore(state, base, random),
    }
}

fn key<K: Clone, V>(map: &std::collections::BTreeMap<K, V>, random: &mut Random) -> Option<K> {
    if map.is_empty() {
        return None;
    }
    map.keys().nth(random.below(map.len())).cloned()
}

/// Health, removal, another holder of the id, limits.
fn target(state: &mut MapState, base: &MapState, random: &mut Random) {
    let Some(id) = key(&state.targets, random) else {
        return;
    };
    let entry = state.targets.get_mut(&id).unwrap();
    match random.below(8) {
        0 => entry.flags &= !(TargetEntry::ACCEPTS | TargetEntry::KEEPS),
        1 => entry.flags &= !TargetEntry::ACCEPTS,
        2 => {
            state.targets.remove(&id);
        }
        3 => {
            // As another target in the same way.
            entry.generation += 1;
            if entry.port.get() != 0 {
                entry.port = Be16::new(8080 + random.below(4) as u16);
            }
        }
        4 => entry.max_flows = *random.pick(&[0, 1, 2]),
        5 => entry.max_segment = *random.pick(&[0, 536, 1000, 1460]),
        6 => {
            let some = random.below(50);
            let more = *random.pick(&[0, 1, some]);
            entry.last_source_port = entry.first_source_port + more as u16;
        }
        _ => {
            entry.source_bits = *random.pick(&[0, 1, 8, 16, 32, 40]);
            entry.virtual_network = random.below(1 << 24) as u32;
            if let Some(base) = base.targets.get(&id) {
                entry.flags |= base.flags & TargetEntry::KEEPS;
            }
        }
    }
}

fn table(state: &mut MapState, random: &mut Random) {
    let group = random.below(2 * GROUPS as usize) as u32;
    let members = config::members(group >= GROUPS, group % GROUPS);
    let Some(slots) = state.tables.get_mut(&group) else {
        return;
    };
    match random.below(4) {
        0 => {
            state.tables.remove(&group);
        }
        1 => *slots = config::slots(&[*random.pick(&members)]),
        2 => *slots = vec![NO_TARGET; slots.len()].into(),
        _ => *slots = slots.iter().map(|_| *random.pick(&members)).collect(),
    }
}

/// A group gets one target, which has room for hardly anybody.
fn narrow(state: &mut MapState, random: &mut Random) {
    let (v6, group) = (random.one_in(2), random.below(GROUPS as usize) as u32);
    let id = *random.pick(&config::members(v6, group));
    let table = if v6 { GROUPS + group } else { group };
    state.tables.insert(table, config::slots(&[id]));
    if let Some(entry) = state.targets.get_mut(&id.into()) {
        if random.one_in(2) {
            entry.max_flows = 1;
        } else {
            entry.last_source_port = entry.first_source_port;
        }
    }
}

fn listener_goes(state: &mut MapState, random: &mut Random) {
    if let Some(place) = key(&state.listeners, random) {
        state.listeners.remove(&place);
    }
}

/// What picks the target, and who may come how often.
fn listener(state: &mut MapState, random: &mut Random) {
    let Some(place) = key(&state.listeners, random) else {
        return;
    };
    let entry = state.listeners.get_mut(&place).unwrap();
    match random.below(5) {
        0 => entry.flags ^= ListenerEntry::HASH_SOURCE,
        1 => entry.flags ^= ListenerEntry::HASH_PORT,
        2 => entry.security_group = random.below(3) as u16,
        _ => {
            entry.flags ^= ListenerEntry::LIMITED;
            let limits = ListenerLimits {
                new_flows: *random.pick(&[0, 1, 20]),
                new_flows_per_source: *random.pick(&[0, 1, 5]),
                prefix_v4: *random.pick(&[0, 1, 8, 24, 31, 32]),
                prefix_v6: *random.pick(&[0, 31, 32, 64, 127, 128]),
            };
            state.limits.insert(entry.id, limits);
        }
    }
}

fn interface(state: &mut MapState, random: &mut Random) {
    let Some(index) = key(&state.interfaces, random) else {
        return;
    };
    forget_routes(state);
    let entry = state.interfaces.get_mut(&index).unwrap();
    match random.below(8) {
        0 => {
            state.interfaces.remove(&index);
        }
        1 => entry.flags ^= InterfaceEntry::TRANSMIT,
        2 | 3 => entry.flags ^= InterfaceEntry::REDIRECT,
        4 => {
            if let Some(mac) = state.macs.pop_first() {
                state.macs.insert(mac ^ 1 << 40);
            }
        }
        _ => {
            entry.tag_count = random.below(3) as u16;
            for (index, tag) in entry.tags.iter_mut().enumerate() {
                *tag = if index < entry.tag_count.into() {
                    let protocol = *random.pick(&[0x8100, 0x88A8]);
                    let id = random.below(4096) as u16;
                    VlanTag { protocol, id }
                } else {
                    VlanTag::default()
                };
            }
        }
    }
}

/// What is known of the way out isn't true any more.
fn forget_routes(state: &mut MapState) {
    let epoch = &mut state.settings.route_epoch;
    *epoch += u32::from(*epoch != 0);
}

fn security(state: &mut MapState, random: &mut Random) {
    let id = 1 + random.below(2) as u32;
    let mut rules = config::rules(*random.pick(&[Rule::Allow, Rule::Deny])).to_vec();
    // All but the default may be missing.
    rules.retain(|(prefix, _)| prefix.length() == 0 || !random.one_in(3));
    state.security_groups.insert(id, rules.into());
}

fn vip(state: &mut MapState, random: &mut Random) {
    if let Some(address) = key(&state.vips, random) {
        match random.below(3) {
            0 => {
                state.vips.remove(&address);
            }
            1 => state.vips.get_mut(&address).unwrap().flags ^= VipEntry::OWNED,
            _ => state.vips.get_mut(&address).unwrap().flags ^= VipEntry::RANGES,
        }
    }
}

fn timeouts(state: &mut MapState, random: &mut Random) {
    let settings = &mut state.settings;
    match random.below(4) {
        0 => settings.half_open_timeout = 20 + random.below(100) as u32,
        1 => settings.established_timeout = 20 + random.below(400) as u32,
        2 => settings.closing_timeout = 20 + random.below(100) as u32,
        _ => settings.udp_timeout = 20 + random.below(200) as u32,
    }
}

/// All as it was, but for the generations, which only go on.
fn restore(state: &mut MapState, base: &MapState, random: &mut Random) {
    let keep = !random.one_in(4);
    forget_routes(state);
    let mut restored = base.clone();
    restored.settings.route_epoch = state.settings.route_epoch;
    for (id, entry) in &state.targets {
        restored.targets.get_mut(id).unwrap().generation = entry.generation;
    }
    if keep {
        // Only the targets, and what leads to them.
        state.targets = restored.targets;
        state.tables = restored.tables;
        state.listeners = restored.listeners;
    } else {
        *state = restored;
    }
}
