//! A configuration file, as TOML.

use std::{fmt, fmt::Write as _, net::SocketAddr};

/// A configuration file.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub interfaces: Vec<String>,
    /// `native` or `generic`; the default if `None`, so the others.
    pub xdp_mode: Option<&'static str>,
    /// `tcx` or `clsact`.
    pub tc_mode: Option<&'static str>,
    /// More lines in front of all tables, and tables behind them.
    pub settings: String,
    pub tables: String,
    pub listeners: Vec<Listener>,
    pub target_groups: Vec<TargetGroup>,
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub name: String,
    pub address: SocketAddr,
    /// Instead of the one port of `address`.
    pub ports: Option<&'static str>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    pub target_group: String,
    /// More lines.
    pub settings: String,
}

#[derive(Clone, Debug)]
pub struct TargetGroup {
    pub name: String,
    /// Addresses and weights. Port 0 stands for the client's.
    pub targets: Vec<(SocketAddr, u16)>,
    pub preserve_client_ip: bool,
    /// The port to check, if not the one that gets the traffic. The checks are
    /// fast: every second, thresholds of 2.
    pub health_port: Option<u16>,
    /// More of the group's settings, lines of TOML.
    pub settings: String,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interfaces[..] {
            [interface] => writeln!(f, "interface = {interface:?}")?,
            interfaces => writeln!(f, "interface = {interfaces:?}")?,
        }
        for (key, value) in [("xdp_mode", self.xdp_mode), ("tc_mode", self.tc_mode)] {
            if let Some(value) = value {
                writeln!(f, "{key} = {value:?}")?;
            }
        }
        writeln!(f, "{}\n{}", self.settings, self.tables)?;
        self.listeners
            .iter()
            .try_for_each(|listener| writeln!(f, "\n{listener}"))?;
        self.target_groups
            .iter()
            .try_for_each(|group| writeln!(f, "\n{group}"))
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            address,
            ports,
            protocol,
            target_group,
            settings,
        } = self;
        let address = match ports {
            Some(ports) => with_ports(*address, ports),
            None => address.to_string(),
        };
        writeln!(
            f,
            "[[listener]]\nname = {name:?}\naddress = {address:?}\nprotocol = {protocol:?}\n\
             target_group = {target_group:?}\n{settings}"
        )
    }
}

impl fmt::Display for TargetGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut targets = String::new();
        for (address, weight) in &self.targets {
            let address = match address.port() {
                0 => with_ports(*address, "*"),
                _ => address.to_string(),
            };
            write!(
                targets,
                "\n  {{ address = {address:?}, weight = {weight} }},"
            )?;
        }
        let Self {
            name,
            preserve_client_ip,
            settings,
            ..
        } = self;
        write!(
            f,
            "[[target_group]]\nname = {name:?}\ntargets = [{targets}\n]\n{settings}\n"
        )?;
        if *preserve_client_ip {
            writeln!(f, "preserve_client_ip = true")?;
        }
        write!(
            f,
            "\n[target_group.health_check]\nbody = \"system is running\"\ninterval = \"1s\"\n\
             timeout = \"500ms\"\nhealthy_threshold = 2\nunhealthy_threshold = 2"
        )?;
        self.health_port
            .map_or(Ok(()), |port| write!(f, "\nport = {port}"))
    }
}

/// An address with these ports instead of its own.
fn with_ports(address: SocketAddr, ports: &str) -> String {
    match address {
        SocketAddr::V4(address) => format!("{}:{ports}", address.ip()),
        SocketAddr::V6(address) => format!("[{}]:{ports}", address.ip()),
    }
}
