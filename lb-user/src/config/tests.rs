//! A table of texts and what is said about them.

mod addresses;
mod forwarding;
mod life_cycle;
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

/// (what is replaced in the valid text, by what, line:column, part of the message)
type Case = (&'static str, &'static str, &'static str, &'static str);

const CASES: &[Case] = &[
    ("interface = \"eth0\"", "", "1:1", "`interface` is missing"),
    (
        "interface = \"eth0\"",
        "interface = []",
        "1:13",
        "names none",
    ),
    (
        "interface = \"eth0\"",
        "interface = 7",
        "1:13",
        "must be a text in quotes, or a list",
    ),
    ("\"eth0\"", "[\"eth0\", \"eth0\"]", "1:22", "named twice"),
    ("\"eth0\"", "\"a-name-of-16-chars\"", "1:13", "at most 15"),
    ("\"eth0\"", "\"eth 0\"", "1:13", "no blank"),
    (
        "interface = \"eth0\"",
        "interfaces = \"eth0\"",
        "1:1",
        "did you mean `interface`?",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\nxdp_mode = \"fast\"",
        "2:12",
        "`auto`, `native` or `generic`",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\ntc_mode = \"x\"",
        "2:11",
        "`tc_mode` can't be `x`",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\nmanage_address = 1",
        "2:18",
        "`true` or `false`",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\nhash_key = \"12\"",
        "2:12",
        "16 hexadecimal digits",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\ncapacity.flows = 4000001",
        "2:18",
        "from 1 to 4000000",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\ncapacity.listeners = 1025",
        "2:22",
        "from 1 to 1024",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\ncapacity.targets = 1",
        "8:1",
        "more than 1 targets in all",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\ncapacity.target = 1",
        "2:10",
        "did you mean `targets`?",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\ntimeouts.udp = \"0s\"",
        "2:16",
        "more than zero",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\ntimeouts.udp = \"1500ms\"",
        "2:16",
        "whole number of seconds",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\ntimeouts.udp = \"soon\"",
        "2:16",
        "is not a time",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\ntimeouts.udp = \"2days\"",
        "2:16",
        "more than a day",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\nsource_nat.ports = \"9-1\"",
        "2:20",
        "ends before it begins",
    ),
    (
        "interface = \"eth0\"",
        "interface = \"eth0\"\nsource_nat.ports = \"0-9\"",
        "2:20",
        "no port 0",
    ),
    ("address = \":80\"", "", "3:1", "`address` is missing"),
    (
        "address = \":80\"",
        "address = \"80\"",
        "4:11",
        "has no port",
    ),
    ("address = \":80\"", "address = \":0\"", "4:11", "no port 0"),
    (
        "address = \":80\"",
        "address = \":65536\"",
        "4:11",
        "is not a port",
    ),
    (
        "address = \":80\"",
        "address = \"1.2.3:80\"",
        "4:11",
        "is not an IPv4 address",
    ),
    (
        "address = \":80\"",
        "address = \"host:80\"",
        "4:11",
        "names aren't resolved",
    ),
    (
        "address = \":80\"",
        "address = \"127.0.0.1:80\"",
        "4:11",
        "write `:PORT` for a port of this host",
    ),
    (
        "address = \":80\"",
        "address = \"0.0.0.0:80\"",
        "4:11",
        "names no address",
    ),
    (
        "address = \":80\"",
        "address = \"224.0.0.1:80\"",
        "4:11",
        "multicast",
    ),
    (
        "address = \":80\"",
        "address = \"255.255.255.255:80\"",
        "4:11",
        "broadcast",
    ),
    (
        "address = \":80\"",
        "adress = \":80\"\naddress = \":80\"",
        "4:1",
        "did you mean `address`?",
    ),
    (
        "address = \":80\"",
        "protocol = \"sctp\"\naddress = \":80\"",
        "4:12",
        "`tcp` or `udp`",
    ),
    (
        "target_group = \"api\"",
        "target_group = \"apu\"",
        "5:16",
        "did you mean `api`?",
    ),
    (
        "target_group = \"api\"",
        "",
        "3:1",
        "`target_group` is missing",
    ),
    (
        "[[listener]]",
        "[[listener]]\naddress = \":80\"\ntarget_group = \"api\"\n[[listener]]",
        "7:11",
        "has this address, port and protocol already",
    ),
    (
        "[[listener]]",
        "[[listener]]\nname = \"a\"\naddress = \":81\"\ntarget_group = \"api\"\n[[listener]]\nname = \"a\"",
        "8:8",
        "another listener `a`",
    ),
    (
        "address = \":80\"",
        "address = \":8081\"",
        "3:1",
        "go round in circles",
    ),
    ("name = \"api\"", "", "7:1", "`name` is missing"),
    ("name = \"api\"", "name = \"\"", "8:8", "can't be empty"),
    (
        "[[target_group]]",
        "[[target_group]]\nname = \"api\"\ntargets = [\":1\"]\n[[target_group]]",
        "11:8",
        "another target group `api`",
    ),
    (
        "targets = [\":8081\"",
        "targets = [\":8082\", \":8082\"",
        "9:21",
        "in the group already",
    ),
    (
        "targets = [\":8081\"",
        "targets = [8081",
        "9:12",
        "can't be of type integer",
    ),
    (
        "targets = [\":8081\"",
        "targets = [\"127.0.0.1:8081\"",
        "9:12",
        "can't be used",
    ),
    ("weight = 2", "weight = 0", "9:57", "from 1 to 256, not 0"),
    (
        "weight = 2",
        "weight = 257",
        "9:57",
        "from 1 to 256, not 257",
    ),
    ("weight = 2", "wieght = 2", "9:48", "did you mean `weight`?"),
    (
        "address = \"10.0.0.2:80\", weight",
        "weight",
        "9:21",
        "`address` is missing",
    ),
    (
        "name = \"api\"",
        "name = \"api\"\ntable_size = 65536",
        "9:14",
        "primes near it are 65521 and 65537",
    ),
    (
        "name = \"api\"",
        "name = \"api\"\ntable_size = 7",
        "9:14",
        "from 251 to",
    ),
    (
        "name = \"api\"",
        "name = \"api\"\non_unhealthy = \"drop\"",
        "9:16",
        "`reset` or `keep`",
    ),
    (
        "path = \"/system/check\"",
        "path = \"system\"",
        "12:8",
        "must begin with `/`",
    ),
    (
        "path = \"/system/check\"",
        "path = \"/a b\"",
        "12:8",
        "can't have blanks",
    ),
    (
        "path = \"/system/check\"",
        "timeout = \"10s\"",
        "12:11",
        "less than `interval`",
    ),
    (
        "path = \"/system/check\"",
        "healthy_threshold = 0",
        "12:21",
        "from 1 to 100",
    ),
    (
        "path = \"/system/check\"",
        "success = \"200-600\"",
        "12:11",
        "100 to 599",
    ),
    (
        "path = \"/system/check\"",
        "success = \"ok\"",
        "12:11",
        "is not a number",
    ),
    (
        "path = \"/system/check\"",
        "protocol = \"https\"",
        "12:12",
        "HTTPS checks aren't supported",
    ),
    (
        "path = \"/system/check\"",
        "protocol = \"icmp\"",
        "12:12",
        "`http` or `tcp`",
    ),
    (
        "path = \"/system/check\"",
        "protocol = \"tcp\"\npath = \"/\"",
        "13:8",
        "a TCP check has no path",
    ),
    (
        "path = \"/system/check\"",
        "host = \"a b\"",
        "12:8",
        "host name or address",
    ),
    (
        "path = \"/system/check\"",
        "port = 0",
        "12:8",
        "from 1 to 65535",
    ),
    (
        "path = \"/system/check\"",
        "pathe = \"/\"",
        "12:1",
        "did you mean `path`?",
    ),
    ("path = \"/system/check\"", "path = ", "12:8", "x:12"),
];

