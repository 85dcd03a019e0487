//! The validated configuration. Only [`super::load`] and [`super::from_flags`]
//! make one, so whatever holds a [`Config`] may apply it.

use std::{fmt, net::IpAddr, num::NonZeroU16, ops::RangeInclusive, time::Duration};

/// Everything that the agent needs to know, consistent in itself. What depends
/// on the host (does the interface exist, is a target local) isn't known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Interfaces to attach to, at least one, without repetition. The first one
    /// is where managed addresses go, and whose address `:8081` is checked at.
    pub interfaces: Vec<String>,
    pub xdp_mode: XdpMode,
    pub tc_mode: TcMode,
    /// Add a listener's address to the first interface while xlb runs, if no
    /// interface has it.
    pub manage_address: bool,
    pub listeners: Vec<Listener>,
    pub target_groups: Vec<TargetGroup>,
    pub capacity: Capacity,
    pub timeouts: Timeouts,
    /// Ports that source NAT may write (host order).
    pub source_ports: RangeInclusive<u16>,
    /// Key of the flow hash and seed of the Maglev tables: the same on every
    /// node of a cluster.
    pub hash_key: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XdpMode {
    /// Native, else generic with a warning.
    #[default]
    Auto,
    Native,
    Generic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TcMode {
    /// TCX where the kernel has it (6.6), else clsact.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique among the listeners.
    pub name: String,
    /// `None`: every address of the configured interfaces, followed as they
    /// come and go.
    pub address: Option<IpAddr>,
    pub port: NonZeroU16,
    pub protocol: Protocol,
    /// Index into [`Config::target_groups`].
    pub target_group: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    /// Unique among the groups.
    pub name: String,
    pub targets: Vec<Target>,
    /// Keep the client's address in packets to remote targets; they must then
    /// route their replies through this host. Local targets always see it.
    pub preserve_client_ip: bool,
    /// Slots of the Maglev table; prime.
    pub table_size: u32,
    /// Without any healthy target send to all of them, instead of to none.
    pub fail_open: bool,
    pub on_unhealthy: OnUnhealthy,
    pub health_check: HealthCheck,
}

/// What becomes of the flows of a target that turns unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnUnhealthy {
    /// They lose their target; the client's next packet ends the connection.
    #[default]
    Reset,
    /// They go on.
    Keep,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// `None`: this host, at the address that the client used (`":8081"`).
    pub address: Option<IpAddr>,
    pub port: NonZeroU16,
    /// 1 to [`lb_common::limits::MAX_WEIGHT`].
    pub weight: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub probe: Probe,
    /// `None`: the port that gets the traffic.
    pub port: Option<NonZeroU16>,
    pub interval: Duration,
    /// Less than `interval`.
    pub timeout: Duration,
    /// Results in a row that turn an unhealthy target healthy, at least 1.
    pub healthy_threshold: u32,
    /// Results in a row that turn a healthy target unhealthy, at least 1.
    pub unhealthy_threshold: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The connection is accepted.
    Tcp,
    Http(HttpProbe),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Path and query, starts with `/`.
    pub path: String,
    /// The `Host` header; `None`: the target's address and port.
    pub host: Option<String>,
    /// Status codes that count as success.
    pub success: RangeInclusive<u16>,
    /// Text that the first 64 KiB of the body must contain.
    pub body: Option<String>,
}

/// Sizes of the maps, fixed while xlb runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub listeners: u32,
    pub targets: u32,
    pub flows: u32,
    pub half_open_flows: u32,
}

/// Idle times, whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_half_open: Duration,
    pub tcp_established: Duration,
    pub tcp_closing: Duration,
    pub udp: Duration,
}
