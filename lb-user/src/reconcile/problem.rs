//! What of a valid configuration doesn't work on this host.

use std::net::Ipv4Addr;

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
    #[error("interface {name} has no IPv4 address, so a listener without an address hears nothing")]
    NoAddress { name: String },
    #[error("target {address} of group {group} can't be reached: this host has no route to it")]
    NoRoute { group: String, address: Ipv4Addr },
    #[error(
        "target {address} of group {group} is reached through {interface}, where xlb isn't \
         attached, so its replies would be lost: add {interface:?} to `interface`, or set \
         `preserve_client_ip = true` if this host is its gateway"
    )]
    NotAttached {
        group: String,
        address: Ipv4Addr,
        interface: String,
    },
    #[error(
        "IPv4 forwarding is off on {interface}, and targets on other hosts need it: \
         `sysctl -w net.ipv4.ip_forward=1`"
    )]
    ForwardingOff { interface: String },
    #[error("the listeners have more than {limit} addresses together: name the addresses to use")]
    TooManyAddresses { limit: u32 },
}

fn near(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!("; this host has {}", names.join(", "))
}
