mod operator;

use std::time::UNIX_EPOCH;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::config;

const ONE: Thresholds = Thresholds {
    healthy: 1,
    unhealthy: 1,
};

/// A clock that a test sets.
struct Clock {
    start: Instant,
}

impl Clock {
    fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    fn at(&self, seconds: u64) -> Now {
        let since = Duration::from_secs(seconds);
        Now {
            wall: UNIX_EPOCH + since,
            steady: self.start + since,
        }
    }
}

/// Groups: name, whether a listener uses it, settings (a delay of a minute), and
/// its targets' ports.
fn config(groups: &[(&str, bool, &str, &[u16])]) -> Config {
    // One group that is always there: a configuration can't be empty.
    let mut text = "interface = \"eth0\"\ncapacity.targets = 4\n[[listener]]\naddress = \":80\"\n\
                    target_group = \"z\"\n[[target_group]]\nname = \"z\"\ntargets = [\":1\"]\n"
        .to_owned();
    for (port, (name, used, settings, targets)) in (1000..).zip(groups) {
        if *used {
            text += &format!("[[listener]]\naddress = \":{port}\"\ntarget_group = \"{name}\"\n");
        }
        let targets: Vec<String> = targets.iter().map(|port| format!("\":{port}\"")).collect();
        let targets = targets.join(", ");
        let settings = match *settings {
            "" => "deregistration_delay = \"60s\"",
            settings => settings,
        };
        text +=
            &format!("[[target_group]]\nname = \"{name}\"\ntargets = [{targets}]\n{settings}\n");
    }
    config::parse(&text, "x")
        .unwrap_or_else(|errors| panic!("{errors}{text}"))
        .config
}

fn key(group: &str, port: u16) -> TargetKey {
    TargetKey {
        group: group.into(),
        address: None,
        port,
    }
}

fn health(registry: &Registry, key: &TargetKey) -> Option<Health> {
    registry.get(key).map(|target| target.health.health)
}

/// A registry in which every target has had a success, at second 1.
fn healthy(config: &Config, clock: &Clock) -> Registry {
    let mut registry = Registry::default();
    registry.register(config, clock.at(0));
    let keys: Vec<TargetKey> = registry.targets.keys().cloned().collect();
    for key in keys {
        registry.observe(&key, &Outcome::Success, ONE, clock.at(1));
    }
    registry
}

#[test]
fn a_removed_target_drains_for_its_groups_delay() {
    let clock = Clock::new();
    let mut registry = healthy(&config(&[("a", true, "", &[7, 8])]), &clock);
    let without = config(&[("a", true, "", &[8])]);
    let done = registry.register(&without, clock.at(10));
    let [(removed, transition)] = &done.transitions[..] else {
        panic!("{done:?}");
    };
    assert_eq!((removed, transition.to), (&key("a", 7), Health::Draining));
    assert_eq!(health(&registry, &key("a", 8)), Some(Health::Healthy));
    assert_eq!(registry.next_end(), Some(clock.at(70).steady));

    let again = registry.register(&without, clock.at(20));
    assert_eq!(again, Registration::default(), "it goes on");
    assert_eq!(registry.expire(&without, clock.at(69)), []);
    assert_eq!(registry.expire(&without, clock.at(70)), [key("a", 7)]);
    assert_eq!(health(&registry, &key("a", 7)), None);
    assert_eq!(registry.next_end(), None);
}

#[test]
fn the_new_delay_counts() {
    let clock = Clock::new();
    for (delay, end) in [("5s", Some(15)), ("0s", None)] {
        let mut registry = healthy(&config(&[("a", true, "", &[7, 8])]), &clock);
        let settings = format!("deregistration_delay = \"{delay}\"");
        registry.register(&config(&[("a", true, &settings, &[8])]), clock.at(10));
        assert_eq!(registry.next_end(), end.map(|end| clock.at(end).steady));
        assert_eq!(registry.get(&key("a", 7)).is_some(), end.is_some());
    }
}

