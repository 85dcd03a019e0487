//! What a group's settings say about targets that come and go.

use std::time::Duration;

use super::*;

/// The valid text with more settings of its group, in line 9.
fn with(settings: &str) -> String {
    let name = "name = \"api\"";
    VALID.replacen(name, &format!("{name}\n{settings}"), 1)
}

fn group(settings: &str) -> TargetGroup {
    let parsed = parse(&with(settings), "x").unwrap_or_else(|errors| panic!("{errors}"));
    parsed.config.target_groups[0].clone()
}

#[test]
fn when_a_group_fails_open() {
    use FailOpen::{BelowCount, BelowPercent, Never};
    let table = [
        ("", BelowCount(1)),
        ("fail_open = true", BelowCount(1)),
        ("fail_open = false", Never),
        ("fail_open = \"50%\"", BelowPercent(50)),
        ("fail_open = \"100%\"", BelowPercent(100)),
        ("fail_open = { min_healthy = 2 }", BelowCount(2)),
        ("fail_open.min_healthy = 2", BelowCount(2)),
    ];
    for (setting, expected) in table {
        assert_eq!(group(setting).fail_open, expected, "{setting}");
    }
}

#[test]
fn how_long_a_removed_target_keeps_its_flows() {
    for (setting, seconds) in [
        ("", 300),
        ("deregistration_delay = \"0s\"", 0),
        ("deregistration_delay = \"1h\"", 3600),
    ] {
        let delay = group(setting).deregistration_delay;
        assert_eq!(delay, Duration::from_secs(seconds), "{setting}");
    }
}

#[test]
fn how_long_a_weight_rises() {
    assert_eq!(group("").slow_start, None);
    let slow = group("slow_start = \"30s\"").slow_start;
    assert_eq!(slow, Some(Duration::from_secs(30)));
}

#[test]
fn faults_are_reported_at_their_place() {
    let table = [
        ("fail_open = 2", "9:13", "must be `true`, `false`"),
        ("fail_open = \"0%\"", "9:13", "from `1%` to `100%`"),
        ("fail_open = \"101%\"", "9:13", "from `1%` to `100%`"),
        ("fail_open = \"half\"", "9:13", "`half` is not a percentage"),
        ("fail_open = {}", "9:13", "`min_healthy` is missing"),
        ("fail_open = { min_healthy = 0 }", "9:29", "from 1 to 1000"),
        (
            "fail_open = { min_health = 2 }",
            "9:15",
            "did you mean `min_healthy`?",
        ),
        ("slow_start = \"0s\"", "9:14", "more than zero"),
        ("slow_start = true", "9:14", "a text in quotes"),
        ("deregistration_delay = 300", "9:24", "a text in quotes"),
        (
            "deregistration_delay = \"2days\"",
            "9:24",
            "more than a day",
        ),
    ];
    for (setting, place, message) in table {
        check_text(&with(setting), place, message);
    }
}

#[test]
fn more_healthy_targets_than_there_are_is_a_warning() {
    let parsed = parse(&with("fail_open.min_healthy = 3"), "x").unwrap();
    let warnings = parsed.warnings.to_string();
    assert!(
        warnings.contains("x:9:25: warning: the group has only 2 targets"),
        "{warnings}"
    );
}

#[test]
fn a_group_is_open_below_its_threshold() {
    use FailOpen::{BelowCount, BelowPercent, Never};
    // (threshold, healthy, of, open)
    let table = [
        (Never, 0, 4, false),
        (BelowCount(1), 0, 4, true),
        (BelowCount(1), 1, 4, false),
        (BelowCount(3), 2, 4, true),
        (BelowCount(3), 3, 4, false),
        (BelowPercent(50), 1, 4, true),
        (BelowPercent(50), 2, 4, false),
        (BelowPercent(50), 1, 3, true),
        (BelowPercent(33), 1, 3, false),
        (BelowPercent(100), 3, 4, true),
        (BelowPercent(100), 4, 4, false),
        (BelowPercent(1), 0, 1000, true),
        (BelowPercent(1), 10, 1000, false),
        (BelowCount(1), 0, 0, false),
    ];
    for (threshold, healthy, targets, open) in table {
        assert_eq!(
            threshold.is_open(healthy, targets),
            open,
            "{threshold:?}, {healthy} of {targets}"
        );
    }
}
