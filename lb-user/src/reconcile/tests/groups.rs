//! Which targets of a group take flows, and how many of them.

use Availability::{Healthy as H, Initial as I, Unhealthy as U};

use super::*;

/// A group of so many local targets: ports from 1 on.
pub(super) fn group_of(targets: usize, attributes: &str) -> Config {
    let list: Vec<String> = (1..=targets).map(|port| format!("\":{port}\"")).collect();
    let list = list.join(", ");
    config(&group(":80", &format!("{attributes}\ntargets = [{list}]")))
}

pub(super) fn of<'a>(health: &'a [Availability]) -> impl Fn(&TargetKey) -> Availability + use<'a> {
    |key| health[usize::from(key.port) - 1]
}

/// Ports of the targets with a flag.
pub(super) fn with(state: &MapState, flag: u16) -> Vec<u16> {
    let targets = state.targets.values().filter(|target| target.has(flag));
    targets.map(|target| target.port.get()).collect()
}

#[test]
fn too_few_healthy_targets_open_the_group() {
    // (attribute, health, open, ports that take new flows)
    type Case<'a> = (&'a str, &'a [Availability], bool, &'a [u16]);
    let two = "fail_open = { min_healthy = 2 }";
    let half = "fail_open = \"50%\"";
    let cases: &[Case<'_>] = &[
        (two, &[H, H, U], false, &[1, 2]),
        (two, &[H, U, U], true, &[1, 2, 3]),
        // One without a result may be healthy.
        (two, &[H, I, U], false, &[1]),
        (two, &[I, U, U], true, &[1, 2, 3]),
        (half, &[H, H, U, U], false, &[1, 2]),
        (half, &[H, U, U, U], true, &[1, 2, 3, 4]),
        (half, &[H, I, U, U], false, &[1]),
    ];
    for (attribute, health, open, accepting) in cases {
        let config = group_of(health.len(), attribute);
        let got = wanted(&config, &host(), XdpHook::Native, of(health));
        let case = format!("{attribute} {health:?}");
        assert_eq!(got.balances["api"].fail_open, *open, "{case}");
        assert_eq!(with(&got.state, TargetEntry::ACCEPTS), *accepting, "{case}");
        assert_eq!(with(&got.state, TargetEntry::KEEPS), *accepting, "{case}");
        let in_table = |port: u16| got.state.tables[&0].contains(&(port - 1));
        assert!(accepting.iter().all(|&port| in_table(port)), "{case}");
    }
}

#[test]
fn a_targets_share_is_that_of_its_weight() {
    let list = "targets = [\":1\", { address = \":2\", weight = 3 }, \":3\"]";
    let config = config(&group(":80", list));
    let got = wanted(&config, &host(), XdpHook::Native, of(&[H, H, U]));
    let balance = &got.balances["api"];
    let shares = [0, 1, 2].map(|id| balance.share(id));
    assert_eq!(shares, [0.25, 0.75, 0.0]);
    assert_eq!((balance.healthy, balance.targets), (2, 3));
}

/// Slots of each target in a table of 251.
fn slots(health: &[Availability], attributes: &str, slow_starts: &[(u16, u16)]) -> Vec<usize> {
    let config = group_of(health.len(), attributes);
    let mut ids = Ids::new(config.capacity);
    ids.assign(&config, &BTreeSet::new());
    let key = |port| TargetKey {
        group: "api".into(),
        address: None,
        port,
    };
    let slow_starts = slow_starts.iter().map(|&(port, it)| (key(port), it));
    let inputs = Inputs {
        config: &config,
        host: &host(),
        attached: &BTreeMap::from([(ETH0, XdpHook::Native)]),
        ids: &ids,
        slow_starts: &slow_starts.collect(),
        weights: &BTreeMap::new(),
        draining: &BTreeSet::new(),
        applied: &MapState::default(),
    };
    let table = &desired(&inputs, &mut Tables::default(), of(health))
        .state
        .tables[&0];
    let count = |id: u16| table.iter().filter(|&&slot| slot == id).count();
    (0..health.len()).map(|id| count(id as u16)).collect()
}

#[test]
fn a_slow_start_is_a_part_of_the_weight() {
    let two = "fail_open.min_healthy = 2";
    // (health, attributes, parts by port, weights in parts)
    type Case<'a> = (&'a [Availability], &'a str, &'a [(u16, u16)], [u16; 3]);
    let cases: &[Case<'_>] = &[
        (&[H, H, H], "", &[], [128, 128, 128]),
        (&[H, H, H], "", &[(3, 64)], [128, 128, 64]),
        (&[H, H, H], "", &[(2, 13), (3, 64)], [128, 13, 64]),
        (&[H, U, H], "", &[(3, 32)], [128, 0, 32]),
        (&[U, U, H], "", &[(3, 13)], [0, 0, 13]),
        // Open to all, to the healthy one no less.
        (&[U, U, H], two, &[(3, 13)], [128, 128, 128]),
    ];
    for (health, attributes, slow_starts, weights) in cases {
        let slots = slots(health, attributes, slow_starts);
        let total: u16 = weights.iter().sum();
        for (got, weight) in slots.iter().zip(weights) {
            let exact = 251.0 * f64::from(*weight) / f64::from(total);
            assert!(
                (*got as f64 - exact).abs() < 1.0,
                "{health:?} {slow_starts:?}: {slots:?} for {weights:?}"
            );
        }
    }
}

