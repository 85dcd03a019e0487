use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::health::LocalFault;

const THREE: Thresholds = Thresholds {
    healthy: 3,
    unhealthy: 3,
};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn outcome(letter: char) -> Outcome {
    match letter {
        's' => Outcome::Success,
        'f' => Outcome::Failure(Reason::ConnectionRefused),
        't' => Outcome::Failure(Reason::ResponseTimeout),
        '?' => Outcome::Inconclusive(LocalFault::FileDescriptors),
        other => panic!("no outcome {other:?}"),
    }
}

/// Result `n` (from 0) comes at second `n + 1`.
fn observe_all(target: &mut TargetHealth, outcomes: &str, thresholds: Thresholds) -> Vec<Health> {
    outcomes
        .chars()
        .zip(1..)
        .filter_map(|(letter, second)| target.observe(&outcome(letter), at(second), thresholds))
        .map(|transition| transition.to)
        .collect()
}

#[test]
fn results_move_health() {
    use Health::{Healthy, Initial, Unhealthy};
    let refused = Some(Reason::ConnectionRefused);
    let timeout = Some(Reason::ResponseTimeout);
    // description, results, health, since (second), reason, contrary
    let table = [
        (
            "new",
            "",
            Initial,
            0,
            Some(Reason::RegistrationInProgress),
            0,
        ),
        ("first success decides", "s", Healthy, 1, None, 0),
        ("first failure decides", "f", Unhealthy, 1, refused, 0),
        (
            "inconclusive decides nothing",
            "??",
            Initial,
            0,
            Some(Reason::RegistrationInProgress),
            0,
        ),
        ("first result after inconclusive", "?s", Healthy, 2, None, 0),
        ("two failures of three", "sff", Healthy, 1, refused, 2),
        ("three failures", "sfff", Unhealthy, 4, refused, 0),
        (
            "a success starts the row again",
            "sffsff",
            Healthy,
            1,
            refused,
            2,
        ),
        ("a success clears the reason", "sffs", Healthy, 1, None, 0),
        (
            "inconclusive keeps the row",
            "sff?f",
            Unhealthy,
            5,
            refused,
            0,
        ),
        ("two successes of three", "fss", Unhealthy, 1, refused, 2),
        ("three successes", "fsss", Healthy, 4, None, 0),
        (
            "a failure starts the row again",
            "fssfss",
            Unhealthy,
            1,
            refused,
            2,
        ),
        (
            "the last failure's reason, healthy",
            "sft",
            Healthy,
            1,
            timeout,
            2,
        ),
        (
            "the last failure's reason, turning",
            "sfft",
            Unhealthy,
            4,
            timeout,
            0,
        ),
        (
            "the last failure's reason, unhealthy",
            "ft",
            Unhealthy,
            1,
            timeout,
            0,
        ),
        ("there and back", "sfffsss", Healthy, 7, None, 0),
    ];
    for (description, outcomes, health, since, reason, contrary) in table {
        let mut target = TargetHealth::new(at(0));
        observe_all(&mut target, outcomes, THREE);
        let found = (target.health, target.since, target.reason, target.contrary);
        assert_eq!(
            found,
            (health, at(since), reason, contrary),
            "{description}"
        );
    }
}

#[test]
fn transitions_say_what_changed() {
    let mut target = TargetHealth::new(at(0));
    let one = Thresholds {
        healthy: 1,
        unhealthy: 1,
    };
    let first = target.observe(&Outcome::Success, at(1), one);
    let second = target.observe(&outcome('f'), at(2), one);
    let transition = |from, to, reason| Some(Transition { from, to, reason });
    assert_eq!(first, transition(Health::Initial, Health::Healthy, None));
    assert_eq!(
        second,
        transition(
            Health::Healthy,
            Health::Unhealthy,
            Some(Reason::ConnectionRefused)
        )
    );
}

#[test]
fn draining_and_unused_ignore_results() {
    for enter in [TargetHealth::drain, TargetHealth::set_unused] {
        let mut target = TargetHealth::new(at(0));
        observe_all(&mut target, "s", THREE);
        let entered = enter(&mut target, Reason::NotInUse, at(50)).expect("a transition");
        assert_eq!(entered.reason, Some(Reason::NotInUse));
        let again = enter(&mut target, Reason::DrainedByOperator, at(60));
        assert_eq!(again, None, "entered once");
        assert_eq!(observe_all(&mut target, "ffffssss", THREE), []);
        let now = (target.health, target.reason);
        assert_eq!(now, (entered.to, Some(Reason::DrainedByOperator)));
        assert_eq!(target.since, at(50));
        assert_eq!((target.successes, target.failures), (5, 4));
    }
}

