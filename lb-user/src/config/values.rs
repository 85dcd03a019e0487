//! Texts that mean a value: addresses, times, ranges, primes.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    ops::RangeInclusive,
    time::Duration,
};

use lb_common::limits::{MAX_TABLE_SIZE, MIN_TABLE_SIZE};

/// `10.0.0.1:80`, or `:80` without an address.
pub(in crate::config) fn socket_address(
    text: &str,
) -> Result<(Option<IpAddr>, NonZeroU16), String> {
    let Some((address, port)) = text.rsplit_once(':') else {
        return Err(format!("`{text}` has no port: write it as `{text}:80`"));
    };
    let port: NonZeroU16 = match port.parse::<u16>() {
        Ok(port) => NonZeroU16::new(port).ok_or_else(|| format!("`{text}`: there is no port 0"))?,
        Err(_) => return Err(format!("`{port}` is not a port: a number from 1 to 65535")),
    };
    if address.is_empty() {
        return Ok((None, port));
    }
    match address.parse::<Ipv4Addr>() {
        Ok(address) => Ok((Some(address.into()), port)),
        Err(_) => Err(not_ipv4(address)),
    }
}

fn not_ipv4(address: &str) -> String {
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if bare.contains(':') {
        return format!("`{address}`: IPv6 isn't supported by this version of xlb");
    }
    if bare.chars().any(|c| c.is_ascii_alphabetic()) {
        return format!("`{address}` is not an IP address, and names aren't resolved");
    }
    format!("`{address}` is not an IPv4 address")
}

/// Why an address can't be one that packets from outside are sent to.
pub(in crate::config) fn not_reachable(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => Some(
            "the kernel drops packets to 127.0.0.0/8 that come from an interface; \
             write `:PORT` for a port of this host",
        ),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("it is the broadcast address"),
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

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|d| d * d <= number)
            .all(|d| !number.is_multiple_of(d))
}