/// A target that drains keeps its id, and its flows if it kept them, whatever
/// has become of its group.
#[test]
fn what_drains_stays_but_takes_no_new_flow() {
    let before = group_of(3, "fail_open = false");
    let host = host();
    let attached = BTreeMap::from([(ETH0, XdpHook::Native)]);
    let mut ids = Ids::new(before.capacity);
    let mut tables = Tables::default();
    let mut want = |config: &Config, ids: &Ids, draining: &BTreeSet<_>, applied: &MapState| {
        let inputs = Inputs {
            config,
            host: &host,
            attached: &attached,
            ids,
            draining,
            slow_starts: &BTreeMap::new(),
            weights: &BTreeMap::new(),
            applied,
        };
        desired(&inputs, &mut tables, of(&[H, U, H])).state
    };
    ids.assign(&before, &BTreeSet::new());
    let applied = want(&before, &ids, &BTreeSet::new(), &MapState::default());
    let draining: BTreeSet<TargetKey> = TargetKey::all(&before).take(2).collect();

    let one_left = group_of(1, "");
    let one_left = config::Config {
        target_groups: vec![config::TargetGroup {
            targets: before.target_groups[0].targets[2..].to_vec(),
            ..one_left.target_groups[0].clone()
        }],
        ..one_left
    };
    let other = config(&group(":81", "targets = [\":3\"]").replace("api", "other"));
    for after in [&one_left, &other] {
        let mut ids = ids.clone();
        ids.assign(after, &draining);
        let state = want(after, &ids, &draining, &applied);
        assert_eq!(with(&state, TargetEntry::ACCEPTS), [3]);
        // The unhealthy one had lost its flows.
        assert_eq!(with(&state, TargetEntry::KEEPS), [1, 3]);
        for id in [0, 1] {
            assert_eq!(
                state.targets[&id].generation,
                applied.targets[&id].generation
            );
        }
        assert!(
            !state
                .tables
                .values()
                .any(|slots| slots.iter().any(|&id| id < 2))
        );

        ids.assign(after, &BTreeSet::new());
        let state = want(after, &ids, &BTreeSet::new(), &state);
        assert_eq!(with(&state, TargetEntry::KEEPS), [3], "drained");
    }
}

/// An interface that is down for a moment takes the routes of its targets away,
/// or leaves them a way that doesn't work. Their flows go on when it is back.
#[test]
fn a_target_without_a_way_stays_but_takes_no_new_flow() {
    let reached = IpAddr::from([10, 0, 1, 9]);
    let up = host();
    let mut down = host();
    down.routes.remove(&reached);
    let mut elsewhere = host();
    let route = elsewhere.routes[&IpAddr::from([10, 0, 2, 9])];
    elsewhere.routes.insert(reached, route);
    // (attributes, health of the target and of another, keeps its flows)
    type Case<'a> = (&'a str, [Availability; 2], bool);
    let keep = "on_unhealthy = \"keep\"";
    let cases: &[Case<'_>] = &[
        ("", [H, H], true),
        ("", [I, H], true),
        ("", [U, H], false),
        ("", [U, U], true),
        ("fail_open = false", [U, U], false),
        (keep, [U, H], true),
    ];
    for (attributes, health, keeps) in cases {
        let list = "targets = [\"10.0.1.9:1\", \":2\"]";
        let config = config(&group(":80", &format!("{attributes}\n{list}")));
        let mut ids = Ids::new(config.capacity);
        ids.assign(&config, &BTreeSet::new());
        let mut keys = TargetKey::all(&config);
        let id = ids.target(&keys.next().unwrap()).unwrap();
        let want = |host: &Host, applied: &MapState, health: [Availability; 2]| {
            let inputs = Inputs {
                config: &config,
                host,
                attached: &BTreeMap::from([(ETH0, XdpHook::Native)]),
                ids: &ids,
                draining: &BTreeSet::new(),
                slow_starts: &BTreeMap::new(),
                weights: &BTreeMap::new(),
                applied,
            };
            desired(&inputs, &mut Tables::default(), of(&health))
        };
        let before = want(&up, &MapState::default(), [H, H]).state;
        for host in [&down, &elsewhere] {
            let case = format!("{attributes} {health:?}");
            let cut_off = want(host, &before, *health);
            assert_eq!(cut_off.problems.len(), 1, "{case}");
            let mut entry = cut_off.state.targets[&id];
            assert_eq!(entry.has(TargetEntry::KEEPS), *keeps, "{case}");
            assert!(!entry.has(TargetEntry::ACCEPTS), "{case}");
            assert!(!cut_off.state.tables[&0].contains(&(id as u16)), "{case}");
            entry.flags = before.targets[&id].flags;
            assert_eq!(entry, before.targets[&id], "{case}");
            let changes = diff(&before, &cut_off.state);
            let clears = |change: &Change| matches!(change, Change::ClearTarget(_));
            assert!(!changes.iter().any(clears), "{case}");

            let after = want(&up, &cut_off.state, [H, H]);
            assert_eq!((after.state, after.problems), (before.clone(), vec![]));
        }
        let never = want(&down, &MapState::default(), *health).state;
        assert!(!never.targets.contains_key(&id), "it never had a way");
    }
}

