//! What operators ask for.

use super::*;
use crate::health::Reason;

const FAILURE: Outcome = Outcome::Failure(Reason::ConnectionRefused);

fn state(registry: &Registry, key: &TargetKey) -> (Health, Option<Reason>) {
    let health = &registry.get(key).unwrap().health;
    (health.health, health.reason)
}

/// Groups `a` with 7 and 8, and a name for 7.
fn drained(clock: &Clock) -> (Registry, Config) {
    let config = config(&[("a", true, "", &[7, 8])]);
    let mut registry = healthy(&config, clock);
    let done = registry.operate(&key("a", 7), Operation::Drain, &config, clock.at(10));
    let [(drained, transition)] = &done.transitions[..] else {
        panic!("{done:?}");
    };
    assert_eq!((drained, transition.to), (&key("a", 7), Health::Draining));
    (registry, config)
}

#[test]
fn a_drained_target_stays_out_until_it_is_enabled() {
    let clock = Clock::new();
    let (mut registry, config) = drained(&clock);
    let by_operator = Some(Reason::DrainedByOperator);
    assert_eq!(
        state(&registry, &key("a", 7)),
        (Health::Draining, by_operator)
    );
    assert_eq!(state(&registry, &key("a", 8)).0, Health::Healthy);

    let again = registry.operate(&key("a", 7), Operation::Drain, &config, clock.at(20));
    assert_eq!(again, Registration::default(), "asked twice");
    let reloaded = registry.register(&config, clock.at(30));
    assert_eq!(reloaded, Registration::default(), "reloaded");
    assert_eq!(registry.next_end(), Some(clock.at(70).steady));
    assert_eq!(registry.expire(&config, clock.at(70)), [key("a", 7)]);
    assert_eq!(
        state(&registry, &key("a", 7)),
        (Health::Unused, by_operator)
    );
    registry.register(&config, clock.at(80));
    assert_eq!(
        state(&registry, &key("a", 7)),
        (Health::Unused, by_operator)
    );

    registry.operate(&key("a", 7), Operation::Enable, &config, clock.at(90));
    assert_eq!(state(&registry, &key("a", 7)).0, Health::Initial);
    assert_eq!(registry.overrides(), &OperatorOverrides::default());
    registry.observe(&key("a", 7), &Outcome::Success, ONE, clock.at(91));
    assert_eq!(state(&registry, &key("a", 7)).0, Health::Healthy);
}

#[test]
fn what_is_enabled_in_time_is_what_it_was_until_its_next_check() {
    const THREE: Thresholds = Thresholds {
        healthy: 3,
        unhealthy: 3,
    };
    let clock = Clock::new();
    for (outcome, expected) in [
        (Outcome::Success, Health::Healthy),
        (FAILURE, Health::Unhealthy),
    ] {
        let (mut registry, config) = drained(&clock);
        registry.operate(&key("a", 7), Operation::Enable, &config, clock.at(69));
        assert_eq!(state(&registry, &key("a", 7)), (Health::Healthy, None));
        assert_eq!(registry.expire(&config, clock.at(500)), []);
        registry.observe(&key("a", 7), &outcome, THREE, clock.at(70));
        assert_eq!(state(&registry, &key("a", 7)).0, expected);
    }
}

#[test]
fn a_target_that_is_removed_meanwhile_is_forgotten_with_its_drain() {
    let clock = Clock::new();
    let (mut registry, config) = drained(&clock);
    let without = self::config(&[("a", true, "", &[8])]);
    registry.register(&without, clock.at(20));
    let removed = Some(Reason::DeregistrationInProgress);
    assert_eq!(state(&registry, &key("a", 7)), (Health::Draining, removed));
    registry.register(&config, clock.at(30));
    let by_operator = Some(Reason::DrainedByOperator);
    assert_eq!(
        state(&registry, &key("a", 7)),
        (Health::Draining, by_operator)
    );

    registry.register(&without, clock.at(40));
    registry.expire(&without, clock.at(70));
    registry.register(&config, clock.at(80));
    assert_eq!(state(&registry, &key("a", 7)).0, Health::Initial);
}

/// A group that is taken out of use, and a target of it that an operator has
/// drained.
#[test]
fn an_unused_group_and_a_drained_target() {
    let clock = Clock::new();
    let (mut registry, used) = drained(&clock);
    let unused = config(&[("a", false, "", &[7, 8])]);
    registry.register(&unused, clock.at(20));
    assert_eq!(registry.expire(&unused, clock.at(80)).len(), 2);
    let by_operator = Some(Reason::DrainedByOperator);
    assert_eq!(
        state(&registry, &key("a", 7)),
        (Health::Unused, by_operator)
    );
    assert_eq!(
        state(&registry, &key("a", 8)),
        (Health::Unused, Some(Reason::NotInUse))
    );
    registry.operate(&key("a", 7), Operation::Enable, &unused, clock.at(90));
    assert_eq!(
        state(&registry, &key("a", 7)),
        (Health::Unused, Some(Reason::NotInUse)),
        "still no listener"
    );
    registry.register(&used, clock.at(100));
    assert_eq!(state(&registry, &key("a", 7)).0, Health::Initial);
}

#[test]
fn without_a_delay_a_drained_target_is_unused_at_once() {
    let clock = Clock::new();
    let at_once = config(&[("a", true, "deregistration_delay = \"0s\"", &[7, 8])]);
    let mut registry = healthy(&at_once, &clock);
    let done = registry.operate(&key("a", 7), Operation::Drain, &at_once, clock.at(10));
    assert_eq!(done.transitions[0].1.to, Health::Unused);
    assert_eq!(registry.next_end(), None);
}