#[test]
fn a_target_that_comes_back_is_what_it_was() {
    let clock = Clock::new();
    let with = config(&[("a", true, "", &[7, 8])]);
    let without = config(&[("a", true, "", &[8])]);
    let mut registry = healthy(&with, &clock);
    for (outcome, expected) in [
        (Outcome::Success, Health::Healthy),
        (
            Outcome::Failure(crate::health::Reason::ConnectionRefused),
            Health::Unhealthy,
        ),
    ] {
        registry.observe(&key("a", 7), &outcome, ONE, clock.at(5));
        registry.register(&without, clock.at(10));
        assert_eq!(health(&registry, &key("a", 7)), Some(Health::Draining));
        let ignored = registry.observe(&key("a", 7), &Outcome::Success, ONE, clock.at(11));
        assert_eq!(ignored, None, "a draining target");
        registry.register(&with, clock.at(69));
        assert_eq!(health(&registry, &key("a", 7)), Some(expected));
        assert_eq!(registry.expire(&with, clock.at(500)), []);
    }
    registry.register(&without, clock.at(600));
    registry.expire(&without, clock.at(700));
    registry.register(&with, clock.at(800));
    let returned = health(&registry, &key("a", 7));
    assert_eq!(returned, Some(Health::Initial), "too late");
}

#[test]
fn a_removed_group_drains_all_its_targets() {
    let clock = Clock::new();
    let mut registry = healthy(&config(&[("a", true, "", &[7, 8])]), &clock);
    let without = config(&[]);
    registry.register(&without, clock.at(10));
    let draining: Vec<u16> = registry.draining().map(|(key, _)| key.port).collect();
    assert_eq!(draining, [7, 8]);
    assert_eq!(registry.expire(&without, clock.at(70)).len(), 2);
}

#[test]
fn a_group_without_listener_drains_and_is_unused_then() {
    let clock = Clock::new();
    let used = config(&[("a", true, "", &[7])]);
    let unused = config(&[("a", false, "", &[7])]);
    let mut registry = healthy(&used, &clock);
    registry.register(&unused, clock.at(10));
    assert_eq!(health(&registry, &key("a", 7)), Some(Health::Draining));
    assert_eq!(registry.expire(&unused, clock.at(70)), [key("a", 7)]);
    assert_eq!(health(&registry, &key("a", 7)), Some(Health::Unused));
    assert_eq!(registry.next_end(), None);

    // Never used: nothing to drain.
    registry.register(&config(&[]), clock.at(80));
    assert_eq!(health(&registry, &key("a", 7)), None);
    let mut registry = Registry::default();
    let done = registry.register(&unused, clock.at(0));
    assert_eq!(done, Registration::default());
    assert_eq!(health(&registry, &key("a", 7)), Some(Health::Unused));
    registry.register(&used, clock.at(1));
    assert_eq!(health(&registry, &key("a", 7)), Some(Health::Initial));
}

/// There are ids for four targets, one of which `z` has.
#[test]
fn the_configured_targets_come_before_the_draining_ones() {
    let clock = Clock::new();
    let mut registry = healthy(&config(&[("a", true, "", &[7, 8])]), &clock);
    registry.register(&config(&[("a", true, "", &[8])]), clock.at(10));
    let full = config(&[("a", true, "", &[9])]);
    let done = registry.register(&full, clock.at(20));
    assert_eq!(done.displaced, [], "four in all");
    let over = config(&[("a", true, "", &[9, 10])]);
    let done = registry.register(&over, clock.at(30));
    assert_eq!(done.displaced, [key("a", 7)], "the nearest to its end");
    assert_eq!(health(&registry, &key("a", 8)), Some(Health::Draining));
}

/// Who starts slowly at this second.
fn slow(registry: &Registry, config: &Config, now: Now) -> Vec<(u16, u16)> {
    let slow = registry.slow_starts(config, now.steady);
    slow.iter().map(|(key, &parts)| (key.port, parts)).collect()
}

#[test]
fn what_turns_healthy_starts_slowly() {
    let clock = Clock::new();
    let slowly = "slow_start = \"64s\"";
    let two = config(&[("a", true, slowly, &[7, 8])]);
    let mut registry = healthy(&two, &clock);
    assert_eq!(slow(&registry, &two, clock.at(2)), [], "all began together");

    let failure = Outcome::Failure(crate::health::Reason::ConnectionRefused);
    registry.observe(&key("a", 7), &failure, ONE, clock.at(10));
    assert_eq!(slow(&registry, &two, clock.at(11)), []);
    registry.observe(&key("a", 7), &Outcome::Success, ONE, clock.at(20));
    assert_eq!(slow(&registry, &two, clock.at(20)), [(7, 13)]);
    assert_eq!(slow(&registry, &two, clock.at(52)), [(7, 64)]);
    assert_eq!(slow(&registry, &two, clock.at(84)), []);

    let three = config(&[("a", true, slowly, &[7, 8, 9])]);
    registry.register(&three, clock.at(100));
    registry.observe(&key("a", 9), &Outcome::Success, ONE, clock.at(101));
    assert_eq!(slow(&registry, &three, clock.at(133)), [(9, 64)], "joined");
    registry.observe(&key("a", 9), &failure, ONE, clock.at(134));
    assert_eq!(slow(&registry, &three, clock.at(134)), []);

    let at_once = config(&[("a", true, "", &[7, 8])]);
    let mut registry = healthy(&at_once, &clock);
    registry.observe(&key("a", 7), &failure, ONE, clock.at(10));
    registry.observe(&key("a", 7), &Outcome::Success, ONE, clock.at(20));
    assert_eq!(slow(&registry, &at_once, clock.at(21)), []);
}

