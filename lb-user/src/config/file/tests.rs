use super::*;

const RUNNING: &str = "interface = \"eth0\"\n\
                       [capacity]\n\
                       flows = 1000\n\
                       [[listener]]\n\
                       address = \":80\"\n\
                       target_group = \"api\"\n\
                       [[target_group]]\n\
                       name = \"api\"\n\
                       targets = [\":8081\"]\n";

/// What a reload says to the running configuration with a replacement.
fn reload(old: &str, new: &str, overrides: Overrides) -> Result<Parsed, Diagnostics> {
    let mut running = parse(RUNNING, "x").unwrap().config;
    overrides.apply(&mut running);
    assert!(RUNNING.contains(old), "{old}");
    let file = File {
        path: "x".into(),
        overrides,
    };
    file.parse(&RUNNING.replacen(old, new, 1), &running)
}

#[test]
fn what_can_change_is_reloaded() {
    for (old, new) in [
        ("", "hash_key = \"0011223344556677\"\n"),
        (":8081", ":8082"),
        (":80\"", ":81\""),
        ("[capacity]\n", "timeouts.udp = \"1s\"\n[capacity]\n"),
    ] {
        let reloaded = reload(old, new, Overrides::default());
        assert!(reloaded.is_ok(), "{new}: {reloaded:?}");
    }
}

#[test]
fn what_cannot_change_is_refused_at_its_place() {
    for (old, new, place, setting) in [
        ("\"eth0\"", "[\"eth0\", \"eth1\"]", "1:13", "interface"),
        ("[cap", "xdp_mode = \"native\"\n[cap", "2:12", "xdp_mode"),
        ("[cap", "tc_mode = \"clsact\"\n[cap", "2:11", "tc_mode"),
        ("[cap", "admin = \"[::1]:98\"\n[cap", "2:9", "admin"),
        ("flows = 1000", "flows = 1001", "3:9", "capacity.flows"),
        ("flows = 1000\n", "", "2:1", "capacity.flows"),
        ("flows", "targets = 9\nflows", "3:11", "capacity.targets"),
        (
            "flows",
            "listeners = 9\nflows",
            "3:13",
            "capacity.listeners",
        ),
        (
            "flows",
            "half_open_flows = 9\nflows",
            "3:19",
            "capacity.half_open_flows",
        ),
    ] {
        let error = reload(old, new, Overrides::default()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("x:{place}: error: `{setting}` can't change")),
            "{new}: {text}"
        );
        assert_eq!(error.lines().len(), 1, "{text}");
    }
}

#[test]
fn what_is_invalid_is_told_in_a_line() {
    let error = reload("targets", "targts", Overrides::default()).unwrap_err();
    let lines = error.lines();
    assert!(
        lines[1] == "x:9:1: error: unknown key `targts` (did you mean `targets`?)",
        "{lines:?}"
    );
}

#[test]
fn the_command_line_wins_at_a_reload_too() {
    let overrides = Overrides {
        xdp_mode: Some(XdpMode::Generic),
        admin: Some(Admin::new("127.0.0.1:9801", false).unwrap()),
        ..Overrides::default()
    };
    let other = "xdp_mode = \"native\"\nadmin = \"127.0.0.1:9802\"\n[cap";
    let reloaded = reload("[cap", other, overrides).unwrap();
    assert_eq!(reloaded.config.xdp_mode, XdpMode::Generic);
    assert_eq!(reloaded.config.admin, overrides.admin);
}

/// Flows that were begun in one mode can't go on in the other.
#[test]
fn a_group_keeps_its_forwarding() {
    let remote =
        |mode: &str| RUNNING.replacen("\":8081\"]\n", &format!("\"10.0.0.2:80\"]\n{mode}"), 1);
    let nat = parse(&remote(""), "x").unwrap().config;
    let file = File {
        path: "x".into(),
        overrides: Overrides::default(),
    };
    let dsr = remote("forwarding = \"dsr\"\n");
    let error = file.parse(&dsr, &nat).unwrap_err().to_string();
    let said = "x:10:14: error: `forwarding` of target group `api` can't change";
    assert!(error.contains(said), "{error}");

    let running = parse(&dsr, "x").unwrap().config;
    let error = file.parse(&remote(""), &running).unwrap_err().to_string();
    assert!(error.contains("x:7:1: error: `forwarding`"), "{error}");
    // Of one mode, everything else may change.
    let other = remote("forwarding = \"dsr\"\nencapsulation = \"gue\"\n");
    assert!(file.parse(&other, &running).is_ok());
}
