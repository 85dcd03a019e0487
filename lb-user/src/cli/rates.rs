//! From counters to rates: what two statuses say together. Pure.

use std::time::{Duration, Instant};

use crate::api::{GroupStatus, ListenerStatus, Status, TargetStatus, TrafficStatus};

/// A status and when it came.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) status: Status,
    pub(super) at: Instant,
}

/// A second, on average since the sample before. Bytes are IP bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) new_flows: f64,
    pub(super) packets_in: f64,
    pub(super) packets_out: f64,
    pub(super) bytes_in: f64,
    pub(super) bytes_out: f64,
}

impl Rates {
    pub(super) fn packets(self) -> f64 {
        self.packets_in + self.packets_out
    }

    pub(super) fn bytes(self) -> f64 {
        self.bytes_in + self.bytes_out
    }
}

impl std::iter::Sum for Rates {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, it| Self {
            new_flows: sum.new_flows + it.new_flows,
            packets_in: sum.packets_in + it.packets_in,
            packets_out: sum.packets_out + it.packets_out,
            bytes_in: sum.bytes_in + it.bytes_in,
            bytes_out: sum.bytes_out + it.bytes_out,
        })
    }
}

/// The sample before, and how long ago it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since<'a> {
    status: &'a Status,
    seconds: f64,
}

impl<'a> Since<'a> {
    /// `None` if no time has passed.
    pub(super) fn new(before: &'a Sample, now: &Sample) -> Option<Self> {
        let passed = now.at.saturating_duration_since(before.at);
        Self::with(&before.status, passed)
    }

    pub(super) fn with(status: &'a Status, passed: Duration) -> Option<Self> {
        let seconds = passed.as_secs_f64();
        (seconds > 0.0).then_some(Self { status, seconds })
    }

    /// What was new meanwhile had no traffic before.
    pub(super) fn listener(&self, now: &ListenerStatus) -> Rates {
        let mut listeners = self.status.listeners.iter();
        let before = listeners.find(|it| it.name == now.name);
        self.rates(&now.traffic, before.map(|it| &it.traffic))
    }

    pub(super) fn target(&self, group: &GroupStatus, now: &TargetStatus) -> Rates {
        let mut groups = self.status.target_groups.iter();
        let group = groups.find(|it| it.name == group.name);
        let mut targets = group.iter().flat_map(|group| &group.targets);
        let before = targets.find(|it| it.address == now.address);
        self.rates(&now.traffic, before.map(|it| &it.traffic))
    }

    pub(super) fn drops(&self, reason: &str, now: u64) -> f64 {
        self.rate(now, self.status.drops.get(reason).copied().unwrap_or(0))
    }

    fn rates(&self, now: &TrafficStatus, before: Option<&TrafficStatus>) -> Rates {
        let before = before.copied().unwrap_or_default();
        Rates {
            new_flows: self.rate(now.new_flows, before.new_flows),
            packets_in: self.rate(now.forward_packets, before.forward_packets),
            packets_out: self.rate(now.reply_packets, before.reply_packets),
            bytes_in: self.rate(now.forward_bytes, before.forward_bytes),
            bytes_out: self.rate(now.reply_bytes, before.reply_bytes),
        }
    }

    /// A counter that is less than before has begun anew.
    fn rate(&self, now: u64, before: u64) -> f64 {
        now.saturating_sub(before) as f64 / self.seconds
    }
}

/// `0`, `0.4`, `999`, `12.3k`, `4.5M`.
pub(super) fn number(value: f64) -> String {
    scaled(value, 1_000.0, &["", "k", "M", "G", "T"])
}

/// `0 B`, `61.2 KiB`.
pub(super) fn bytes(value: f64) -> String {
    scaled(value, 1_024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (value, 0);
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    // A rate below one is something, too.
    let decimals = usize::from(unit > 0 || (value > 0.0 && value < 1.0));
    format!("{value:.decimals$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_unit_that_suits_them() {
        let numbers = [0.0, 0.25, 1.0, 999.0, 12_345.0, 4.5e6];
        assert_eq!(
            numbers.map(number),
            ["0", "0.2", "1", "999", "12.3k", "4.5M"]
        );
        let sizes = [0.0, 1_023.0, 1_024.0, 62_700.0, 1.5 * 1024.0 * 1024.0];
        assert_eq!(
            sizes.map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "61.2 KiB", "1.5 MiB"]
        );
    }

    #[test]
    fn rates_are_by_the_time_that_has_passed() {
        let traffic = |packets, flows| TrafficStatus {
            forward_packets: packets,
            forward_bytes: packets * 100,
            new_flows: flows,
            ..TrafficStatus::default()
        };
        let listener = |name: &str, traffic| ListenerStatus {
            name: name.into(),
            address: ":80".into(),
            protocol: "tcp".into(),
            target_group: "a".into(),
            traffic,
        };
        let status: Status = serde_json::from_str(
            r#"{"version":"1","started":0,"interfaces":[],"listeners":[],"target_groups":[],
                "flows":{"established":0,"half_open":0,"capacity":1},"drops":{"denied":10},
                "problems":[]}"#,
        )
        .unwrap();
        let status = Status {
            listeners: vec![listener("web", traffic(1_000, 10))],
            ..status
        };
        let since = Since::with(&status, Duration::from_secs(4)).unwrap();
        let rates = since.listener(&listener("web", traffic(1_400, 12)));
        assert_eq!(rates.packets_in, 100.0);
        assert_eq!((rates.bytes_in, rates.new_flows), (10_000.0, 0.5));
        let new = since.listener(&listener("other", traffic(40, 4)));
        assert_eq!((new.packets_in, new.new_flows), (10.0, 1.0));
        let anew = since.listener(&listener("web", traffic(400, 12)));
        assert_eq!(anew.packets_in, 0.0, "its counters began anew");
        assert_eq!(since.drops("denied", 18), 2.0);
        assert_eq!(since.drops("no_target", 2), 0.5);
        assert!(Since::with(&status, Duration::ZERO).is_none());
    }
}
