//! Texts that mean a value: addresses, times, ranges, primes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    ops::RangeInclusive,
    time::Duration,
};

use lb_common::limits::{MAX_TABLE_SIZE, MIN_TABLE_SIZE};

use super::Ports;
use crate::{
    address::{Family, Prefix},
    maglev::is_prime,
};

/// `10.0.0.1:80`, `[2001:db8::1]:80`, or `:80` without an address. The port may
/// be a range, `8000-8999`, or `*`.
pub(crate) fn socket_address(text: &str) -> Result<(Option<IpAddr>, Ports), String> {
    let Some((address, ports)) = text.rsplit_once(':') else {
        return Err(format!("`{text}` has no port: write it as `{text}:80`"));
    };
    if text.ends_with(']') || (address.contains(':') && !address.ends_with(']')) {
        return Err(bare_ipv6(text));
    }
    Ok((address_part(address)?, self::ports(text, ports)?))
}

fn bare_ipv6(text: &str) -> String {
    let bare = text.trim_matches(['[', ']']);
    match bare.parse::<Ipv6Addr>() {
        Ok(_) => format!("`{text}` has no port: write it as `[{bare}]:80`"),
        Err(_) => format!("`{text}`: an IPv6 address goes in brackets, as `[2001:db8::1]:80`"),
    }
}

/// What stands before the port; none if that is nothing.
fn address_part(text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(bare) = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        return match bare.parse::<Ipv6Addr>() {
            Ok(address) => Ok(Some(address.into())),
            Err(_) => Err(format!("`{bare}` is not an IPv6 address")),
        };
    }
    match text.parse::<Ipv4Addr>() {
        Ok(address) => Ok(Some(address.into())),
        Err(_) if text.chars().any(|c| c.is_ascii_alphabetic()) => Err(format!(
            "`{text}` is not an IP address, and names aren't resolved"
        )),
        Err(_) => Err(format!("`{text}` is not an IPv4 address")),
    }
}

/// `80`, `8000-8999` or `*`, the end of `text`.
fn ports(text: &str, ports: &str) -> Result<Ports, String> {
    if ports == "*" {
        return Ok(Ports::ALL);
    }
    let range = match ports.split_once('-') {
        Some(_) => range(ports)?,
        None => match ports.parse::<u16>() {
            Ok(port) => port..=port,
            Err(_) => return Err(format!("`{ports}` is not a port: a number from 1 to 65535")),
        },
    };
    let (first, last) = (*range.start(), *range.end());
    match NonZeroU16::new(first) {
        None => Err(format!(
            "`{text}`: there is no port 0; every port is written as `*`"
        )),
        Some(port) if first == last => Ok(Ports::One(port)),
        Some(_) => Ok(Ports::Range { first, last }),
    }
}

/// `10.0.0.0/8`, or a single address.
pub(crate) fn prefix(text: &str) -> Result<Prefix, String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let wrong = || format!("`{text}` is not a prefix: write it as `10.0.0.0/8` or `2001:db8::/32`");
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let length = match length {
        Some(length) => length.parse().map_err(|_| wrong())?,
        None => Family::of(address).bits(),
    };
    let prefix = Prefix::around(address, length).ok_or_else(wrong)?;
    if prefix.address() != address {
        return Err(format!(
            "`{text}` has bits beyond its length: write it as `{prefix}`"
        ));
    }
    Ok(prefix)
}

/// Why an address can't be one that packets from outside are sent to.
pub(in crate::config) fn not_reachable(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => Some(
            "the kernel drops packets to 127.0.0.0/8 that come from an interface; \
             write `:PORT` for a port of this host",
        ),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("it is the broadcast address"),
        IpAddr::V6(v6) if v6.is_loopback() => {
            Some("no packet to ::1 comes from an interface; write `:PORT` for a port of this host")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("a link-local address means nothing beyond its link; use a global one")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("no packet bears an IPv4-mapped address; write the IPv4 address")
        }
        address if address.is_multicast() => Some("it is a multicast address"),
        address if address.is_unspecified() => {
            Some("it names no address; write `:PORT` for every address of the interface")
        }
        _ => None,
    }
}

/// `10s`, `500ms`, `2m`.
pub(in crate::config) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) => Ok(time),
        Err(_) => Err(format!(
            "`{text}` is not a time: write it as `10s`, `500ms` or `2m`"
        )),
    }
}

/// `50%`, from 1 to 100.
pub(in crate::config) fn percentage(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
    number
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| format!("`{text}` is not a percentage from `1%` to `100%`"))
}

/// `200-399`, or `200` alone.
pub(in crate::config) fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let number = |text: &str| {
        text.trim()
            .parse::<u16>()
            .map_err(|_| format!("`{text}` is not a number up to 65535"))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last {
        return Err(format!("`{text}` ends before it begins"));
    }
    Ok(first..=last)
}

/// Whether a Maglev table may have this size, and if not the nearest that may.
pub(in crate::config) fn table_size(size: u32) -> Result<(), String> {
    if is_prime(size) {
        return Ok(());
    }
    let near =
        |mut numbers: Box<dyn Iterator<Item = u32>>| numbers.find(|&number| is_prime(number));
    let below = near(Box::new((MIN_TABLE_SIZE..size).rev()));
    let above = near(Box::new(size..=MAX_TABLE_SIZE));
    let near: Vec<String> = below
        .iter()
        .chain(&above)
        .map(ToString::to_string)
        .collect();
    Err(format!("primes near it are {}", near.join(" and ")))
}
