//! Where frames went that didn't arrive: what the devices and the kernel's
//! queues have counted.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use xlb_tests::{netns::Namespace, topology::Topology};

/// Counters of every device and CPU, by whose they are and their names.
pub struct Counters(BTreeMap<(String, String), u64>);

impl Counters {
    /// As they are now.
    ///
    /// # Errors
    /// If ethtool fails, or the kernel says it in another way.
    pub fn read(topology: &Topology) -> Result<Self> {
        let mut counters = Self(BTreeMap::new());
        let target = &topology.targets[0].namespace;
        let hosts = [
            ("client", &topology.client),
            ("balancer", &topology.balancer),
            ("target", target),
        ];
        for (name, host) in hosts {
            for device in host.devices()? {
                counters.device(name, host, &device)?;
            }
        }
        let queues = fs::read_to_string("/proc/net/softnet_stat")?;
        for (cpu, line) in queues.lines().enumerate() {
            counters
                .queue(cpu, line)
                .with_context(|| format!("a softnet_stat that isn't understood: {line}"))?;
        }
        Ok(counters)
    }

    fn device(&mut self, name: &str, host: &Namespace, device: &str) -> Result<()> {
        let statistics = host.run(&format!("ethtool -S {device}"))?;
        for (counter, value) in of_device(&statistics) {
            let owner = format!("{device} of the {name}");
            self.0.insert((owner, counter.into()), value);
        }
        Ok(())
    }

    /// A CPU's line: packets taken, dropped, and how often the time was up, all
    /// in hexadecimal.
    fn queue(&mut self, cpu: usize, line: &str) -> Option<()> {
        let mut words = line.split_whitespace().skip(1);
        for counter in ["dropped", "squeezed"] {
            let value = u64::from_str_radix(words.next()?, 16).ok()?;
            self.0.insert((format!("CPU {cpu}"), counter.into()), value);
        }
        Some(())
    }

    /// What has been counted since, as text.
    pub fn since(&self, before: &Self) -> String {
        let mut owners: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (key, value) in &self.0 {
            let grown = value - before.0.get(key).copied().unwrap_or_default().min(*value);
            if grown > 0 {
                let (owner, counter) = key;
                owners
                    .entry(owner)
                    .or_default()
                    .push(format!("{counter} {grown}"));
            }
        }
        let owners = owners.into_iter();
        let texts = owners.map(|(owner, counters)| format!("{owner}: {}", counters.join(", ")));
        texts.collect::<Vec<_>>().join("; ")
    }
}

/// Of what `ethtool -S` prints: the counters, but those of bytes.
fn of_device(statistics: &str) -> impl Iterator<Item = (&str, u64)> {
    statistics.lines().filter_map(|line| {
        let (counter, value) = line.trim().split_once(": ")?;
        let counts = !counter.ends_with("bytes") && counter != "peer_ifindex";
        counts.then_some((counter, value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Counters, of_device};

    fn counters(values: [u64; 2], line: &str) -> Counters {
        let text = format!(
            "NIC statistics:\n     peer_ifindex: 2\n     rx_queue_0_xdp_packets: {}\n     \
             rx_queue_0_xdp_bytes: 77\n     tx_queue_0_xdp_xmit_errors: {}\n",
            values[0], values[1]
        );
        let mut counters = Counters(BTreeMap::new());
        for (counter, value) in of_device(&text) {
            let key = ("eth0 of the client".to_owned(), counter.to_owned());
            counters.0.insert(key, value);
        }
        counters.queue(1, line).unwrap();
        counters
    }

    #[test]
    fn only_what_has_grown_is_told() {
        let before = counters([5, 7], "0000ffff 00000001 00000002 00000000");
        let after = counters([25, 7], "0001ffff 00000001 00000012 00000000");
        let expected = "CPU 1: squeezed 16; eth0 of the client: rx_queue_0_xdp_packets 20";
        assert_eq!(after.since(&before), expected);
    }
}
