//! Security groups, and listeners' limits.

use super::{file::Folder, *};
use crate::address::Prefix;

const ADDRESS: &str = "address = \":80\"";

const CASES: &[Case] = &[
    (
        ADDRESS,
        "address = \":80\"\nsecurity_group = \"office\"",
        "5:18",
        "there is no security group `office`",
    ),
    (
        ADDRESS,
        "address = \":80\"\nmax_new_flows = 0",
        "5:17",
        "from 1 to 4294967295",
    ),
    (
        ADDRESS,
        "address = \":80\"\nmax_new_flows_per_source = 0",
        "5:28",
        "from 1 to",
    ),
    (
        ADDRESS,
        "address = \":80\"\nsource_prefix_v4 = 24",
        "5:20",
        "`source_prefix_v4` goes with `max_new_flows_per_source` only",
    ),
    (
        ADDRESS,
        "address = \":80\"\nmax_new_flows_per_source = 1\nsource_prefix_v4 = 33",
        "6:20",
        "from 1 to 32",
    ),
    (
        ADDRESS,
        "address = \":80\"\nmax_new_flows_per_source = 1\nsource_prefix_v6 = 129",
        "6:20",
        "from 1 to 128",
    ),
];

/// [`VALID`] with a security group of these rules, from line 6 on.
fn with_group(rules: &str) -> String {
    VALID.replacen(
        "target_group = \"api\"\n",
        &format!(
            "target_group = \"api\"\nsecurity_group = \"office\"\n[[security_group]]\n\
             name = \"office\"\n{rules}\n"
        ),
        1,
    )
}

/// (rules, line:column, part of the message)
const RULES: &[(&str, &str, &str)] = &[
    ("", "7:1", "the security group has no rules"),
    ("allow = 7", "9:9", "a list of them"),
    ("allow = [\"10.0.0.0/33\"]", "9:10", "is not a prefix"),
    ("allow = \"10.0.0.1/8\"", "9:9", "write it as `10.0.0.0/8`"),
    (
        "deny = [\"::/0\", \"2001:db8::1/32\"]",
        "9:17",
        "write it as `2001:db8::/32`",
    ),
    (
        "allow = \"10.0.0.0/8\"\ndeny = [\"10.0.0.0/8\"]",
        "10:9",
        "`10.0.0.0/8` is both allowed and denied",
    ),
    (
        "allow_file = \"none.txt\"",
        "9:14",
        "none.txt: could not be read",
    ),
    (
        "alow = \"10.0.0.0/8\"\ndeny = []",
        "9:1",
        "did you mean `allow`?",
    ),
];

#[test]
fn faults_are_reported_at_their_place() {
    check(CASES);
    for (rules, place, message) in RULES {
        check_lines(&lines(&with_group(rules)), place, message);
    }
    let twice = with_group("deny = []\n[[security_group]]\nname = \"office\"\ndeny = []");
    let got = errors(&twice);
    assert!(
        got.contains("x:11:8: error: there is another security group `office`"),
        "{got}"
    );
}

fn rules(text: &str) -> Vec<String> {
    let config = parse(&with_group(text), "x")
        .unwrap_or_else(|errors| panic!("{errors}"))
        .config;
    assert_eq!(config.listeners[0].security_group, Some(0));
    let rules = config.security_groups[0].rules.iter();
    rules
        .map(|(prefix, rule)| format!("{rule:?} {prefix}"))
        .collect()
}

#[test]
fn who_is_in_no_list_is_denied_if_any_is_allowed() {
    assert_eq!(
        rules("allow = [\"10.0.0.0/8\", \"2001:db8::1\"]\ndeny = \"10.1.0.0/16\""),
        [
            "Deny 0.0.0.0/0",
            "Allow 10.0.0.0/8",
            "Deny 10.1.0.0/16",
            "Deny ::/0",
            "Allow 2001:db8::1/128"
        ]
    );
    assert_eq!(
        rules("deny = [\"10.0.0.0/8\"]"),
        ["Allow 0.0.0.0/0", "Deny 10.0.0.0/8", "Allow ::/0"]
    );
    assert_eq!(
        rules("allow = []"),
        ["Deny 0.0.0.0/0", "Deny ::/0"],
        "an empty list allows nobody"
    );
    assert_eq!(
        rules("allow = \"0.0.0.0/0\"\ndeny = [\"::/0\"]"),
        ["Allow 0.0.0.0/0", "Deny ::/0"],
        "all of a family may be named"
    );
}

