//! A group's part of the maps: which of its targets take flows, and its table.

use lb_common::{limits::NO_TARGET, target::TargetEntry};

use super::{
    MapState, Tables, TargetKey,
    desired::{Availability, Inputs, Problems, report, targets},
};
use crate::{
    config::{OnUnhealthy, TargetGroup},
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
    /// Whether no target takes new flows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

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
        let (entry, health) = (targets::entry(inputs, group, target, id), health(&key));
        match entry {
            Ok(entry) if health.is_drained() => {
                state.targets.insert(id, drained(inputs, id, entry, health));
            }
            Ok(entry) => candidates.push(Candidate {
                id,
                identity: maglev::identity(key.address, key.port),
                weight: inputs.weights.get(&key).copied().unwrap_or(target.weight),
                entry,
                health,
                parts: inputs.slow_starts.get(&key).copied(),
            }),
            Err(problem) => {
                report(problems, problem);
                let known = targets::known(inputs, id);
                cut_off.extend(known.map(|entry| (id, entry, health)));
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
    let in_use: Vec<Availability> = keys
        .map(|key| health(&key))
        .filter(|health| !health.is_drained())
        .collect();
    let is_healthy = |health: &&Availability| **health != Availability::Unhealthy;
    let healthy = in_use.iter().filter(is_healthy).count();
    let is_open = group.fail_open.is_open(healthy, in_use.len());
    for (id, mut entry, health) in cut_off {
        entry.flags &= !TargetEntry::ACCEPTS;
        let ends = match health {
            Availability::Unhealthy => group.on_unhealthy == OnUnhealthy::Reset && !is_open,
            Availability::Unused => true,
            Availability::Initial | Availability::Healthy | Availability::Draining => false,
        };
        if ends {
            entry.flags &= !TargetEntry::KEEPS;
        }
        state.targets.insert(id, entry);
    }
}

/// The entry of a target that an operator has drained. Flows go on that did so
/// before: those of an unhealthy one may have been ended.
fn drained(
    inputs: &Inputs<'_>,
    id: u32,
    mut entry: TargetEntry,
    health: Availability,
) -> TargetEntry {
    if health == Availability::Draining {
        let known = targets::known(inputs, id);
        entry.flags |= known.map_or(0, |known| known.flags) & TargetEntry::KEEPS;
    }
    entry
}

/// A target that can be reached.
struct Candidate {
    id: u32,
    identity: u64,
    weight: u16,
    /// Without the flags that its health decides.
    entry: TargetEntry,
    health: Availability,
    /// Of its weight, while it starts slowly.
    parts: Option<u16>,
}

/// Whether all of the candidates take flows; members come later.
fn balance(group: &TargetGroup, candidates: &[Candidate]) -> Balance {
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
fn factor(balance: &Balance, candidates: &[Candidate]) -> u16 {
    let is_slow = |it: &Candidate| it.health == Availability::Healthy && it.parts.is_some();
    if !balance.fail_open && candidates.iter().any(is_slow) {
        PARTS
    } else {
        1
    }
}

impl Candidate {
    fn member(&self, factor: u16) -> Member {
        Member {
            identity: self.identity,
            // Ids are below MAX_TARGETS, far below NO_TARGET.
            id: u16::try_from(self.id).unwrap_or(NO_TARGET),
            weight: self.weight * self.parts.unwrap_or(factor).min(factor),
        }
    }
}
