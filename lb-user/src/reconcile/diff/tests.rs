use lb_common::{
    flow,
    limits::{NO_TARGET, SLOTS_PER_ELEMENT},
    listener::{ListenerEntry, ListenerLimits, VipEntry},
    settings::{InterfaceEntry, Settings, VlanTag},
    target::TargetEntry,
};
use proptest::{collection::btree_map, prelude::*};

use super::*;
use crate::{
    address::Prefix,
    config::{Rule, Rules},
    reconcile::Place,
};

fn key(number: u8) -> Place {
    Place::port([10, 0, 0, number], 80, flow::TCP)
}

fn target(generation: u32, flags: u16) -> TargetEntry {
    TargetEntry {
        generation,
        flags,
        ..TargetEntry::default()
    }
}

/// A state in which every listener has its table and every slot its target.
fn state() -> impl Strategy<Value = MapState> {
    let targets = btree_map(0u32..6, (1u32..3, 0u16..4), 0..6);
    let groups = btree_map(0u32..4, (0usize..4, any::<u64>()), 0..4);
    let listeners = btree_map(0u8..6, (any::<prop::sample::Index>(), 0u32..3), 0..6);
    let interfaces = btree_map(1u32..4, (1u32..4, 0u16..4), 0..3);
    let protections = (
        btree_map(0u32..3, 0u32..3, 0..3),
        btree_map(1u32..4, rules(), 0..3),
    );
    (targets, groups, listeners, interfaces, protections, 0u64..3).prop_map(
        |(targets, groups, listeners, interfaces, (limits, security_groups), hash_key)| {
            let ids: Vec<u16> = targets.keys().map(|&id| id as u16).collect();
            let groups: BTreeMap<u32, Slots> = groups
                .into_iter()
                .map(|(group, (size, seed))| (group, table([1, 5, 8, 13][size], seed, &ids)))
                .collect();
            let of_group = |(number, (index, id)): (u8, (prop::sample::Index, u32))| {
                let group = groups.keys().nth(index.index(groups.len().max(1)))?;
                let table_size = groups[group].len() as u32;
                let entry = ListenerEntry {
                    id,
                    group: *group,
                    table_size,
                    ..ListenerEntry::default()
                };
                Some((key(number), entry))
            };
            MapState {
                settings: Settings {
                    hash_key,
                    ..Settings::default()
                },
                interfaces: interfaces
                    .into_iter()
                    .map(|(index, (device, flags))| {
                        let tags = [VlanTag::default(); 2];
                        (
                            index,
                            InterfaceEntry {
                                device,
                                flags,
                                tag_count: 0,
                                tags,
                            },
                        )
                    })
                    .collect(),
                listeners: listeners.into_iter().filter_map(of_group).collect(),
                targets: targets
                    .into_iter()
                    .map(|(id, (generation, flags))| (id, target(generation, flags)))
                    .collect(),
                tables: groups,
                vips: BTreeMap::new(),
                macs: std::collections::BTreeSet::new(),
                limits: limits
                    .into_iter()
                    .map(|(id, new_flows)| (id, limit(new_flows)))
                    .collect(),
                security_groups,
            }
        },
    )
}

fn limit(new_flows: u32) -> ListenerLimits {
    ListenerLimits {
        new_flows,
        ..ListenerLimits::default()
    }
}

/// Never none: every group has its default.
fn rules() -> impl Strategy<Value = Rules> {
    let prefix = (0u8..3, 0u8..=16).prop_map(|(network, length)| {
        let address = std::net::Ipv4Addr::new(10, network, 0, 0);
        Prefix::around(address.into(), length).unwrap()
    });
    let rule = prop_oneof![Just(Rule::Deny), Just(Rule::Allow)];
    btree_map(prefix, rule, 1..6).prop_map(|rules| rules.into_iter().collect())
}

fn table(size: usize, seed: u64, ids: &[u16]) -> Slots {
    let slot = |index: usize| match (seed as usize).wrapping_mul(31).wrapping_add(index * 7) {
        value if ids.is_empty() || value % 5 == 0 => NO_TARGET,
        value => ids[value % ids.len()],
    };
    (0..size).map(slot).collect()
}