#[test]
fn what_comes_back_into_use_starts_slowly() {
    let clock = Clock::new();
    let slowly = config(&[("a", true, "slow_start = \"64s\"", &[7, 8])]);
    let mut registry = healthy(&slowly, &clock);
    registry.operate(&key("a", 7), Operation::Drain, &slowly, clock.at(10));
    registry.expire(&slowly, clock.at(1_000));
    registry.operate(&key("a", 7), Operation::Enable, &slowly, clock.at(1_000));
    registry.observe(&key("a", 7), &Outcome::Success, ONE, clock.at(1_000));
    assert_eq!(slow(&registry, &slowly, clock.at(1_000)), [(7, 13)]);
}

/// The targets 7 and 8 of group `a`, the first with this weight.
fn weighted(weight: u16) -> Config {
    let text = format!(
        "interface = \"eth0\"\n[[listener]]\naddress = \":80\"\ntarget_group = \"a\"\n\
         [[target_group]]\nname = \"a\"\n\
         targets = [{{ address = \":7\", weight = {weight} }}, \":8\"]\n"
    );
    crate::config::parse(&text, "x").unwrap().config
}

#[test]
fn a_set_weight_holds_while_the_configured_one_stays() {
    let clock = Clock::new();
    let mut registry = healthy(&weighted(2), &clock);
    let weight = |registry: &Registry| registry.get(&key("a", 7)).unwrap().weight;
    let set = Operation::Weight(5);
    registry.operate(&key("a", 7), set, &weighted(2), clock.at(10));
    assert_eq!(weight(&registry), 5);
    let expected = BTreeMap::from([(key("a", 7), 5)]);
    assert_eq!(registry.overrides().weights(), expected);
    assert_eq!(
        registry.overrides().configured_weight(&key("a", 7)),
        Some(2)
    );

    registry.register(&weighted(2), clock.at(20));
    assert_eq!(weight(&registry), 5, "reloaded");
    let done = registry.register(&weighted(3), clock.at(30));
    assert_eq!((weight(&registry), done.overruled), (3, vec![key("a", 7)]));
    registry.register(&weighted(2), clock.at(40));
    assert_eq!(weight(&registry), 2, "over for good");

    registry.operate(&key("a", 7), set, &weighted(2), clock.at(50));
    let configured = Operation::Weight(2);
    registry.operate(&key("a", 7), configured, &weighted(2), clock.at(60));
    assert_eq!(weight(&registry), 2);
    assert_eq!(registry.overrides(), &OperatorOverrides::default());
}

#[test]
fn a_drain_and_a_weight_are_apart() {
    let clock = Clock::new();
    let mut registry = healthy(&weighted(2), &clock);
    for operation in [Operation::Weight(5), Operation::Drain, Operation::Enable] {
        registry.operate(&key("a", 7), operation, &weighted(2), clock.at(10));
    }
    assert_eq!(registry.get(&key("a", 7)).unwrap().weight, 5);
    assert_eq!(state(&registry, &key("a", 7)).0, Health::Healthy);
}

/// What another agent makes of it.
#[test]
fn overrides_outlive_their_registry_as_json() {
    let clock = Clock::new();
    let mut registry = healthy(&weighted(2), &clock);
    registry.operate(&key("a", 8), Operation::Drain, &weighted(2), clock.at(10));
    registry.operate(
        &key("a", 7),
        Operation::Weight(5),
        &weighted(2),
        clock.at(10),
    );
    let json = serde_json::to_string(registry.overrides()).unwrap();
    assert_eq!(
        json,
        r#"[{"group":"a","address":null,"port":7,"drained":false,"weight":{"set":5,"configured":2}},{"group":"a","address":null,"port":8,"drained":true,"weight":null}]"#
    );

    let mut next = Registry::default();
    next = next.with_overrides(serde_json::from_str(&json).unwrap());
    next.register(&weighted(2), clock.at(0));
    assert_eq!(next.overrides(), registry.overrides());
    assert_eq!(next.get(&key("a", 7)).unwrap().weight, 5);
    assert_eq!(
        state(&next, &key("a", 8)),
        (Health::Unused, Some(Reason::DrainedByOperator))
    );

    let mut other = Registry::default();
    other = other.with_overrides(serde_json::from_str(&json).unwrap());
    let done = other.register(&config(&[("a", true, "", &[7])]), clock.at(0));
    assert_eq!(done.overruled, [key("a", 7)], "another weight");
    assert_eq!(other.overrides(), &OperatorOverrides::default());
}

#[test]
fn targets_are_named_as_they_are_configured() {
    let config = config(&[("a", true, "", &[7, 8]), ("b", true, "", &[8])]);
    let find = |text, group| TargetName::parse(text, group)?.find(&config);
    assert_eq!(find(":7", None), Ok(key("a", 7)));
    assert_eq!(find(":8", Some("b")), Ok(key("b", 8)));
    let wrong = [
        (":8", None, ":8 is a target of a, b: say which by --group"),
        (":9", None, "no target group has a target :9"),
        ("[2001:db8::1]:7", None, "has a target [2001:db8::1]:7"),
        (":*", None, "has a target :*"),
        (":7", Some("b"), "no target group `b` with a target :7"),
        (":7", Some("c"), "no target group `c` with a target :7"),
        (":7-9", None, "`:7-9`: a target has one port"),
        ("web1:80", None, "names aren't resolved"),
        ("10.0.0.1", None, "has no port"),
        ("", None, "has no port"),
    ];
    for (text, group, message) in wrong {
        let error = find(text, group).unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
}
