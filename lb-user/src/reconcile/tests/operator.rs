//! What operators ask for.

use Availability::{Healthy as H, Unhealthy as U};

use super::{
    groups::{group_of, of, with},
    *,
};

/// What the operator drained counts for nothing in its group. Flows go on that
/// did so before, until their time is over.
#[test]
fn what_an_operator_drains_is_out() {
    use Availability::{Draining as D, Unused as X};
    let (accepts, keeps) = (TargetEntry::ACCEPTS, TargetEntry::KEEPS);
    // (attribute, health, ports that the data path keeps flows to, healthy of
    // how many, open, ports that take new flows, and those that keep flows)
    type Case<'a> = (
        &'a str,
        &'a [Availability],
        &'a [u16],
        (usize, usize),
        bool,
        &'a [u16],
        &'a [u16],
    );
    let cases: &[Case<'_>] = &[
        ("", &[D, H], &[1, 2], (1, 1), false, &[2], &[1, 2]),
        // Its flows had been ended.
        ("", &[D, H], &[2], (1, 1), false, &[2], &[2]),
        ("", &[X, H], &[1, 2], (1, 1), false, &[2], &[2]),
        ("", &[X, U, D], &[1, 2, 3], (0, 1), true, &[2], &[2, 3]),
        ("", &[D, X], &[1, 2], (0, 0), false, &[], &[1]),
        (
            "fail_open.min_healthy = 2",
            &[D, H, H],
            &[],
            (2, 2),
            false,
            &[2, 3],
            &[2, 3],
        ),
        (
            "fail_open.min_healthy = 2",
            &[D, H, U],
            &[],
            (1, 2),
            true,
            &[2, 3],
            &[2, 3],
        ),
    ];
    for (attribute, health, kept, (healthy, targets), open, accepting, keeping) in cases {
        let config = group_of(health.len(), attribute);
        let mut ids = Ids::new(config.capacity);
        ids.assign(&config, &BTreeSet::new());
        let entry = |&port: &u16| {
            let entry = TargetEntry {
                generation: 1,
                flags: keeps,
                ..TargetEntry::default()
            };
            (u32::from(port - 1), entry)
        };
        let draining = TargetKey::all(&config).filter(|key| of(health)(key) == D);
        let inputs = Inputs {
            config: &config,
            host: &host(),
            attached: &BTreeMap::from([(ETH0, XdpHook::Native)]),
            ids: &ids,
            slow_starts: &BTreeMap::new(),
            weights: &BTreeMap::new(),
            draining: &draining.collect(),
            applied: &MapState {
                targets: kept.iter().map(entry).collect(),
                ..MapState::default()
            },
        };
        let got = desired(&inputs, &mut Tables::default(), of(health));
        let case = format!("{attribute} {health:?}");
        let balance = &got.balances["api"];
        assert_eq!(
            (balance.healthy, balance.targets),
            (*healthy, *targets),
            "{case}"
        );
        assert_eq!(
            (balance.fail_open, balance.is_empty()),
            (*open, accepting.is_empty()),
            "{case}"
        );
        assert_eq!(with(&got.state, accepts), *accepting, "{case}");
        assert_eq!(with(&got.state, keeps), *keeping, "{case}");
        let in_table = |port: u16| got.state.tables[&0].contains(&(port - 1));
        let ports = 1..=health.len() as u16;
        let in_table: Vec<u16> = ports.filter(|&port| in_table(port)).collect();
        assert_eq!(in_table, *accepting, "{case}");
        let (group, _) = desired_group(&inputs, "api", &mut Tables::default(), of(health)).unwrap();
        assert_eq!(group.targets, got.state.targets, "{case}");
    }
}

#[test]
fn a_set_weight_holds_instead_of_the_configured_one() {
    let config = group_of(2, "");
    let mut ids = Ids::new(config.capacity);
    ids.assign(&config, &BTreeSet::new());
    let first = TargetKey::all(&config).next().unwrap();
    let inputs = Inputs {
        config: &config,
        host: &host(),
        attached: &BTreeMap::from([(ETH0, XdpHook::Native)]),
        ids: &ids,
        slow_starts: &BTreeMap::new(),
        weights: &BTreeMap::from([(first, 3)]),
        draining: &BTreeSet::new(),
        applied: &MapState::default(),
    };
    let got = desired(&inputs, &mut Tables::default(), |_| H);
    let shares = [0, 1].map(|id| got.balances["api"].share(id));
    assert_eq!(shares, [0.75, 0.25]);
    let table = &got.state.tables[&0];
    let slots = table.iter().filter(|&&slot| slot == 0).count();
    assert!((187..=189).contains(&slots), "{slots} of 251");
}
