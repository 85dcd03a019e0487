//! What of a valid configuration doesn't work on this host.

use std::{net::IpAddr, ops::RangeInclusive};

use crate::address::Family;

/// Each says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("interface {name} doesn't exist{}", near(.similar))]
    NoInterface { name: String, similar: Vec<String> },
    #[error("interface {name} is down: `ip link set {name} up`")]
    InterfaceDown { name: String },
    #[error(
        "interface {name} carries no Ethernet frames, which the data path needs: use the \
         interface that its packets leave by"
    )]
    NotEthernet { name: String },
    #[error(
        "interface {name} has no {}address{}, so a listener without an address hears nothing there",
        .family.map_or_else(String::new, |family| format!("{family} ")),
        if *.family == Some(Family::V6) { " beyond link-local ones" } else { "" }
    )]
    NoAddress {
        name: String,
        /// That of the listener's targets, if they have one.
        family: Option<Family>,
    },
    #[error("target {address} of group {group} can't be reached: this host has no route to it")]
    NoRoute { group: String, address: IpAddr },
    #[error(
        "target {address} of group {group} is reached through {interface}, where xlb isn't \
         attached, so its replies would be lost: add {interface:?} to `interface`, or set \
         `preserve_client_ip = true` if this host is its gateway"
    )]
    NotAttached {
        group: String,
        address: IpAddr,
        interface: String,
    },
    #[error(
        "target {address} of group {group} is this host itself, and `dsr` leads to other hosts: \
         use `forwarding = \"nat\"`"
    )]
    DsrLocal { group: String, address: IpAddr },
    #[error(
        "target {address} of group {group} is behind a router, which would send packets to the \
         listener's address elsewhere: set an `encapsulation`"
    )]
    DsrBehindRouter { group: String, address: IpAddr },
    #[error(
        "{family} forwarding is off on {interface}, and targets on other hosts need it: \
         `sysctl -w {}=1`{}",
        match .family {
            Family::V4 => "net.ipv4.ip_forward",
            Family::V6 => "net.ipv6.conf.all.forwarding",
        },
        match .family {
            Family::V4 => "",
            // Linux: Documentation/networking/ip-sysctl.rst, accept_ra.
            Family::V6 => ", and `accept_ra=2` where addresses come from router advertisements",
        }
    )]
    ForwardingOff { interface: String, family: Family },
    #[error(
        "source NAT may use ports {} to {}, and this host's own connections, health checks among \
         them, ports {} to {} (net.ipv4.ip_local_port_range), so a reply that comes to port \
         {shared}, say, may reach the wrong one of both: set `source_nat.ports`, or that range, so \
         that they have no port in common",
        .ports.start(), .ports.end(), .local.start(), .local.end(),
    )]
    LocalPorts {
        ports: RangeInclusive<u16>,
        local: RangeInclusive<u16>,
        /// The first that is in both, and not reserved.
        shared: u16,
    },
    #[error(
        "the listeners have more than {limit} {family} addresses together: name the addresses to use"
    )]
    TooManyAddresses { family: Family, limit: u32 },
    #[error(
        "the listeners' port ranges take more than {limit} {family} entries together: name the \
         addresses to use, or ranges that begin and end at multiples of a power of two"
    )]
    TooManyRanges { family: Family, limit: u32 },
}

fn near(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!("; this host has {}", names.join(", "))
}
