//! Tables of texts and what is said about them, one for each subject.

mod addresses;
mod file;
mod flags;
mod forwarding;
mod general;
mod groups;
mod health_check;
mod life_cycle;
mod listeners;
mod protection;

use proptest::prelude::*;

use super::*;

/// A configuration without fault, to which a case adds or in which it replaces.
const VALID: &str = r#"interface = "eth0"

[[listener]]
address = ":80"
target_group = "api"

[[target_group]]
name = "api"
targets = [":8081", { address = "10.0.0.2:80", weight = 2 }]

[target_group.health_check]
path = "/system/check"
"#;

fn errors(text: &str) -> String {
    match parse(text, "x") {
        Ok(_) => String::new(),
        Err(diagnostics) => diagnostics.to_string(),
    }
}

#[test]
fn the_valid_one_is_valid_and_has_the_defaults() {
    let parsed = parse(VALID, "x").unwrap();
    assert_eq!(parsed.warnings.to_string(), "");
    let config = parsed.config;
    assert_eq!(config.interfaces, ["eth0"]);
    assert_eq!(config.listeners[0].name, "tcp:80");
    assert_eq!(config.target_groups[0].targets[1].weight, 2);
    assert_eq!(config.target_groups[0].table_size, 65_537);
    assert_eq!(config.capacity.flows, 1_000_000);
    assert_eq!(config.source_ports, 1024..=32767);
    let check = &config.target_groups[0].health_check;
    assert_eq!((check.interval.as_secs(), check.timeout.as_secs()), (10, 6));
}

#[test]
fn a_version_may_be_named() {
    let named = parse(&format!("version = 1\n{VALID}"), "x").unwrap();
    assert_eq!(named.config, parse(VALID, "x").unwrap().config);
}

/// (what is replaced in the valid text, by what, line:column, part of the message)
type Case = (&'static str, &'static str, &'static str, &'static str);

#[test]
fn every_rule_is_reported_at_its_place() {
    check(general::CASES);
    check(listeners::CASES);
    check(groups::CASES);
    check(health_check::CASES);
}

fn check(cases: &[Case]) {
    for (old, new, place, message) in cases {
        assert!(VALID.contains(old), "the case replaces nothing: {old}");
        check_text(&VALID.replacen(old, new, 1), place, message);
    }
}

/// One mistake is one error, but for those that follow from it.
fn check_text(text: &str, place: &str, message: &str) {
    let mut lines = lines(text);
    // What is misspelt is missing too, and nobody finds a group without name.
    let following = [
        "error: `interface` is missing",
        "error: `min_healthy` is missing",
        "error: there is no target group `api`",
    ];
    lines.retain(|line| {
        line.contains(message) || !following.iter().any(|error| line.contains(error))
    });
    check_lines(&lines, place, message);
}

fn lines(text: &str) -> Vec<String> {
    parse(text, "x").map_or_else(|errors| errors.lines(), |_| Vec::new())
}

/// There is one error, at this place (line:column).
fn check_lines(lines: &[String], place: &str, message: &str) {
    let got = lines.join("\n");
    assert!(
        got.starts_with(&format!("x:{place}: error: ")),
        "want {place}: {message} in\n{got}"
    );
    assert!(got.contains(message), "want {message:?} in\n{got}");
    assert_eq!(got.matches(": error: ").count(), 1, "{got}");
}

#[test]
fn it_looks_like_a_compilers() {
    let text = VALID.replace("path =", "pth =");
    assert_eq!(
        errors(&text),
        "x:12:1: error: unknown key `pth`\n    \
         pth = \"/system/check\"\n    \
         ^^^\n    \
         help: did you mean `path`?\n"
    );
}

#[test]
fn all_errors_are_reported_in_the_order_of_the_text() {
    let text = VALID
        .replace("\":80\"", "\":0\"")
        .replace("weight = 2", "weight = 0")
        .replace("path", "pth");
    let got = errors(&text);
    let lines: Vec<&str> = got.lines().filter(|line| line.starts_with("x:")).collect();
    assert_eq!(lines.len(), 3, "{got}");
    assert!(
        lines[0].starts_with("x:4:")
            && lines[1].starts_with("x:9:")
            && lines[2].starts_with("x:12:")
    );
}

#[test]
fn noise_is_cut_short() {
    let noise = "unknown = 1\n".replace("unknown", "u");
    let many: String = (0..5_000)
        .map(|i| noise.replace('u', &format!("u{i}")))
        .collect();
    let got = errors(&many);
    assert!(
        got.len() < 20_000 && got.contains("more\n"),
        "{} bytes",
        got.len()
    );
}

proptest! {
    #[test]
    fn nothing_panics(text in ".{0,200}") {
        let _ = errors(&text);
    }

    #[test]
    fn no_mutation_panics(at in 0..VALID.len(), with in "[ -~\\n]{0,6}", remove in 0usize..8) {
        let end = (at + remove).min(VALID.len());
        let _ = errors(&format!("{}{with}{}", &VALID[..at], &VALID[end..]));
    }
}