/// What the data path relies on, see [`diff`].
fn broken(state: &MapState) -> Option<String> {
    for (key, listener) in &state.listeners {
        let size = state
            .tables
            .get(&listener.group)
            .map(|table| table.len() as u32);
        if size.is_none_or(|size| size < listener.table_size) {
            return Some(format!(
                "{key:?} wants {} slots of {size:?}",
                listener.table_size
            ));
        }
    }
    for (group, table) in &state.tables {
        for slot in table.iter().filter(|&&slot| slot != NO_TARGET) {
            if !state.targets.contains_key(&u32::from(*slot)) {
                return Some(format!("group {group} names target {slot}, which is none"));
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_diff_leads_there_and_every_step_is_safe(a in state(), b in state()) {
        prop_assert_eq!((broken(&a), broken(&b)), (None, None));
        let mut state = a.clone();
        let changes = diff(&a, &b);
        for (index, change) in changes.iter().enumerate() {
            state.apply(change);
            let refilled = matches!(
                (change, changes.get(index + 1)),
                (Change::ClearTarget(id), Some(Change::SetTarget(next, _))) if id == next
            );
            if !refilled {
                prop_assert_eq!(broken(&state), None, "after {:?} of {:?}", change, &changes);
            }
        }
        prop_assert_eq!(&state, &b);
        prop_assert_eq!(diff(&state, &b), []);
    }

    /// As from maps that are adopted: of tables only the size is known.
    #[test]
    fn tables_that_arent_known_are_made_anew(a in state(), b in state()) {
        let mut state = a;
        for slots in state.tables.values_mut() {
            *slots = vec![UNKNOWN_SLOT; slots.len()].into();
        }
        for change in diff(&state.clone(), &b) {
            prop_assert!(!matches!(change, Change::SetSlots { .. }), "{:?}", change);
            state.apply(&change);
        }
        prop_assert_eq!(&state, &b);
    }

    #[test]
    fn no_difference_is_no_change(a in state()) {
        prop_assert_eq!(diff(&a, &a), []);
    }

    /// What a change writes leads to what it says is there then.
    #[test]
    fn written_rules_are_the_groups_rules(a in rules(), b in rules()) {
        let mut written: BTreeMap<Prefix, Rule> = a.iter().copied().collect();
        let state = |rules: &Rules| MapState {
            security_groups: [(1, rules.clone())].into(),
            ..MapState::default()
        };
        for change in diff(&state(&a), &state(&b)) {
            let Change::SetRules { set, gone, .. } = change else {
                panic!("{change:?}");
            };
            for (prefix, rule) in set {
                prop_assert_ne!(written.insert(prefix, rule), Some(rule));
            }
            for prefix in gone {
                prop_assert!(written.remove(&prefix).is_some());
            }
        }
        prop_assert_eq!(written, b.iter().copied().collect());
    }

    /// So it is with a table's elements.
    #[test]
    fn written_elements_are_the_groups_table(size in 1usize..40, a in any::<u64>(), b in any::<u64>()) {
        let [a, b] = [a, b].map(|seed| table(size, seed, &[0, 1, 2]));
        let state = |slots: &Slots| MapState {
            tables: [(1, slots.clone())].into(),
            ..MapState::default()
        };
        let mut written = elements(&a);
        for change in diff(&state(&a), &state(&b)) {
            let Change::SetSlots { elements, .. } = change else {
                panic!("{change:?}");
            };
            for (index, element) in elements {
                let before = std::mem::replace(&mut written[index as usize], element);
                prop_assert_ne!(before, element);
            }
        }
        prop_assert_eq!(written, elements(&b));
    }

    /// Nothing is written that is right already.
    #[test]
    fn each_change_changes_something(a in state(), b in state()) {
        let mut state = a.clone();
        for change in diff(&a, &b) {
            let before = state.clone();
            state.apply(&change);
            prop_assert_ne!(&state, &before, "{:?}", change);
        }
    }
}

/// Each change's place in the order that [`diff`] documents.
fn rank(change: &Change) -> u8 {
    match change {
        Change::SetSettings(_) => 0,
        Change::SetInterface(..)
        | Change::RemoveInterface(_)
        | Change::AddMac(_)
        | Change::RemoveMac(_) => 1,
        Change::SetTarget(..) => 2,
        Change::CreateTable { .. } | Change::SetSlots { .. } => 3,
        Change::SetLimits(..) | Change::SetRules { .. } => 4,
        Change::SetListener(..) => 5,
        Change::RemoveListener(_) => 6,
        Change::SetVip(..) | Change::RemoveVip(_) => 7,
        Change::ClearLimits(_) | Change::RemoveRules { .. } => 8,
        Change::RemoveTable { .. } => 9,
        Change::ClearTarget(_) => 10,
    }
}

fn small(group: u32, slots: &[u16]) -> MapState {
    let entry = ListenerEntry {
        id: 1,
        group,
        table_size: slots.len() as u32,
        ..ListenerEntry::default()
    };
    let all = Prefix::around(std::net::Ipv4Addr::UNSPECIFIED.into(), 0).unwrap();
    let ids = slots.iter().filter(|&&slot| slot != NO_TARGET);
    MapState {
        listeners: [(key(group as u8), entry)].into(),
        tables: [(group, slots.into())].into(),
        targets: ids.map(|&id| (u32::from(id), target(1, 1))).collect(),
        interfaces: [(group, InterfaceEntry::default())].into(),
        vips: [([10, 0, 0, group as u8].into(), VipEntry::default())].into(),
        macs: [3].into(),
        limits: [(group, limit(1))].into(),
        security_groups: [(group, Rules::from([(all, Rule::Deny)]))].into(),
        settings: Settings {
            hash_key: u64::from(group),
            ..Settings::default()
        },
    }
}

#[test]
fn everything_in_its_order() {
    let ranks: Vec<u8> = diff(&small(1, &[1, 2]), &small(2, &[3]))
        .iter()
        .map(rank)
        .collect();
    assert_eq!(ranks, [0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 8, 9, 10, 10]);
}

#[test]
fn only_the_elements_that_differ_are_written() {
    let whole = [1, 2].repeat(SLOTS_PER_ELEMENT as usize);
    let (a, b) = ([&whole[..], &[1]].concat(), [&whole[..], &[2]].concat());
    let mut element = [NO_TARGET; SLOTS_PER_ELEMENT as usize];
    element[0] = 2;
    assert_eq!(
        diff(&small(1, &a), &small(1, &b)),
        [Change::SetSlots {
            group: 1,
            slots: b[..].into(),
            elements: vec![(2, element)],
        }]
    );
}

#[test]
fn a_table_of_another_size_is_swapped_in_under_its_listeners() {
    let (small, large) = (small(1, &[1, 2]), small(1, &[1, 2, 1]));
    let kinds = |changes: Vec<Change>| changes.iter().map(rank).collect::<Vec<_>>();
    assert_eq!(kinds(diff(&small, &large)), [3, 5], "grow: the table first");
    assert_eq!(
        kinds(diff(&large, &small)),
        [5, 3],
        "shrink: the table last"
    );
}

#[test]
fn an_id_that_changes_hands_is_cleared_between() {
    let a = MapState {
        targets: [(7, target(1, 1))].into(),
        ..MapState::default()
    };
    let b = MapState {
        targets: [(7, target(2, 1))].into(),
        ..MapState::default()
    };
    assert_eq!(
        diff(&a, &b),
        [Change::ClearTarget(7), Change::SetTarget(7, target(2, 1))]
    );
    // The same target with other flags isn't.
    let c = MapState {
        targets: [(7, target(1, 0))].into(),
        ..MapState::default()
    };
    assert_eq!(diff(&a, &c), [Change::SetTarget(7, target(1, 0))]);
}
