//! Security groups and limits in the maps.

use super::*;
use crate::config::Rule;

const PROTECTED: &str = "security_group = \"office\"\nmax_new_flows = 100\n\
                         max_new_flows_per_source = 5\nsource_prefix_v4 = 24\n";
const OFFICE: &str = "[[security_group]]\nname = \"office\"\nallow = \"10.0.0.0/8\"\n";

fn state(listener: &str, more: &str) -> MapState {
    let text =
        group(":80", "targets = [\":1\"]").replacen("name =", &format!("{listener}name ="), 1);
    let config = config(&(text + more));
    wanted(&config, &host(), XdpHook::Native, healthy).state
}

#[test]
fn a_listeners_protections_are_in_its_entry() {
    let state = state(PROTECTED, OFFICE);
    let entry = state.listeners.values().next().unwrap();
    assert_eq!(entry.security_group, 1, "0 is none");
    assert_eq!(entry.flags, ListenerEntry::LIMITED);
    let limits = lb_common::listener::ListenerLimits {
        new_flows: 100,
        new_flows_per_source: 5,
        prefix_v4: 24,
        prefix_v6: 64,
    };
    assert_eq!(state.limits, [(entry.id, limits)].into());
    let rules = &state.security_groups[&1];
    let text: Vec<String> = rules
        .iter()
        .map(|(prefix, rule)| format!("{prefix} {rule:?}"))
        .collect();
    assert_eq!(text, ["0.0.0.0/0 Deny", "10.0.0.0/8 Allow", "::/0 Deny"]);
}

#[test]
fn without_them_there_is_nothing() {
    let state = state("", OFFICE);
    let entry = state.listeners.values().next().unwrap();
    assert_eq!((entry.security_group, entry.flags), (0, 0));
    assert!(state.limits.is_empty() && state.security_groups.is_empty());
}

#[test]
fn what_is_not_used_any_more_goes_after_its_listener_changed() {
    let (with, without) = (state(PROTECTED, OFFICE), state("", ""));
    let kinds = |changes: &[Change]| -> Vec<&str> {
        let kind = |change: &Change| match change {
            Change::SetLimits(..) => "set limits",
            Change::ClearLimits(_) => "clear limits",
            Change::SetRules { .. } => "set rules",
            Change::RemoveRules { .. } => "remove rules",
            Change::SetListener(..) => "listener",
            _ => "other",
        };
        changes.iter().map(kind).collect()
    };
    let changes = diff(&with, &without);
    let expected = ["listener", "clear limits", "remove rules"];
    assert_eq!(kinds(&changes), expected);
    let changes = diff(&without, &with);
    assert_eq!(kinds(&changes), ["set limits", "set rules", "listener"]);
    let Change::SetRules { set, .. } = &changes[1] else {
        panic!("{changes:?}");
    };
    let lengths: Vec<u8> = set.iter().map(|(prefix, _)| prefix.length()).collect();
    assert_eq!(lengths, [8, 0, 0], "the default comes last");
    assert_eq!(set[0].1, Rule::Allow);
}
