//! The ports that this host picks for its own connections.

use std::{fs, ops::RangeInclusive};

/// Of both address families (Linux: Documentation/networking/ip-sysctl.rst).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPorts {
    /// `net.ipv4.ip_local_port_range`.
    pub range: RangeInclusive<u16>,
    /// `net.ipv4.ip_local_reserved_ports`: none of these is picked.
    pub reserved: Vec<RangeInclusive<u16>>,
}

/// The kernel's own default.
impl Default for LocalPorts {
    fn default() -> Self {
        Self {
            range: 32_768..=60_999,
            reserved: Vec::new(),
        }
    }
}

impl LocalPorts {
    /// What is set now.
    pub(super) fn read() -> Self {
        let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let range = read("ip_local_port_range").ok();
        let reserved = read("ip_local_reserved_ports").unwrap_or_default();
        Self {
            range: range
                .and_then(|text| range_of(text.split_whitespace()))
                .unwrap_or(Self::default().range),
            reserved: reserved
                .trim()
                .split(',')
                .filter_map(|item| range_of(item.split('-')))
                .collect(),
        }
    }

    /// The first of `ports` that this host may pick too.
    #[must_use]
    pub fn first_in(&self, ports: &RangeInclusive<u16>) -> Option<u16> {
        let is_reserved = |port| self.reserved.iter().any(|range| range.contains(&port));
        let start = *self.range.start().max(ports.start());
        let end = *self.range.end().min(ports.end());
        (start..=end).find(|&port| !is_reserved(port))
    }
}

/// One port, or the first and the last.
fn range_of<'a>(mut ends: impl Iterator<Item = &'a str>) -> Option<RangeInclusive<u16>> {
    let first = ends.next()?.parse().ok()?;
    let last = ends.next().map_or(Some(first), |last| last.parse().ok())?;
    Some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_shared_and_not_reserved() {
        let reserved = [40_000..=40_009, 50_000..=60_000];
        let cases: [(_, &[_], _); 6] = [
            (1_024..=32_767, &[], None),
            (1_024..=32_768, &[], Some(32_768)),
            (40_000..=50_000, &[], Some(40_000)),
            (61_000..=65_535, &[], None),
            (40_000..=40_010, &reserved, Some(40_010)),
            (50_001..=59_999, &reserved, None),
        ];
        for (ports, reserved, shared) in cases {
            let local = LocalPorts {
                reserved: reserved.to_vec(),
                ..LocalPorts::default()
            };
            assert_eq!(local.first_in(&ports), shared, "{ports:?} {reserved:?}");
        }
    }

    #[test]
    fn ranges_are_written_as_the_kernel_does() {
        let cases = [
            (
                range_of("32768\t60999\n".split_whitespace()),
                Some(32_768..=60_999),
            ),
            (range_of("8080".split('-')), Some(8_080..=8_080)),
            (range_of("8080-8090".split('-')), Some(8_080..=8_090)),
            (range_of("".split('-')), None),
        ];
        for (range, expected) in cases {
            assert_eq!(range, expected);
        }
    }
}
