//! A group's part of the maps: which of its targets take flows, and its table.

use std::num::NonZeroU16;

use lb_common::{limits::NO_TARGET, target::TargetEntry};

use super::{
    MapState, Tables, TargetKey,
    desired::{Availability, Inputs, Problems, report, targets},
};
use crate::{
    config::{OnUnhealthy, Target, TargetGroup},
    maglev::{self, Member},
    slow_start::PARTS,
};

/// How a group's new flows are spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Targets that can be reached, and those of them that may be healthy: one
    /// without a result is.
    pub targets: usize,
    pub healthy: usize,
    /// All targets take flows, because too few are healthy.
    pub fail_open: bool,
    members: Vec<Member>,
}

impl Balance {
    /// A target's share of the group's new flows, from 0 to 1.
    #[must_use]
    pub fn share(&self, id: u32) -> f64 {
        let weight = |member: &Member| f64::from(member.weight);
        let total: f64 = self.members.iter().map(weight).sum();
        let member = self.members.iter().find(|it| u32::from(it.id) == id);
        member.map_or(0.0, |member| weight(member) / total)
    }
}

/// Adds a group's targets and its Maglev table. `None` if it has no id.
pub(super) fn add_group(
    inputs: &Inputs<'_>,
    group: &TargetGroup,
    health: &impl Fn(&TargetKey) -> Availability,
    tables: &mut Tables,
    state: &mut MapState,
    problems: &mut Problems,
) -> Option<Balance> {
    let group_id = inputs.ids.group(&group.name)?;
    let mut candidates = Vec::new();
    let mut cut_off = Vec::new();
    for target in &group.targets {
        let key = TargetKey::new(group, target);
        let Some(id) = inputs.ids.target(&key) else {
            continue;
        };
        match targets::entry(inputs, group, target, id) {
            Ok(entry) => candidates.push(Candidate {
                id,
                target,
                entry,
                health: health(&key),
                parts: inputs.slow_starts.get(&key).copied(),
            }),
            Err(problem) => {
                report(problems, problem);
                let known = targets::known(inputs, id);
                cut_off.extend(known.map(|entry| (id, entry, health(&key))));
            }
        }
    }
    keep_cut_off(group, health, cut_off, state);
    let mut balance = balance(group, &candidates);
    let factor = factor(&balance, &candidates);
    for mut candidate in candidates {
        let accepts = balance.fail_open || candidate.health == Availability::Healthy;
        if accepts {
            candidate.entry.flags |= TargetEntry::ACCEPTS;
            balance.members.push(candidate.member(factor));
        }
        if accepts || group.on_unhealthy == OnUnhealthy::Keep {
            candidate.entry.flags |= TargetEntry::KEEPS;
        }
        state.targets.insert(candidate.id, candidate.entry);
    }
    let seed = inputs.config.hash_key;
    let slots = tables.get(group_id, &balance.members, group.table_size, seed);
    state.tables.insert(group_id, slots);
    Some(balance)
}

/// Targets that can't be reached now, an interface may be down for a moment:
/// what the data path has of them stays, so that their flows can go on when the
/// way is back, but they take no new flow. Whether they keep their flows goes by
/// their health as always, and by that of the whole group.
fn keep_cut_off(
    group: &TargetGroup,
    health: &impl Fn(&TargetKey) -> Availability,
    cut_off: Vec<(u32, TargetEntry, Availability)>,
    state: &mut MapState,
) {
    let keys = group.targets.iter().map(|it| TargetKey::new(group, it));
    let healthy = keys.filter(|key| health(key) != Availability::Unhealthy);
    let is_open = group
        .fail_open
        .is_open(healthy.count(), group.targets.len());
    for (id, mut entry, health) in cut_off {
        entry.flags &= !TargetEntry::ACCEPTS;
        let ends = health == Availability::Unhealthy && group.on_unhealthy == OnUnhealthy::Reset;
        if ends && !is_open {
            entry.flags &= !TargetEntry::KEEPS;
        }
        state.targets.insert(id, entry);
    }
}

/// A target that can be reached.
struct Candidate<'a> {
    id: u32,
    target: &'a Target,
    /// Without the flags that its health decides.
    entry: TargetEntry,
    health: Availability,
    /// Of its weight, while it starts slowly.
    parts: Option<u16>,
}

/// Whether all of the candidates take flows; members come later.
fn balance(group: &TargetGroup, candidates: &[Candidate<'_>]) -> Balance {
    let targets = candidates.len();
    let healthy = candidates
        .iter()
        .filter(|candidate| candidate.health != Availability::Unhealthy)
        .count();
    Balance {
        targets,
        healthy,
        fail_open: group.fail_open.is_open(healthy, targets),
        members: Vec::new(),
    }
}

/// What full weights are multiplied by. A group that fails open has no slow
/// start: its healthy targets would get less than the others.
fn factor(balance: &Balance, candidates: &[Candidate<'_>]) -> u16 {
    let is_slow = |it: &Candidate<'_>| it.health == Availability::Healthy && it.parts.is_some();
    if !balance.fail_open && candidates.iter().any(is_slow) {
        PARTS
    } else {
        1
    }
}

impl Candidate<'_> {
    fn member(&self, factor: u16) -> Member {
        let Target {
            address,
            port,
            weight,
        } = *self.target;
        Member {
            identity: maglev::identity(address, port.map_or(0, NonZeroU16::get)),
            // Ids are below MAX_TARGETS, far below NO_TARGET.
            id: u16::try_from(self.id).unwrap_or(NO_TARGET),
            weight: weight * self.parts.unwrap_or(factor).min(factor),
        }
    }
}