#[test]
fn every_rule_is_reported_at_its_place() {
    check(CASES);
}

fn check(cases: &[Case]) {
    for (old, new, place, message) in cases {
        assert!(VALID.contains(old), "the case replaces nothing: {old}");
        let got = errors(&VALID.replacen(old, new, 1));
        assert!(
            got.contains(&format!("x:{place}: error: ")),
            "{new}: want {place} in\n{got}"
        );
        assert!(got.contains(message), "{new}: want {message:?} in\n{got}");
        // One mistake is one error. What is misspelt is missing too, and
        // nobody finds a group without name.
        let got = got
            .replace("error: `interface` is missing", "")
            .replace("error: there is no target group `api`", "");
        let count = got.matches(": error: ").count();
        assert!(
            count == 1 || new.is_empty(),
            "{new}: {count} errors:\n{got}"
        );
    }
}

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
    assert!(errors(&VALID.replace("targets = [\":8081\"", &list)).contains("at most 1000"));

    let heavy: Vec<String> = (0..3)
        .map(|i| format!("{{ address = \"10.0.0.{}:1\", weight = 250 }}", i + 1))
        .collect();
    let list = format!("table_size = 251\ntargets = [{}", heavy.join(", "));
    assert!(errors(&VALID.replace("targets = [\":8081\"", &list)).contains("add up to"));
}

