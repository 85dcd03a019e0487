//! Flags as a configuration.

use super::*;

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
}
