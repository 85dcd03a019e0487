//! The agent's status as metrics.

use std::{
    fmt::Error,
    time::{SystemTime, UNIX_EPOCH},
};

use lb_common::counters::DropReason;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use crate::{
    api::{GroupStatus, ListenerStatus, Status, TargetStatus, TrafficStatus},
    health::Health,
};

#[derive(Debug)]
pub(super) struct Snapshot(pub(super) Status);

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = Families(encoder);
        let status = &self.0;
        agent(&mut families, status)?;
        listeners(&mut families, &status.listeners)?;
        groups(&mut families, &status.target_groups)?;
        target_health(&mut families, status)?;
        target_traffic(&mut families, status)?;
        drops(&mut families, status)?;
        flow_table(&mut families, status)
    }
}

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// Writes families: a name, and its values by labels.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge<'a, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a, N>, V)>,
    ) -> Result<(), Error> {
        let unit = unit.as_ref();
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?;
        each(&mut family, values, |metric, value| {
            metric.encode_gauge(&value)
        })
    }

    fn counter<'a, const N: usize>(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
    ) -> Result<(), Error> {
        let unit = unit.as_ref();
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Counter)?;
        each(&mut family, values, |metric, value| {
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    fn info<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = Labels<'a, N>>,
    ) -> Result<(), Error> {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Info)?;
        for labels in values {
            family.encode_info(&labels)?;
        }
        Ok(())
    }
}

fn each<'a, const N: usize, V>(
    family: &mut MetricEncoder<'_>,
    values: impl IntoIterator<Item = (Labels<'a, N>, V)>,
    encode: impl Fn(&mut MetricEncoder<'_>, V) -> Result<(), Error>,
) -> Result<(), Error> {
    for (labels, value) in values {
        match N {
            0 => encode(family, value)?,
            _ => encode(&mut family.encode_family(&labels)?, value)?,
        }
    }
    Ok(())
}

fn agent(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    families.info(
        "build",
        "The running agent's version",
        [[("version", status.version.as_str())]],
    )?;
    families.gauge(
        ("agent_start_time", Some(Unit::Seconds)),
        "When the agent was started, since 1970 (UTC)",
        [([], seconds(status.started))],
    )?;
    families.gauge(
        ("problems", None),
        "What keeps parts of the configuration from working; xlb status says what",
        [([], status.problems.len() as u64)],
    )?;
    let interfaces = status.interfaces.iter().map(|interface| {
        [
            ("interface", interface.name.as_str()),
            ("xdp", interface.xdp.as_str()),
            ("tc", interface.tc.as_str()),
        ]
    });
    families.info(
        "interface",
        "Interfaces that xlb is attached to",
        interfaces,
    )
}

fn listeners(families: &mut Families<'_>, listeners: &[ListenerStatus]) -> Result<(), Error> {
    let infos = listeners.iter().map(|listener| {
        [
            ("listener", listener.name.as_str()),
            ("address", listener.address.as_str()),
            ("protocol", listener.protocol.as_str()),
            ("target_group", listener.target_group.as_str()),
        ]
    });
    families.info("listener", "Configured listeners", infos)?;
    let new_flows = listeners
        .iter()
        .map(|it| ([("listener", it.name.as_str())], it.traffic.new_flows));
    families.counter(
        ("listener_new_flows", None),
        "Flows that began at the listener",
        new_flows,
    )?;
    let ways = || {
        listeners.iter().flat_map(|it| {
            let listener = ("listener", it.name.as_str());
            ways(&it.traffic).map(|way| ([listener, ("direction", way.direction)], way))
        })
    };
    families.counter(
        ("listener_packets", None),
        "Packets of the listener's flows",
        ways().map(|(labels, way)| (labels, way.packets)),
    )?;
    families.counter(
        ("listener", Some(Unit::Bytes)),
        "IP bytes of the listener's flows",
        ways().map(|(labels, way)| (labels, way.bytes)),
    )
}

/// What went one way.
struct Way {
    direction: &'static str,
    packets: u64,
    bytes: u64,
}

fn ways(traffic: &TrafficStatus) -> [Way; 2] {
    let forward = Way {
        direction: "forward",
        packets: traffic.forward_packets,
        bytes: traffic.forward_bytes,
    };
    let reply = Way {
        direction: "reply",
        packets: traffic.reply_packets,
        bytes: traffic.reply_bytes,
    };
    [forward, reply]
}

fn groups(families: &mut Families<'_>, groups: &[GroupStatus]) -> Result<(), Error> {
    let infos = groups.iter().map(|group| {
        [
            ("target_group", group.name.as_str()),
            ("forwarding", group.forwarding.as_str()),
            (
                "encapsulation",
                group.encapsulation.as_deref().unwrap_or("none"),
            ),
        ]
    });
    families.info("target_group", "Target groups", infos)?;
    let fail_open = groups.iter().map(|it| {
        (
            [("target_group", it.name.as_str())],
            u64::from(it.fail_open),
        )
    });
    families.gauge(
        ("target_group_fail_open", None),
        "1 while too few targets are healthy, so that new flows go to all",
        fail_open,
    )
}

/// All targets, with the labels that name them.
fn targets(status: &Status) -> impl Iterator<Item = (Labels<'_, 2>, &TargetStatus)> {
    status.target_groups.iter().flat_map(|group| {
        group.targets.iter().map(|target| {
            let labels = [
                ("target_group", group.name.as_str()),
                ("target", target.address.as_str()),
            ];
            (labels, target)
        })
    })
}

/// A target's value with one more label.
fn with<'a>([group, target]: Labels<'a, 2>, key: &'static str, value: &'a str) -> Labels<'a, 3> {
    [group, target, (key, value)]
}