/// What another target left behind under the same id isn't the one that drains.
#[test]
fn what_drains_is_known_by_its_generation() {
    let config = group_of(1, "");
    let key: BTreeSet<TargetKey> = TargetKey::all(&config).collect();
    let other = self::config(&group(":81", "targets = [\":9\"]").replace("api", "other"));
    let mut ids = Ids::new(config.capacity);
    ids.assign(&other, &key);
    let id = ids.target(key.first().unwrap()).unwrap();
    let entry = TargetEntry {
        generation: ids.generation(id) + 1,
        flags: TargetEntry::KEEPS,
        ..TargetEntry::default()
    };
    let applied = MapState {
        targets: BTreeMap::from([(id, entry)]),
        ..MapState::default()
    };
    let inputs = Inputs {
        config: &other,
        host: &host(),
        attached: &BTreeMap::new(),
        ids: &ids,
        draining: &key,
        slow_starts: &BTreeMap::new(),
        weights: &BTreeMap::new(),
        applied: &applied,
    };
    let state = desired(&inputs, &mut Tables::default(), |_| H).state;
    assert!(!state.targets.contains_key(&id));
}

fn health() -> impl Strategy<Value = Availability> {
    prop_oneof![Just(H), Just(U), Just(I)]
}

proptest! {
    /// Events one after the other, the tables of those before kept or not.
    #[test]
    fn kept_tables_make_no_difference(
        events in proptest::collection::vec(proptest::collection::vec(health(), 3), 1..12),
    ) {
        let config = group_of(3, "fail_open.min_healthy = 2");
        let host = host();
        let mut ids = Ids::new(config.capacity);
        ids.assign(&config, &BTreeSet::new());
        let attached = BTreeMap::from([(ETH0, XdpHook::Native)]);
        let inputs = Inputs {
            config: &config,
            host: &host,
            attached: &attached,
            ids: &ids,
            draining: &BTreeSet::new(),
            slow_starts: &BTreeMap::new(),
            weights: &BTreeMap::new(),
            applied: &MapState::default(),
        };
        let mut tables = Tables::default();
        for event in &events {
            let kept = desired(&inputs, &mut tables, of(event));
            let fresh = desired(&inputs, &mut Tables::default(), of(event));
            prop_assert_eq!(kept, fresh);
        }
    }
}

/// A change of health in one group leaves the maps as they would be if all had
/// been worked out anew, whatever the other groups are.
#[test]
fn a_groups_part_is_that_of_the_whole() {
    let mut text = String::new();
    for name in ["a", "b"] {
        let group = group(":80", "targets = [\":1\", \":2\", \":3\"]");
        let port = if name == "a" { ":80" } else { ":81" };
        let group = group.replace("\":80\"", &format!("{port:?}"));
        text += &group.replace("api", name).replace("web", name);
    }
    let config = config(&text);
    let host = host();
    let mut ids = Ids::new(config.capacity);
    ids.assign(&config, &BTreeSet::new());
    let attached = BTreeMap::from([(ETH0, XdpHook::Native)]);
    let (draining, slow_starts) = (BTreeSet::new(), BTreeMap::new());
    let nothing = MapState::default();
    let inputs = Inputs {
        config: &config,
        host: &host,
        attached: &attached,
        ids: &ids,
        draining: &draining,
        slow_starts: &slow_starts,
        weights: &BTreeMap::new(),
        applied: &nothing,
    };
    let mut tables = Tables::default();
    let mut applied = MapState::default();
    // Bits: which of a's targets fail.
    for failing in [0u16, 1, 3, 7, 5, 4, 0] {
        let health = |key: &TargetKey| match key.group == "a" && failing >> (key.port - 1) & 1 != 0
        {
            true => Availability::Unhealthy,
            false => Availability::Healthy,
        };
        let before = applied.clone();
        let inputs = Inputs {
            applied: &before,
            ..inputs
        };
        let whole = desired(&inputs, &mut Tables::default(), health);
        let changes = match before == nothing {
            true => diff(&before, &whole.state),
            false => {
                let (part, balance) = desired_group(&inputs, "a", &mut tables, health).unwrap();
                assert_eq!(whole.balances["a"], balance);
                diff_group(&before, &part)
            }
        };
        changes.iter().for_each(|change| applied.apply(change));
        assert_eq!(applied, whole.state, "failing: {failing:b}");
    }
    assert!(desired_group(&inputs, "c", &mut tables, healthy).is_none());
}