#[test]
fn a_security_group_that_nobody_uses_is_a_warning() {
    let text = format!("{VALID}\n[[security_group]]\nname = \"spare\"\ndeny = []\n");
    let warnings = parse(&text, "x").unwrap().warnings.to_string();
    let expected = "x:14:1: warning: no listener uses the security group `spare`\n";
    assert!(warnings.starts_with(expected), "{warnings}");
}

#[test]
fn a_file_has_a_prefix_a_line() {
    let folder = Folder::new("prefixes");
    let config = folder.write(
        "xlb.toml",
        with_group("allow = \"192.0.2.1\"\ndeny_file = \"blocked.txt\""),
    );
    folder.write(
        "blocked.txt",
        "# known bad\n\n10.0.0.0/8\n  2001:db8::/32  # all of it\n10.0.0.0/8\n",
    );
    let rules = load(&config).unwrap().config.security_groups[0]
        .rules
        .clone();
    assert_eq!(rules.len(), 5, "{rules:?}");

    folder.write(
        "blocked.txt",
        "10.0.0.0/8\n10.0.0.256\n192.0.2.1\n10.0.0.1/8\nx\ny\nz\nw\n",
    );
    let got = load(&config).map(|_| ()).unwrap_err().to_string();
    assert!(got.contains("xlb.toml:10:13: error: blocked.txt:2: `10.0.0.256` is not a"));
    assert!(got.contains("blocked.txt:3: `192.0.2.1/32` is both allowed and denied"));
    assert!(got.contains("blocked.txt:4: `10.0.0.1/8` has bits beyond"));
    assert!(got.contains("blocked.txt: and 2 more faults"), "{got}");
}

#[test]
fn a_hundred_thousand_prefixes_are_loaded_and_more_than_fit_are_not() {
    let folder = Folder::new("many-prefixes");
    let config = folder.write("xlb.toml", with_group("deny_file = \"many.txt\""));
    let list = |count: u32| -> String {
        let line = |n: u32| format!("{}.{}.{}.0/24\n", 1 + (n >> 16), (n >> 8) & 255, n & 255);
        (0..count).map(line).collect()
    };
    folder.write("many.txt", list(100_000));
    let parsed = load(&config).unwrap();
    assert_eq!(parsed.config.security_groups[0].rules.len(), 100_002);
    folder.write("many.txt", list(131_072));
    let got = load(&config).map(|_| ()).unwrap_err().to_string();
    assert!(got.contains("xlb.toml:7:1: error: more than 131072 IPv4 prefixes"));
}

#[test]
fn limits_and_their_defaults() {
    let limits = |text: &str| {
        let text = VALID.replace(ADDRESS, &format!("{ADDRESS}\n{text}"));
        parse(&text, "x").unwrap().config.listeners[0].limits
    };
    assert_eq!(limits(""), None);
    let both = Limits {
        new_flows: Some(1000),
        new_flows_per_source: Some(10),
        source_prefix_v4: 32,
        source_prefix_v6: 64,
    };
    let text = "max_new_flows = 1000\nmax_new_flows_per_source = 10";
    assert_eq!(limits(text), Some(both));
    let wider = Limits {
        source_prefix_v4: 24,
        source_prefix_v6: 48,
        ..both
    };
    let text = format!("{text}\nsource_prefix_v4 = 24\nsource_prefix_v6 = 48");
    assert_eq!(limits(&text), Some(wider));
}

proptest! {
    #[test]
    fn a_prefix_is_what_it_says(bits in any::<u32>(), length in 0u8..=32) {
        let address = std::net::Ipv4Addr::from_bits(bits);
        let prefix = Prefix::around(address.into(), length).unwrap();
        prop_assert_eq!(values::prefix(&prefix.to_string()), Ok(prefix));
        let written = values::prefix(&format!("{address}/{length}"));
        prop_assert_eq!(written.is_ok(), prefix.address() == std::net::IpAddr::from(address));
        prop_assert_eq!(prefix.open_bits() + prefix.length(), 32);
        prop_assert!(Prefix::around(address.into(), 33).is_none());
    }
}
