//! The validated configuration. Only [`super::load`] and [`super::from_flags`]
//! make one, so whatever holds a [`Config`] may apply it.

use std::{fmt, net::IpAddr, num::NonZeroU16, ops::RangeInclusive, sync::Arc, time::Duration};

use lb_common::limits::{DEFAULT_FLOWS, DEFAULT_HALF_OPEN_FLOWS};
pub use lb_common::{security_group::Rule, target::Encapsulation};

use super::{Admin, TlsProbe};
use crate::address::{Family, Prefix};

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
    /// Where metrics and the web page are, if anywhere.
    pub admin: Option<Admin>,
    pub listeners: Vec<Listener>,
    pub target_groups: Vec<TargetGroup>,
    pub security_groups: Vec<SecurityGroup>,
    pub capacity: Capacity,
    pub timeouts: Timeouts,
    /// Ports that source NAT may write (host order).
    pub source_ports: RangeInclusive<u16>,
    /// Key of the flow hash and seed of the Maglev tables: the same on every
    /// node of a cluster.
    pub hash_key: u64,
}

impl Config {
    /// Targets of all groups together.
    #[must_use]
    pub fn targets(&self) -> usize {
        self.target_groups
            .iter()
            .map(|group| group.targets.len())
            .sum()
    }
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
    pub ports: Ports,
    pub protocol: Protocol,
    /// Index into [`Config::target_groups`].
    pub target_group: usize,
    /// Index into [`Config::security_groups`]; `None`: whoever comes.
    pub security_group: Option<usize>,
    pub limits: Option<Limits>,
}

/// New flows that a listener admits; at least one of the rates is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A second.
    pub new_flows: Option<u32>,
    /// A second, from sources that have the prefix in common.
    pub new_flows_per_source: Option<u32>,
    /// Bits of a source that count, at least 1.
    pub source_prefix_v4: u8,
    pub source_prefix_v6: u8,
}

/// Who may begin flows at a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// Unique among the security groups.
    pub name: String,
    pub rules: Rules,
}

/// The longest prefix that a source is in decides. Sorted, without repetition;
/// the prefixes of all IPv4 and of all IPv6 addresses are among them. Shared,
/// because there may be 100,000.
pub type Rules = Arc<[(Prefix, Rule)]>;

/// The ports of a listener (host order).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ports {
    One(NonZeroU16),
    /// Both ends belong to it.
    Range {
        first: u16,
        last: u16,
    },
}

impl Ports {
    /// `*`. Port 0, which nobody can name, belongs to it.
    pub const ALL: Self = Self::Range {
        first: 0,
        last: u16::MAX,
    };

    #[must_use]
    pub fn range(self) -> RangeInclusive<u16> {
        match self {
            Self::One(port) => port.get()..=port.get(),
            Self::Range { first, last } => first..=last,
        }
    }

    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        self.range().contains(&port)
    }

    /// Whether both have a port in common.
    #[must_use]
    pub fn overlap(self, other: Self) -> bool {
        let (one, other) = (self.range(), other.range());
        one.start() <= other.end() && other.start() <= one.end()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(port) => port.fmt(f),
            &Self::ALL => f.write_str("*"),
            Self::Range { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    /// Unique among the groups.
    pub name: String,
    pub targets: Vec<Target>,
    pub forwarding: Forwarding,
    pub hash: HashInput,
    /// Established flows that one target may have; `None`: any number.
    pub max_flows_per_target: Option<u32>,
    /// Largest segment size that SYNs may offer (bytes); `None` leaves it.
    pub mss_clamp: Option<u16>,
    /// Slots of the Maglev table; prime.
    pub table_size: u32,
    pub fail_open: FailOpen,
    pub on_unhealthy: OnUnhealthy,
    /// How long the weight of a target rises that has turned healthy; `None`: it
    /// is there at once.
    pub slow_start: Option<Duration>,
    /// How long flows go on to a target that was removed.
    pub deregistration_delay: Duration,
    pub health_check: HealthCheck,
}

/// How packets reach a group's targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Addresses and ports are rewritten.
    Nat {
        /// Keep the client's address in packets to remote targets; they must
        /// then route their replies through this host. Local targets always
        /// see it.
        preserve_client_ip: bool,
    },
    /// Packets go on as they came, and replies past this host (direct server
    /// return). Targets are other hosts.
    Dsr(Tunnel),
}

impl Forwarding {
    /// As the configuration has it.
    #[must_use]
    pub fn mode(self) -> &'static str {
        match self {
            Self::Nat { .. } => "nat",
            Self::Dsr(_) => "dsr",
        }
    }

    /// The encapsulation of `dsr`, as the configuration has it.
    #[must_use]
    pub fn encapsulation(self) -> Option<&'static str> {
        match self {
            Self::Nat { .. } => None,
            Self::Dsr(tunnel) => Some(match tunnel.encapsulation {
                Encapsulation::None => "none",
                Encapsulation::Ipip => "ipip",
                Encapsulation::Gue => "gue",
                Encapsulation::Geneve => "geneve",
            }),
        }
    }
}

/// What `dsr` puts around packets. What an encapsulation doesn't have is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    pub encapsulation: Encapsulation,
    /// UDP destination port (host order).
    pub port: u16,
    /// Outer source addresses, one a flow; `None`: the one that this host would
    /// send from.
    pub source: Option<Prefix>,
    /// 24 bits.
    pub virtual_network: u32,
}

/// What of a packet picks its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashInput {
    /// Addresses, ports and protocol.
    #[default]
    Flow,
    SourceIp,
    DestinationPort,
}

impl TargetGroup {
    /// The family that packets must have to reach the targets: that of the
    /// targets' addresses, which is one. `None` if both will do: all targets
    /// are ports of this host at whatever address, or packets are encapsulated.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        if let Forwarding::Dsr(tunnel) = self.forwarding
            && tunnel.encapsulation != Encapsulation::None
        {
            return None;
        }
        let mut addresses = self.targets.iter().filter_map(|target| target.address);
        addresses.next().map(Family::of)
    }
}

/// When a group sends to all of its targets, healthy or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailOpen {
    Never,
    /// While it has fewer healthy targets than this, at least 1.
    BelowCount(u32),
    /// While fewer of its targets than this are healthy, 1 to 100 %.
    BelowPercent(u32),
}

impl FailOpen {
    /// Whether a group with so many targets fails open.
    #[must_use]
    pub fn is_open(self, healthy: usize, targets: usize) -> bool {
        match self {
            _ if targets == 0 => false,
            Self::Never => false,
            Self::BelowCount(count) => healthy < count as usize,
            Self::BelowPercent(percent) => healthy * 100 < targets * percent as usize,
        }
    }
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
    /// `None`: the port that the client used (`"10.0.0.7:*"`). The group's
    /// health check then has a port of its own.
    pub port: Option<NonZeroU16>,
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
    /// `None`: plain HTTP.
    pub tls: Option<TlsProbe>,
}

/// Sizes of the maps, fixed while xlb runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub listeners: u32,
    pub targets: u32,
    pub flows: u32,
    pub half_open_flows: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            listeners: 128,
            targets: 1_024,
            flows: DEFAULT_FLOWS,
            half_open_flows: DEFAULT_HALF_OPEN_FLOWS,
        }
    }
}

/// Idle times, whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub tcp_half_open: Duration,
    pub tcp_established: Duration,
    pub tcp_closing: Duration,
    pub udp: Duration,
}