fn target_health(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    let health = targets(status).flat_map(|(labels, target)| {
        Health::ALL.map(|health| {
            let is = u64::from(target.health == health.as_str());
            (with(labels, "health", health.as_str()), is)
        })
    });
    families.gauge(
        ("target_health", None),
        "1 for the health that the target has, 0 for the others",
        health,
    )?;
    let reasons = targets(status).filter_map(|(labels, target)| {
        let reason = target.reason.as_deref()?;
        Some((with(labels, "reason", reason), 1u64))
    });
    families.gauge(
        ("target_health_reason", None),
        "1 for why the target is not healthy",
        reasons,
    )?;
    families.gauge(
        ("target_health_since_timestamp", Some(Unit::Seconds)),
        "When the target's health became what it is, since 1970 (UTC)",
        targets(status).map(|(labels, target)| (labels, seconds(target.since))),
    )?;
    let checks = targets(status).flat_map(|(labels, target)| {
        let checks = &target.checks;
        [
            ("success", checks.successes),
            ("failure", checks.failures),
            ("inconclusive", checks.inconclusive),
        ]
        .map(|(result, count)| (with(labels, "result", result), count))
    });
    families.counter(
        ("target_health_checks", None),
        "Health checks of the target by result",
        checks,
    )?;
    families.gauge(
        ("target_weight", None),
        "The target's weight, as configured or as an operator has set it",
        targets(status).map(|(labels, target)| (labels, u64::from(target.weight))),
    )?;
    families.gauge(
        ("target_share", Some(Unit::Other("ratio".to_owned()))),
        "The target's part of its group's new flows, from 0 to 1",
        targets(status).map(|(labels, target)| (labels, target.share)),
    )
}

fn target_traffic(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    families.gauge(
        ("target_flows", None),
        "Established flows of the target, as of the last sweep",
        targets(status).map(|(labels, target)| (labels, target.flows)),
    )?;
    families.counter(
        ("target_new_flows", None),
        "Flows that began with the target",
        targets(status).map(|(labels, target)| (labels, target.traffic.new_flows)),
    )?;
    let ways = || {
        targets(status).flat_map(|(labels, target)| {
            ways(&target.traffic).map(|way| (with(labels, "direction", way.direction), way))
        })
    };
    families.counter(
        ("target_packets", None),
        "Packets of the target's flows",
        ways().map(|(labels, way)| (labels, way.packets)),
    )?;
    families.counter(
        ("target", Some(Unit::Bytes)),
        "IP bytes of the target's flows",
        ways().map(|(labels, way)| (labels, way.bytes)),
    )
}

fn drops(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    let packets = DropReason::ALL.iter().filter_map(|reason| {
        let count = *status.drops.get(reason.name())?;
        let verdict = if reason.is_drop() {
            "dropped"
        } else {
            "passed"
        };
        Some(([("reason", reason.name()), ("verdict", verdict)], count))
    });
    families.counter(
        ("drop_reason_packets", None),
        "Packets that were not balanced, by drop reason",
        packets,
    )
}

fn flow_table(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    let flows = &status.flows;
    let established = ("table", "established");
    let half_open = ("table", "half_open");
    let counts = [("ipv4", flows.ipv4), ("ipv6", flows.ipv6)];
    let counts = counts.iter().flat_map(|(family, count)| {
        [
            ([established, ("family", *family)], count.established),
            ([half_open, ("family", *family)], count.half_open),
        ]
    });
    families.gauge(
        ("flow_table_flows", None),
        "Flows in the flow table, as of the last sweep",
        counts,
    )?;
    families.gauge(
        ("flow_table_capacity_flows", None),
        "Flows of each address family that fit",
        [
            ([established], flows.capacity),
            ([half_open], flows.half_open_capacity),
        ],
    )?;
    families.counter(
        ("flow_table_swept_entries", None),
        "Entries of ended flows that sweeps have removed; a flow has two, of dsr one",
        [([], flows.swept)],
    )
}

fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}
