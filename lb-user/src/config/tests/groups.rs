//! Target groups, their targets and their tables.

use super::*;

const NAME: &str = "name = \"api\"";
const TARGET: &str = "targets = [\":8081\"";
const WEIGHT: &str = "weight = 2";

pub const CASES: &[Case] = &[
    (NAME, "", "7:1", "`name` is missing"),
    (NAME, "name = \"\"", "8:8", "can't be empty"),
    (
        "[[target_group]]",
        "[[target_group]]\nname = \"api\"\ntargets = [\":1\"]\n[[target_group]]",
        "11:8",
        "another target group `api`",
    ),
    (
        TARGET,
        "targets = [\":8082\", \":8082\"",
        "9:21",
        "in the group already",
    ),
    (
        TARGET,
        "targets = [8081",
        "9:12",
        "can't be of type integer",
    ),
    (
        TARGET,
        "targets = [\"127.0.0.1:8081\"",
        "9:12",
        "can't be used",
    ),
    (WEIGHT, "weight = 0", "9:57", "from 1 to 256, not 0"),
    (WEIGHT, "weight = 257", "9:57", "from 1 to 256, not 257"),
    (WEIGHT, "wieght = 2", "9:48", "did you mean `weight`?"),
    (
        "address = \"10.0.0.2:80\", weight",
        "weight",
        "9:21",
        "`address` is missing",
    ),
    (
        NAME,
        "name = \"api\"\ntable_size = 65536",
        "9:14",
        "primes near it are 65521 and 65537",
    ),
    (
        NAME,
        "name = \"api\"\ntable_size = 7",
        "9:14",
        "from 251 to",
    ),
    (
        NAME,
        "name = \"api\"\non_unhealthy = \"drop\"",
        "9:16",
        "`reset` or `keep`",
    ),
];

#[test]
fn too_many_listeners_targets_and_weights() {
    let listeners: String = (1..=130)
        .map(|port| format!("[[listener]]\naddress = \":{port}\"\ntarget_group = \"api\"\n"))
        .collect();
    let text = format!(
        "interface = \"eth0\"\n{listeners}{}",
        &VALID[VALID.find("[[target").unwrap()..]
    );
    assert!(errors(&text).contains("more than 128 listeners"));

    let targets: Vec<String> = (0..1001)
        .map(|i| format!("\"10.0.{}.{}:80\"", i / 200, i % 200 + 1))
        .collect();
    let list = format!("targets = [{}", targets.join(", "));
    assert!(errors(&VALID.replace(TARGET, &list)).contains("at most 1000"));

    let heavy: Vec<String> = (0..3)
        .map(|i| format!("{{ address = \"10.0.0.{}:1\", weight = 250 }}", i + 1))
        .collect();
    let list = format!("table_size = 251\ntargets = [{}", heavy.join(", "));
    assert!(errors(&VALID.replace(TARGET, &list)).contains("add up to"));
}

/// The rules of a table's size count for the default size too.
#[test]
fn the_default_table_has_limits_too() {
    let group = |targets: usize, weight: u16| {
        let targets: Vec<String> = (0..targets)
            .map(|i| format!("{{ address = \":{}\", weight = {weight} }}", i + 1_000))
            .collect();
        let list = format!("targets = [{}", targets.join(", "));
        parse(&VALID.replace(TARGET, &list), "x")
    };
    // One more target is in the text already.
    assert_eq!(group(654, 1).unwrap().warnings.to_string(), "");
    let warned = group(655, 1).unwrap().warnings.to_string();
    let expected = "x:7:1: warning: a table of 65537 slots has fewer than 100 for each of 656";
    assert!(warned.starts_with(expected), "{warned}");
    let heavy = group(257, 256).unwrap_err().to_string();
    let expected = "x:7:1: error: the weights add up to 65794, and the table has 65537 slots";
    assert!(heavy.starts_with(expected), "{heavy}");
}

#[test]
fn an_unused_group_is_a_warning() {
    let text = format!("{VALID}\n[[target_group]]\nname = \"spare\"\ntargets = [\":9\"]\n");
    let parsed = parse(&text, "x").unwrap();
    let expected = "x:14:1: warning: no listener uses the target group `spare`\n";
    assert!(
        parsed.warnings.to_string().starts_with(expected),
        "{}",
        parsed.warnings
    );
}
