//! What is written, and that it is what OpenMetrics asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, UNIX_EPOCH},
};

use lb_common::counters::{DropReason, Traffic};

use super::*;
use crate::{
    api::{
        ChecksStatus, FamilyFlowsStatus, FlowsStatus, GroupStatus, InterfaceStatus, ListenerStatus,
        TargetStatus,
    },
    health::Meter,
};

const TRAFFIC: Traffic = Traffic {
    forward_packets: 1,
    forward_bytes: 2,
    reply_packets: 3,
    reply_bytes: 4,
    new_flows: 5,
};

fn target(address: &str, health: &str, reason: Option<&str>) -> TargetStatus {
    TargetStatus {
        address: address.to_owned(),
        weight: 7,
        configured_weight: None,
        drained: false,
        share: 0.25,
        health: health.to_owned(),
        reason: reason.map(str::to_owned),
        description: None,
        since: UNIX_EPOCH + Duration::from_millis(1_500),
        remaining: None,
        checks: ChecksStatus {
            successes: 8,
            failures: 9,
            ..ChecksStatus::default()
        },
        flows: 6,
        traffic: TRAFFIC.into(),
    }
}

fn status(targets: Vec<TargetStatus>) -> Status {
    Status {
        version: "1.2.3".to_owned(),
        started: UNIX_EPOCH,
        interfaces: vec![InterfaceStatus {
            name: "eth0".to_owned(),
            xdp: "native".to_owned(),
            tc: "tcx".to_owned(),
        }],
        listeners: vec![ListenerStatus {
            name: "web \"a\"\\\n".to_owned(),
            address: ":80".to_owned(),
            protocol: "tcp".to_owned(),
            target_group: "api".to_owned(),
            traffic: TRAFFIC.into(),
        }],
        target_groups: vec![GroupStatus {
            name: "api".to_owned(),
            forwarding: "nat".to_owned(),
            encapsulation: None,
            fail_open: true,
            targets,
        }],
        flows: FlowsStatus {
            capacity: 100,
            half_open_capacity: 50,
            ipv4: FamilyFlowsStatus {
                established: 11,
                half_open: 12,
            },
            ..FlowsStatus::default()
        },
        drops: DropReason::ALL
            .iter()
            .map(|reason| (reason.name().to_owned(), 13))
            .collect(),
        passed: Vec::new(),
        problems: vec!["no route".to_owned()],
    }
}

fn text(targets: Vec<TargetStatus>) -> String {
    let internals = Internals::new(Meter::default());
    internals.checked("api", Duration::from_millis(3));
    internals.swept(Duration::from_millis(3));
    internals.applied(Duration::from_millis(3), false);
    internals.reloaded(Reloaded::Invalid);
    internals.handled(Event::CheckResult, 4);
    encode(status(targets), &internals).unwrap()
}

#[test]
fn values_are_the_statuss() {
    let text = text(vec![
        target(":8081", "healthy", None),
        target(":8082", "unhealthy", Some("connect_timeout")),
    ]);
    let labels = "target_group=\"api\",target=\":8082\"";
    for line in [
        "xlb_build_info{version=\"1.2.3\"} 1",
        "xlb_interface_info{interface=\"eth0\",xdp=\"native\",tc=\"tcx\"} 1",
        "xlb_problems 1",
        "xlb_listener_new_flows_total{listener=\"web \\\"a\\\"\\\\\\n\"} 5",
        "xlb_listener_bytes_total{listener=\"web \\\"a\\\"\\\\\\n\",direction=\"reply\"} 4",
        "xlb_target_group_fail_open{target_group=\"api\"} 1",
        &format!("xlb_target_health{{{labels},health=\"unhealthy\"}} 1"),
        &format!("xlb_target_health{{{labels},health=\"healthy\"}} 0"),
        &format!("xlb_target_health_reason{{{labels},reason=\"connect_timeout\"}} 1"),
        &format!("xlb_target_health_since_timestamp_seconds{{{labels}}} 1.5"),
        &format!("xlb_target_health_checks_total{{{labels},result=\"failure\"}} 9"),
        &format!("xlb_target_packets_total{{{labels},direction=\"forward\"}} 1"),
        &format!("xlb_target_share_ratio{{{labels}}} 0.25"),
        &format!("xlb_target_flows{{{labels}}} 6"),
        "xlb_drop_reason_packets_total{reason=\"no_target\",verdict=\"dropped\"} 13",
        "xlb_drop_reason_packets_total{reason=\"not_ours\",verdict=\"passed\"} 13",
        "xlb_flow_table_flows{table=\"half_open\",family=\"ipv4\"} 12",
        "xlb_flow_table_capacity_flows{table=\"established\"} 100",
        "xlb_health_check_latency_seconds_bucket{le=\"0.005\",target_group=\"api\"} 1",
        "xlb_agent_events_total{event=\"check_result\"} 4",
        "xlb_agent_reloads_total{result=\"applied\"} 0",
        "xlb_agent_last_reload_successful 0",
        "xlb_agent_maps_behind 1",
        "xlb_agent_sweep_duration_seconds_count 1",
    ] {
        assert!(
            text.lines().any(|it| it == line),
            "no line {line} in\n{text}"
        );
    }
    assert!(!text.contains("{}"), "{text}");
}

/// A family is together and has one type and help; a series is there once.
#[test]
fn it_is_well_formed() {
    let targets = vec![
        target(":8081", "healthy", None),
        target(":8082", "draining", None),
    ];
    let text = text(targets);
    assert!(text.ends_with("# EOF\n"));
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut series = BTreeSet::new();
    let mut family = "";
    for line in text.lines().filter(|line| *line != "# EOF") {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["#", "HELP", name, ..] => family = name,
            ["#", "UNIT", name, unit] => {
                assert!(
                    name == family && name.ends_with(&format!("_{unit}")),
                    "{line}"
                );
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(name, family);
                assert!(types.insert(name, kind).is_none(), "{line}: twice");
            }
            _ => {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with(family), "{line} belongs to {family}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(series.insert(name), "{line}: twice");
            }
        }
    }
    assert!(types.len() > 30, "{types:?}");
}

/// What one target more costs a scrape.
#[test]
fn a_target_has_a_bounded_number_of_series() {
    let count = |targets| text(targets).lines().count();
    let one = vec![target(":8081", "healthy", None)];
    let two = [one.clone(), vec![target(":8082", "healthy", None)]].concat();
    assert_eq!(count(two) - count(one), 17);
}