#[test]
fn what_was_unused_starts_anew_and_what_was_draining_does_not() {
    let mut unused = TargetHealth::new(at(0));
    observe_all(&mut unused, "s", THREE);
    unused.set_unused(Reason::NotInUse, at(50));
    let resumed = unused.resume(at(70)).expect("a transition");
    assert_eq!((resumed.to, unused.since), (Health::Initial, at(70)));
    assert_eq!(observe_all(&mut unused, "f", THREE), [Health::Unhealthy]);
    assert_eq!(unused.resume(at(80)), None, "only once");

    for (results, before) in [
        ("", Health::Initial),
        ("s", Health::Healthy),
        ("sf", Health::Healthy),
        ("f", Health::Unhealthy),
    ] {
        let mut target = TargetHealth::new(at(0));
        observe_all(&mut target, results, THREE);
        let reason = target.reason;
        target.drain(Reason::DeregistrationInProgress, at(50));
        let resumed = target.resume(at(70)).expect("a transition");
        assert_eq!((resumed.from, resumed.to), (Health::Draining, before));
        let now = (target.health, target.reason, target.since, target.contrary);
        assert_eq!(now, (before, reason, at(70), 0), "{results:?}");
        assert_eq!(target.resume(at(80)), None, "only once");
        // Nobody has looked for a while.
        let moves = match before {
            Health::Unhealthy => observe_all(&mut target, "sff", THREE),
            _ => observe_all(&mut target, "fss", THREE),
        };
        assert_eq!(moves.len(), 1, "{results:?}: the next result decides alone");
    }

    let mut target = TargetHealth::new(at(0));
    observe_all(&mut target, "s", THREE);
    target.drain(Reason::DeregistrationInProgress, at(50));
    target.set_unused(Reason::NotInUse, at(60));
    target.resume(at(70));
    assert_eq!(target.health, Health::Initial, "drained to the end");
}

#[test]
fn zero_thresholds_count_as_one() {
    let zero = Thresholds {
        healthy: 0,
        unhealthy: 0,
    };
    let mut target = TargetHealth::new(at(0));
    let moves = observe_all(&mut target, "sfs", zero);
    assert_eq!(moves, [Health::Healthy, Health::Unhealthy, Health::Healthy]);
}

/// Health after all results, from the whole history each time: the first
/// result decides; later, whenever the newest `threshold` results since the
/// last change all speak against it, it changes.
fn naive(history: &[Outcome], thresholds: Thresholds) -> Health {
    let results: Vec<bool> = history
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::Success => Some(true),
            Outcome::Failure(_) => Some(false),
            Outcome::Inconclusive(_) => None,
        })
        .collect();
    let Some(&first) = results.first() else {
        return Health::Initial;
    };
    let (mut healthy, mut changed) = (first, 1);
    for end in 1..=results.len() {
        let needed = if healthy {
            thresholds.unhealthy
        } else {
            thresholds.healthy
        };
        let since_change = &results[changed..end.max(changed)];
        let Some(start) = since_change.len().checked_sub(needed as usize) else {
            continue;
        };
        if since_change[start..]
            .iter()
            .all(|&result| result != healthy)
        {
            healthy = !healthy;
            changed = end;
        }
    }
    if healthy {
        Health::Healthy
    } else {
        Health::Unhealthy
    }
}

proptest! {
    #[test]
    fn agrees_with_the_naive_model(
        letters in proptest::collection::vec(prop_oneof!["s", "f", "t", "\\?"], 0..60),
        healthy in 1u32..5,
        unhealthy in 1u32..5,
    ) {
        let thresholds = Thresholds { healthy, unhealthy };
        let history: Vec<Outcome> = letters
            .iter()
            .flat_map(|letter| letter.chars())
            .map(outcome)
            .collect();
        let mut target = TargetHealth::new(at(0));
        for (done, result) in history.iter().enumerate() {
            let before = target.clone();
            let now = at(done as u64 + 1);
            let transition = target.observe(result, now, thresholds);

            prop_assert_eq!(target.health, naive(&history[..=done], thresholds));
            prop_assert_eq!(transition.is_some(), before.health != target.health);
            let since = if transition.is_some() { now } else { before.since };
            prop_assert_eq!(target.since, since);
            if let Outcome::Failure(reason) = result {
                prop_assert_eq!(target.reason, Some(*reason));
            }
        }
        let counted = target.successes + target.failures + target.inconclusive;
        prop_assert_eq!(counted, history.len() as u64);
    }
}
