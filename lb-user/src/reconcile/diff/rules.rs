//! Changes of a security group's rules. There may be 100,000, most of them as
//! they were.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    address::Prefix,
    config::{Rule, Rules},
    reconcile::Change,
};

/// What leads from `observed` to `rules`; `None` if they are the same.
///
/// New rules come before old ones go, and those of long prefixes before those
/// of short ones, the default last: a source that both allow is allowed all the
/// while.
pub(super) fn set(id: u32, observed: Option<&Rules>, rules: &Rules) -> Option<Change> {
    if observed.is_some_and(|observed| Arc::ptr_eq(observed, rules)) {
        return None;
    }
    let (mut set, gone) = compare(observed.map_or(&[], |observed| observed), rules);
    if set.is_empty() && gone.is_empty() {
        return None;
    }
    set.sort_by_key(|(prefix, _)| Reverse(prefix.length()));
    Some(Change::SetRules {
        id,
        rules: rules.clone(),
        set,
        gone,
    })
}

pub(super) fn remove(id: u32, observed: &Rules) -> Change {
    let gone = observed.iter().map(|&(prefix, _)| prefix).collect();
    Change::RemoveRules { id, gone }
}

/// Rules of `new` that are not so in `old`, and prefixes of `old` that are not
/// in `new`. Both are sorted.
fn compare(old: &[(Prefix, Rule)], new: &[(Prefix, Rule)]) -> (Vec<(Prefix, Rule)>, Vec<Prefix>) {
    let (mut set, mut gone) = (Vec::new(), Vec::new());
    let mut old = old.iter().peekable();
    for &(prefix, rule) in new {
        while let Some((before, _)) = old.next_if(|(old, _)| *old < prefix) {
            gone.push(*before);
        }
        match old.next_if(|(old, _)| *old == prefix) {
            Some((_, before)) if *before == rule => {}
            _ => set.push((prefix, rule)),
        }
    }
    gone.extend(old.map(|(prefix, _)| *prefix));
    (set, gone)
}