/// A group that a reload adds, or takes into use, starts as a whole.
#[test]
fn a_whole_group_starts_at_once() {
    let clock = Clock::new();
    let slowly = "slow_start = \"64s\"";
    let unused = config(&[("a", false, slowly, &[7, 8])]);
    let mut registry = healthy(&unused, &clock);
    let used = config(&[("a", true, slowly, &[7, 8]), ("b", true, slowly, &[9])]);
    registry.register(&used, clock.at(10));
    for key in [key("a", 7), key("a", 8), key("b", 9)] {
        registry.observe(&key, &Outcome::Success, ONE, clock.at(11));
    }
    assert_eq!(slow(&registry, &used, clock.at(12)), []);
}

#[derive(Clone, Debug)]
enum Step {
    /// The targets 1 to 3 of group `a` that are configured, and whether a
    /// listener uses them.
    Configure(Vec<u16>, bool),
    Check(u16, bool),
    Wait(u64),
    /// Drain or enable.
    Operate(u16, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let ports = proptest::sample::subsequence(vec![1u16, 2, 3], 1..=3);
    prop_oneof![
        (ports, any::<bool>()).prop_map(|(ports, used)| Step::Configure(ports, used)),
        (1u16..4, any::<bool>()).prop_map(|(port, success)| Step::Check(port, success)),
        (1u64..50).prop_map(Step::Wait),
        (1u16..4, any::<bool>()).prop_map(|(port, drain)| Step::Operate(port, drain)),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_a_target_is_registered_draining_or_gone(steps in vec(step(), 1..60)) {
        let clock = Clock::new();
        let mut now = 0;
        let mut current = (vec![1, 2, 3], true);
        let mut registry = Registry::default();
        registry.register(&config(&[("a", true, "", &current.0)]), clock.at(0));
        let mut drained = [false; 4];
        // When each was last in use.
        let mut last_used = [0; 4];
        for step in steps {
            match step {
                Step::Configure(ports, used) => current = (ports, used),
                Step::Wait(seconds) => now += seconds,
                Step::Operate(port, drain) => {
                    let config = config(&[("a", current.1, "", &current.0)]);
                    let key = key("a", port);
                    if current.0.contains(&port) {
                        let operation = if drain { Operation::Drain } else { Operation::Enable };
                        registry.operate(&key, operation, &config, clock.at(now));
                        drained[usize::from(port)] = drain;
                    }
                }
                Step::Check(port, success) => {
                    let outcome = if success {
                        Outcome::Success
                    } else {
                        Outcome::Failure(crate::health::Reason::ConnectionReset)
                    };
                    registry.observe(&key("a", port), &outcome, ONE, clock.at(now));
                }
            }
            let config = config(&[("a", current.1, "", &current.0)]);
            registry.register(&config, clock.at(now));
            registry.expire(&config, clock.at(now));
            for port in 1u16..=3 {
                let configured = current.0.contains(&port);
                let in_use = configured && current.1 && !drained[usize::from(port)];
                if in_use {
                    last_used[usize::from(port)] = now;
                }
                let since = now - last_used[usize::from(port)];
                let target = registry.get(&key("a", port));
                let drains = target.is_some_and(|target| target.ends.is_some());
                let found = target.map(|target| target.health.health);
                prop_assert_eq!(drains, found == Some(Health::Draining));
                if target.is_none() {
                    drained[usize::from(port)] = false;
                }
                if in_use {
                    prop_assert!(found.is_some() && !drains && found != Some(Health::Unused));
                } else if drains {
                    prop_assert!(since < 60, "drains for {} s", since);
                } else {
                    prop_assert_eq!(found, configured.then_some(Health::Unused));
                }
            }
            prop_assert!(registry.targets.len() <= 4);
        }
    }
}