/// The rules of a table's size count for the default size too.
#[test]
fn the_default_table_has_limits_too() {
    let group = |targets: usize, weight: u16| {
        let targets: Vec<String> = (0..targets)
            .map(|i| format!("{{ address = \":{}\", weight = {weight} }}", i + 1_000))
            .collect();
        let list = format!("targets = [{}", targets.join(", "));
        parse(&VALID.replace("targets = [\":8081\"", &list), "x")
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

#[test]
fn files_that_are_none() {
    let folder = std::env::temp_dir().join(format!("xlb-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("x.toml");
    let error = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        load(&file).map(|_| ()).unwrap_err().to_string()
    };
    assert!(error(&[b'a', 0xFF]).contains("byte 1 is not UTF-8"));
    assert!(error(&vec![b' '; 5 << 20]).contains("too large"));
    let endless = load(std::path::Path::new("/dev/zero")).unwrap_err();
    assert!(endless.to_string().contains("too large"), "{endless}");
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(
        load(&file)
            .map(|_| ())
            .unwrap_err()
            .to_string()
            .contains("could not be read")
    );
}

#[test]
fn flags_are_a_configuration() {
    let mut flags = Flags {
        interfaces: vec!["eth0".into()],
        listens: vec![":80".into(), "10.0.0.1:53/udp".into()],
        targets: vec![":8081".into(), ":8082".into()],
        health_interval: Some("1s".into()),
        ..Flags::default()
    };
    let config = from_flags(&flags).unwrap().config;
    assert_eq!(config.listeners[1].protocol, Protocol::Udp);
    assert_eq!(config.target_groups[0].targets.len(), 2);
    let check = &config.target_groups[0].health_check;
    assert!(
        check.timeout < check.interval,
        "the default timeout gives way"
    );

    flags.health_protocol = Some("tcp".into());
    flags.health_port = Some(9_000);
    let config = from_flags(&flags).unwrap().config;
    let check = &config.target_groups[0].health_check;
    assert_eq!(check.probe, Probe::Tcp);
    assert_eq!(check.port.map(u16::from), Some(9_000));
    flags.health_path = Some("/".into());
    let error = from_flags(&flags).unwrap_err().to_string();
    assert!(error.contains("--health-path /: a TCP check"), "{error}");

    flags.targets[1] = ":0".into();
    flags.health_timeout = Some("so\nlong\"".into());
    let error = from_flags(&flags).unwrap_err().to_string();
    assert!(
        error.contains("error: --target :0: `:0`: there is no port 0"),
        "{error}"
    );
    assert!(error.contains("error: --health-timeout so"), "{error}");
}

proptest! {
    #[test]
    fn nothing_panics(text in ".{0,200}") {
        let _ = errors(&text);
    }

    /// What a flag says comes through the TOML as it is, on its own line.
    #[test]
    fn any_text_fits_a_flag(text in proptest::collection::vec(any::<char>(), 1..20)) {
        let text: String = text.into_iter().chain("\n\"\"\"'\\ü".chars()).collect();
        let flags = Flags {
            interfaces: vec!["eth0".into()],
            listens: vec![":80".into()],
            targets: vec![":8081".into()],
            health_body: Some(text.clone()),
            healthy_threshold: Some(0),
            ..Flags::default()
        };
        let error = from_flags(&flags).unwrap_err().to_string();
        prop_assert!(error.starts_with("error: --healthy-threshold 0: "), "{}", error);
        let flags = Flags { healthy_threshold: None, ..flags };
        match &from_flags(&flags).unwrap().config.target_groups[0].health_check.probe {
            Probe::Http(probe) => prop_assert_eq!(probe.body.as_ref(), Some(&text)),
            Probe::Tcp => panic!("the default is HTTP"),
        }
    }

    #[test]
    fn no_mutation_panics(at in 0..VALID.len(), with in "[ -~\\n]{0,6}", remove in 0usize..8) {
        let end = (at + remove).min(VALID.len());
        let _ = errors(&format!("{}{with}{}", &VALID[..at], &VALID[end..]));
    }
}
