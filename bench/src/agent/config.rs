//! Configurations of any size, as files have them.

use std::fmt::Write as _;

use crate::dataplane::{
    frame::V4,
    world::{DEVICE, PORT},
};

/// Groups of ports of this host, each behind a listener.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub groups: u32,
    pub targets_per_group: u32,
    /// Whether all groups have the same targets, as one can't have more ports
    /// than there are.
    pub shared: bool,
    pub table_size: u32,
    pub flows: u32,
    /// Of each group, lines of TOML.
    pub health_check: &'static str,
}

/// Below the kernel's own ports for connections.
pub const FIRST_PORT: u16 = 10_000;
/// The first listener's port.
const FIRST_LISTENER: u32 = 1_000;

impl Plan {
    pub const DEFAULT: Self = Self {
        groups: 1,
        targets_per_group: 2,
        shared: false,
        table_size: 65_537,
        flows: 1_000_000,
        health_check: "",
    };

    pub fn targets(&self) -> u32 {
        self.groups * self.targets_per_group
    }

    /// Ports that need a server, from [`FIRST_PORT`] on.
    pub fn ports(&self) -> u16 {
        let ports = match self.shared {
            true => self.targets_per_group,
            false => self.targets(),
        };
        ports as u16
    }

    pub fn text(&self) -> String {
        let (listeners, targets) = (self.groups + 1, self.targets() + 2);
        let mut text = format!(
            "interface = \"{DEVICE}\"\n\n[capacity]\nflows = {}\nlisteners = {}\ntargets = {}\n",
            self.flows,
            listeners.min(1_024),
            targets.min(16_384),
        );
        for group in 0..self.groups {
            let first = match self.shared {
                true => 0,
                false => group * self.targets_per_group,
            };
            let listener = FIRST_LISTENER + group;
            self.add_group(&mut text, &format!("g{group}"), listener, first);
        }
        text
    }

    fn add_group(&self, text: &mut String, name: &str, listener: u32, first: u32) {
        let port = |target| u32::from(FIRST_PORT) + first + target;
        let targets = (0..self.targets_per_group).map(|target| format!("\":{}\"", port(target)));
        let targets: Vec<String> = targets.collect();
        text.push_str(&group(name, listener, &targets, self));
    }
}

/// A group of its own, of two targets, behind [`PORT`].
pub fn add_pair(text: &mut String, ports: [u16; 2], health_check: &'static str) {
    let targets = ports.map(|port| format!("\":{port}\""));
    let plan = Plan {
        health_check,
        ..Plan::DEFAULT
    };
    text.push_str(&group("pair", PORT.into(), &targets, &plan));
}

fn group(name: &str, listener: u32, targets: &[String], plan: &Plan) -> String {
    let mut text = String::new();
    // Writing to a string doesn't fail.
    let _ = write!(
        text,
        "\n[[listener]]\nname = \"{name}\"\naddress = \"{}:{listener}\"\n\
         target_group = \"{name}\"\n\
         \n[[target_group]]\nname = \"{name}\"\ntargets = [{}]\ntable_size = {}\n\
         \n[target_group.health_check]\n{}\n",
        V4.host,
        targets.join(", "),
        plan.table_size,
        plan.health_check,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_writes_is_a_configuration() {
        let plan = Plan {
            groups: 1_024,
            targets_per_group: 15,
            shared: true,
            ..Plan::DEFAULT
        };
        let parsed = lb_user::config::parse(&plan.text(), "x");
        let config = parsed.unwrap_or_else(|errors| panic!("{errors}")).config;
        assert_eq!(config.targets(), 1_024 * 15);
        assert_eq!(plan.ports(), 15);
    }
}
