//! Hundreds of changes of the configuration, none of which names a connection
//! that runs.

use std::time::Duration;

use anyhow::{Result, ensure};
use xlb_tests::{
    steady::{self, Plan},
    wait,
    xlb::{Config, Listener, TargetGroup},
};

use super::scenario::{Mode, Setup};

const CHANGES: u32 = 200;
const SEED: u64 = 0x5EED_0005;
const PLAN: Plan = Plan {
    kept: 200,
    pause: Duration::from_millis(250),
    rate: 300,
};

/// Xorshift: a run follows from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn is(&mut self) -> bool {
        self.below(2) == 1
    }
}

/// What of the configuration changes; the listener of the load, its group and
/// two of its targets stay.
#[derive(Clone, Default)]
struct Choice {
    gone: [bool; 2],
    weights: [u16; 4],
    listeners: [bool; 6],
    other_group: bool,
    denied: u8,
    settings: [Option<u64>; 4],
}

impl Choice {
    fn change(&mut self, random: &mut Random) {
        let pick = random.below(6) as usize;
        match random.below(6) {
            0 => self.gone[pick % 2] ^= true,
            1 => self.weights[pick % 4] = 1 + random.below(256) as u16,
            2 => self.listeners[pick] ^= true,
            3 => self.other_group ^= true,
            4 => self.denied = random.below(255) as u8,
            _ => self.settings[pick % 4] = random.is().then(|| 1 + random.below(9)),
        }
    }

    fn apply(&self, base: &Config) -> Config {
        let mut config = base.clone();
        let group = &mut config.target_groups[0];
        for (target, weight) in group.targets.iter_mut().zip(self.weights) {
            target.1 = weight;
        }
        for (n, _) in self
            .gone
            .iter()
            .enumerate()
            .filter(|(_, gone)| **gone)
            .rev()
        {
            group.targets.remove(2 + n);
        }
        let [delay, segment, slow, idle] = self.settings;
        // Never so short that it names a connection.
        group.settings = format!("deregistration_delay = \"{}s\"\n", 300 + delay.unwrap_or(0));
        if let Some(n) = segment {
            group.settings += &format!("mss_clamp = {}\n", 1_000 + n);
        }
        if let Some(n) = slow {
            group.settings += &format!("slow_start = \"{n}s\"\n");
        }
        if let Some(n) = idle {
            config.settings = format!("timeouts.tcp_established = \"{}s\"\n", 60 + n);
        }
        if self.other_group {
            let other = TargetGroup {
                name: "other".into(),
                ..base.target_groups[0].clone()
            };
            config.target_groups.insert(0, other);
        }
        config.tables = format!(
            "[[security_group]]\nname = \"some\"\ndeny = [\"192.0.2.{}/32\"]\n",
            self.denied
        );
        config.listeners[0].settings = "security_group = \"some\"\n".into();
        for n in (0..6).filter(|&n| self.listeners[usize::from(n)]) {
            let mut address = base.listeners[0].address;
            address.set_port(8_000 + n);
            let group = if self.other_group && n % 2 == 1 {
                "other"
            } else {
                "web"
            };
            let more = Listener {
                name: format!("more{n}"),
                address,
                target_group: group.into(),
                ..base.listeners[0].clone()
            };
            config.listeners.insert(0, more);
        }
        config
    }
}

#[test]
fn break_no_connection_that_they_dont_name() -> Result<()> {
    let setup = Setup::new(Mode::OneArm, 4);
    let topology = setup.topology()?;
    let base = setup.config(&topology);
    let mut choice = Choice {
        weights: [1; 4],
        ..Choice::default()
    };
    let scenario = setup.start_with(topology, &choice.apply(&base))?;
    let mut random = Random(SEED);
    let client = &scenario.topology.client;
    let (_, report) = steady::during(client, scenario.listener, PLAN, || {
        for _ in 0..CHANGES {
            choice.change(&mut random);
            scenario.xlb.reload(&choice.apply(&base))?;
            wait::pause(Duration::from_millis(50))?;
        }
        Ok(())
    })?;
    eprintln!(
        "{CHANGES} changes, {} requests, {} new connections ({:.0} a second)",
        report.requests, report.new, report.rate
    );
    report.check()?;
    ensure!(report.rate > 100.0 && report.requests > 2_000, "{report:?}");
    let resets = scenario.drops("flow_reset")?;
    ensure!(resets == 0, "{resets} packets were answered with a RST");
    Ok(())
}
