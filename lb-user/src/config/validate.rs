//! TOML → [`Config`], with every rule that doesn't depend on the host.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    num::NonZeroU16,
    ops::RangeInclusive,
    time::Duration,
};

use lb_common::limits::{
    DEFAULT_FLOWS, DEFAULT_HALF_OPEN_FLOWS, DEFAULT_SOURCE_PORTS, DEFAULT_TABLE_SIZE, MAX_FLOWS,
    MAX_GROUPS, MAX_LISTENERS, MAX_TABLE_SIZE, MAX_TARGETS, MAX_TARGETS_PER_GROUP, MAX_WEIGHT,
    MIN_TABLE_SIZE,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Alternatives,
    diagnostic::Diagnostic,
    model::*,
    reader::{At, Section, nearest, number},
    values,
};

/// Until the configuration sets one. Known to everybody, so whoever wants to
/// keep clients from choosing their target sets `hash_key`.
const DEFAULT_HASH_KEY: u64 = 0x786C_622D_6861_7368;
/// Linux's IFNAMSIZ, without the terminating zero.
const MAX_INTERFACE_NAME: usize = 15;
const MAX_THRESHOLD: u32 = 100;
/// The longest time that makes sense for anything here.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Validates a text; the configuration is there if the text could be read, but
/// may be used only if no diagnostic is an error.
pub(super) fn validate(text: &str) -> (Option<Config>, Vec<Diagnostic>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let place = |error: &toml::de::Error| error.span().unwrap_or(0..0);
        let errors = errors
            .iter()
            .map(|e| Diagnostic::error(place(e), e.message().trim()));
        return (None, errors.collect());
    }
    let sink = RefCell::new(Vec::new());
    let config = read(Section::new(root.get_ref(), 0..0, &sink));
    (config, sink.into_inner())
}

fn read(root: Section<'_>) -> Option<Config> {
    let interfaces = interfaces(&root);
    let xdp = [XdpMode::Auto, XdpMode::Native, XdpMode::Generic];
    let tc = [TcMode::Auto, TcMode::Tcx, TcMode::Clsact];
    let xdp_mode = root
        .word("xdp_mode", &["auto", "native", "generic"])
        .map(|word| xdp[word]);
    let tc_mode = root
        .word("tc_mode", &["auto", "tcx", "clsact"])
        .map(|word| tc[word]);
    let manage_address = root.boolean("manage_address").unwrap_or(true);
    let hash_key = hash_key(&root);
    let capacity = capacity(&root);
    let timeouts = timeouts(&root);
    let source_ports = source_ports(&root);
    let groups = groups(&root, capacity);
    let listeners = listeners(&root, &groups, capacity);
    check_together(&root, &listeners, &groups);
    root.finish();
    Some(Config {
        interfaces,
        xdp_mode: xdp_mode.unwrap_or_default(),
        tc_mode: tc_mode.unwrap_or_default(),
        manage_address,
        listeners: listeners
            .into_iter()
            .map(|listener| listener.value)
            .collect(),
        target_groups: groups.into_iter().map(|group| group.value).collect(),
        capacity,
        timeouts,
        source_ports,
        hash_key,
    })
}

fn interfaces(root: &Section<'_>) -> Vec<String> {
    let Some(names) = root.one_or_more("interface") else {
        root.missing("interface", "\"eth0\"");
        return Vec::new();
    };
    let mut interfaces: Vec<String> = Vec::new();
    if names.value.is_empty() {
        let message = "`interface` names none";
        root.report(Diagnostic::error(names.span, message).help("write `interface = \"eth0\"`"));
    }
    for At { value: name, span } in names.value {
        let fault = if name.is_empty() {
            Some("an interface's name can't be empty")
        } else if name.len() > MAX_INTERFACE_NAME {
            Some("an interface's name has at most 15 characters")
        } else if name.contains(|c: char| c == '/' || c.is_whitespace()) {
            Some("an interface's name has no blank and no slash")
        } else if interfaces.iter().any(|known| known == name) {
            Some("this interface is named twice")
        } else {
            None
        };
        match fault {
            Some(fault) => root.report(Diagnostic::error(span, fault)),
            None => interfaces.push(name.to_owned()),
        }
    }
    interfaces
}

fn hash_key(root: &Section<'_>) -> u64 {
    let Some(text) = root.text("hash_key") else {
        return DEFAULT_HASH_KEY;
    };
    match u64::from_str_radix(text.value, 16) {
        Ok(key) if text.value.len() == 16 => key,
        _ => {
            let error = Diagnostic::error(text.span, "`hash_key` must be 16 hexadecimal digits");
            root.report(error.help("`openssl rand -hex 8` makes one"));
            DEFAULT_HASH_KEY
        }
    }
}

fn capacity(root: &Section<'_>) -> Capacity {
    let mut capacity = Capacity {
        listeners: 128,
        targets: 1_024,
        flows: DEFAULT_FLOWS,
        half_open_flows: DEFAULT_HALF_OPEN_FLOWS,
    };
    if let Some(section) = root.section("capacity") {
        let set = |key, value: &mut u32, limit| {
            if let Some(number) = section.number(key, 1..=limit) {
                *value = number.value;
            }
        };
        set("listeners", &mut capacity.listeners, MAX_LISTENERS);
        set("targets", &mut capacity.targets, MAX_TARGETS);
        set("flows", &mut capacity.flows, MAX_FLOWS);
        set("half_open_flows", &mut capacity.half_open_flows, MAX_FLOWS);
        section.finish();
    }
    capacity
}

fn timeouts(root: &Section<'_>) -> Timeouts {
    let mut timeouts = Timeouts {
        tcp_half_open: Duration::from_secs(60),
        tcp_established: Duration::from_secs(350),
        tcp_closing: Duration::from_secs(30),
        udp: Duration::from_secs(120),
    };
    if let Some(section) = root.section("timeouts") {
        let set = |key, value: &mut Duration| {
            let Some(time) = time(&section, key) else {
                return;
            };
            if time.value.subsec_nanos() != 0 {
                let message = format!("`{key}` must be a whole number of seconds");
                section.report(Diagnostic::error(time.span, message));
            }
            *value = time.value;
        };
        set("tcp_half_open", &mut timeouts.tcp_half_open);
        set("tcp_established", &mut timeouts.tcp_established);
        set("tcp_closing", &mut timeouts.tcp_closing);
        set("udp", &mut timeouts.udp);
        section.finish();
    }
    timeouts
}

/// A time above zero.
fn time(section: &Section<'_>, key: &'static str) -> Option<At<Duration>> {
    let text = section.text(key)?;
    let error = match values::duration(text.value) {
        Ok(time) if time.is_zero() => format!("`{key}` must be more than zero"),
        Ok(time) if time > MAX_TIME => format!("`{key}` can't be more than a day"),
        Ok(value) => {
            return Some(At {
                value,
                span: text.span,
            });
        }
        Err(error) => error,
    };
    section.report(Diagnostic::error(text.span, error));
    None
}

fn source_ports(root: &Section<'_>) -> RangeInclusive<u16> {
    let default = DEFAULT_SOURCE_PORTS.0..=DEFAULT_SOURCE_PORTS.1;
    let Some(section) = root.section("source_nat") else {
        return default;
    };
    let ports = section
        .text("ports")
        .map(|text| match values::range(text.value) {
            Ok(ports) if *ports.start() > 0 => ports,
            Ok(_) => {
                section.report(Diagnostic::error(text.span, "there is no port 0"));
                default.clone()
            }
            Err(error) => {
                let help = "write it as `1024-32767`";
                section.report(Diagnostic::error(text.span, error).help(help));
                default.clone()
            }
        });
    section.finish();
    ports.unwrap_or(default)
}

fn groups(root: &Section<'_>, capacity: Capacity) -> Vec<At<TargetGroup>> {
    let sections = root.sections("target_group");
    if sections.len() > MAX_GROUPS as usize {
        let message = format!(
            "there are {} target groups, at most {MAX_GROUPS}",
            sections.len()
        );
        root.report(Diagnostic::error(
            sections[MAX_GROUPS as usize].span.clone(),
            message,
        ));
    }
    let mut groups: Vec<At<TargetGroup>> = Vec::new();
    let mut names = BTreeSet::new();
    let mut count = 0;
    for section in sections {
        let span = section.span.clone();
        let name = group_name(&section, &mut names);
        let before = count;
        let group = group(section, name, &mut count);
        let limit = capacity.targets as usize;
        if before <= limit && count > limit {
            let message = format!("more than {limit} targets in all groups together");
            let help = format!("raise `targets` under [capacity], at most {MAX_TARGETS}");
            root.report(Diagnostic::error(span.clone(), message).help(help));
        }
        groups.push(At { value: group, span });
    }
    groups
}

fn group_name(section: &Section<'_>, names: &mut BTreeSet<String>) -> String {
    let Some(name) = section.text("name") else {
        section.missing("name", "\"api\"");
        return String::new();
    };
    if name.value.is_empty() {
        section.report(Diagnostic::error(
            name.span,
            "a target group's name can't be empty",
        ));
    } else if !names.insert(name.value.to_owned()) {
        let message = format!("there is another target group `{}`", name.value);
        section.report(Diagnostic::error(name.span, message));
    }
    name.value.to_owned()
}

fn group(section: Section<'_>, name: String, count: &mut usize) -> TargetGroup {
    let targets = targets(&section);
    *count += targets.len();
    let unhealthy = [OnUnhealthy::Reset, OnUnhealthy::Keep];
    let on_unhealthy = section.word("on_unhealthy", &["reset", "keep"]);
    let group = TargetGroup {
        name,
        preserve_client_ip: section.boolean("preserve_client_ip").unwrap_or(false),
        table_size: table_size(&section, &targets),
        targets,
        fail_open: section.boolean("fail_open").unwrap_or(true),
        on_unhealthy: on_unhealthy.map_or(OnUnhealthy::default(), |word| unhealthy[word]),
        health_check: health_check(&section),
    };
    section.finish();
    group
}

fn table_size(section: &Section<'_>, targets: &[Target]) -> u32 {
    let key = "table_size";
    let Some(size) = section.number(key, MIN_TABLE_SIZE..=MAX_TABLE_SIZE) else {
        return DEFAULT_TABLE_SIZE;
    };
    let weights: u32 = targets.iter().map(|target| u32::from(target.weight)).sum();
    if let Err(near) = values::table_size(size.value) {
        let message = format!("`{key}` must be a prime, and {} is none", size.value);
        section.report(Diagnostic::error(size.span, message).help(near));
    } else if weights > size.value {
        let message = format!("the weights add up to {weights}, more than the table has slots");
        section.report(Diagnostic::error(size.span, message).help("make the table larger"));
    } else if targets.len() * 100 > size.value as usize {
        let message = "a table of fewer than 100 slots a target spreads unevenly";
        section.report(Diagnostic::warning(size.span, message));
    }
    size.value
}

fn targets(section: &Section<'_>) -> Vec<Target> {
    let Some(list) = section.list("targets") else {
        section.missing("targets", "[\"10.0.0.1:8080\"]");
        return Vec::new();
    };
    if list.value.is_empty() {
        let message = "a target group needs at least one target";
        section.report(Diagnostic::error(list.span.clone(), message));
    }
    if list.value.len() > MAX_TARGETS_PER_GROUP as usize {
        let message = format!(
            "{} targets in one group, at most {MAX_TARGETS_PER_GROUP}",
            list.value.len()
        );
        section.report(Diagnostic::error(list.span, message));
    }
    let mut seen = BTreeSet::new();
    let mut targets = Vec::new();
    for value in list.value {
        if let Some(target) = target(section, value) {
            if seen.insert((target.address, target.port)) {
                targets.push(target);
            } else {
                let message = "this target is in the group already";
                section.report(Diagnostic::error(value.span(), message));
            }
        }
    }
    targets
}

/// `"10.0.0.1:80"`, or a table with `address` and `weight`.
fn target(section: &Section<'_>, value: &Spanned<DeValue<'_>>) -> Option<Target> {
    let (text, span, weight) = match value.get_ref() {
        DeValue::String(text) => (text.as_ref(), value.span(), 1),
        DeValue::Table(table) => target_table(section, table, value)?,
        other => {
            let message = format!("a target can't be of type {}", other.type_str());
            let help = "write it as \"10.0.0.1:80\" or { address = \"10.0.0.1:80\", weight = 2 }";
            section.report(Diagnostic::error(value.span(), message).help(help));
            return None;
        }
    };
    let (address, port) = reachable_address(section, text, span)?;
    Some(Target {
        address,
        port,
        weight,
    })
}

fn target_table<'a>(
    section: &Section<'_>,
    table: &'a DeTable<'_>,
    value: &Spanned<DeValue<'_>>,
) -> Option<(&'a str, std::ops::Range<usize>, u16)> {
    let mut address = None;
    let mut weight = 1;
    for (key, value) in table {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("address", DeValue::String(text)) => address = Some((text.as_ref(), value.span())),
            ("address", _) => {
                let message = "`address` must be a text in quotes";
                section.report(Diagnostic::error(value.span(), message));
            }
            ("weight", _) => match number(value, "weight", 1..=u32::from(MAX_WEIGHT)) {
                Ok(number) => weight = number.value as u16,
                Err(error) => section.report(error),
            },
            (unknown, _) => {
                let error = Diagnostic::error(key.span(), format!("unknown key `{unknown}`"));
                let near = nearest(unknown, ["address", "weight"].into_iter());
                let help = near.map_or("known here: address, weight".to_owned(), |near| {
                    format!("did you mean `{near}`?")
                });
                section.report(error.help(help));
            }
        }
    }
    if address.is_none() && !table.iter().any(|(key, _)| key.get_ref() == "address") {
        let error = Diagnostic::error(value.span(), "`address` is missing");
        section.report(error.help("write `address = \"10.0.0.1:80\"`"));
    }
    address.map(|(text, span)| (text, span, weight))
}

/// An address that packets from outside can be sent to.
fn reachable_address(
    section: &Section<'_>,
    text: &str,
    span: std::ops::Range<usize>,
) -> Option<(Option<IpAddr>, NonZeroU16)> {
    let error = match values::socket_address(text) {
        Ok((address, port)) => match address.and_then(values::not_reachable) {
            None => return Some((address, port)),
            Some(why) => Diagnostic::error(span, format!("`{text}` can't be used")).help(why),
        },
        Err(message) => Diagnostic::error(span, message),
    };
    section.report(error);
    None
}

fn health_check(group: &Section<'_>) -> HealthCheck {
    let mut check = HealthCheck {
        probe: Probe::Http(HttpProbe {
            path: "/system/check".to_owned(),
            host: None,
            success: 200..=399,
            body: None,
        }),
        port: None,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(6),
        healthy_threshold: 3,
        unhealthy_threshold: 3,
    };
    let Some(section) = group.section("health_check") else {
        return check;
    };
    check.probe = probe(&section);
    check.port = section
        .number("port", 1..=u32::from(u16::MAX))
        .and_then(|port| NonZeroU16::new(port.value as u16));
    let (interval, timeout) = (time(&section, "interval"), time(&section, "timeout"));
    check.interval = interval.as_ref().map_or(check.interval, |time| time.value);
    // A short interval alone is no mistake: the default timeout gives way.
    let default = check.timeout.min(check.interval.mul_f64(0.6));
    check.timeout = timeout.as_ref().map_or(default, |time| time.value);
    if let Some(at) = timeout.as_ref().filter(|time| time.value >= check.interval) {
        let message = "`timeout` must be less than `interval`, or checks would overlap";
        section.report(Diagnostic::error(at.span.clone(), message));
    }
    for (key, value) in [
        ("healthy_threshold", &mut check.healthy_threshold),
        ("unhealthy_threshold", &mut check.unhealthy_threshold),
    ] {
        if let Some(number) = section.number(key, 1..=MAX_THRESHOLD) {
            *value = number.value;
        }
    }
    section.finish();
    check
}

fn probe(section: &Section<'_>) -> Probe {
    let tcp = match section.text("protocol") {
        None => false,
        Some(At { value: "http", .. }) => false,
        Some(At { value: "tcp", .. }) => true,
        Some(At {
            value: "https",
            span,
        }) => {
            let message = "HTTPS checks aren't supported by this version of xlb";
            section.report(Diagnostic::error(span, message).help("use `tcp`"));
            true
        }
        Some(At { value, span }) => {
            let message = format!("`protocol` can't be `{value}`");
            let help = format!("it is {}", Alternatives(&["http", "tcp"]));
            section.report(Diagnostic::error(span, message).help(help));
            false
        }
    };
    let texts = (
        section.text("path"),
        section.text("host"),
        section.text("success"),
        section.text("body"),
    );
    if tcp {
        for text in [texts.0, texts.1, texts.2, texts.3].into_iter().flatten() {
            let message = "a TCP check has no path, host, success or body";
            section.report(Diagnostic::error(text.span, message));
        }
        return Probe::Tcp;
    }
    let (path, host, success, body) = texts;
    Probe::Http(HttpProbe {
        path: path.map_or("/system/check".to_owned(), |text| {
            checked_path(section, text)
        }),
        host: host.map(|text| checked_host(section, text)),
        success: success.map_or(200..=399, |text| success_codes(section, text)),
        body: body
            .map(|text| text.value.to_owned())
            .filter(|body| !body.is_empty()),
    })
}

fn checked_path(section: &Section<'_>, path: At<&str>) -> String {
    let fault = if !path.value.starts_with('/') {
        Some("`path` must begin with `/`")
    } else if path.value.contains(|c: char| !c.is_ascii_graphic()) || path.value.contains('#') {
        Some("`path` can't have blanks, control characters, `#` or letters beyond ASCII")
    } else {
        path.value
            .parse::<hyper::Uri>()
            .err()
            .map(|_| "`path` is not a valid path of a URL")
    };
    if let Some(fault) = fault {
        section.report(Diagnostic::error(path.span, fault));
    }
    path.value.to_owned()
}

fn checked_host(section: &Section<'_>, host: At<&str>) -> String {
    let valid = !host.value.is_empty()
        && host
            .value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c));
    if !valid {
        let message = "`host` must be a host name or address, with or without a port";
        section.report(Diagnostic::error(host.span, message));
    }
    host.value.to_owned()
}

fn success_codes(section: &Section<'_>, text: At<&str>) -> RangeInclusive<u16> {
    let error = match values::range(text.value) {
        Ok(codes) if *codes.start() >= 100 && *codes.end() <= 599 => return codes,
        Ok(_) => "status codes are from 100 to 599".to_owned(),
        Err(error) => error,
    };
    let help = "write it as `200-399` or `200`";
    section.report(Diagnostic::error(text.span, error).help(help));
    200..=399
}

fn listeners(
    root: &Section<'_>,
    groups: &[At<TargetGroup>],
    capacity: Capacity,
) -> Vec<At<Listener>> {
    let sections = root.sections("listener");
    if sections.is_empty() {
        let error = Diagnostic::error(0..0, "there is no [[listener]], so nothing to do");
        root.report(error.help("write [[listener]], address = \":80\", target_group = \"…\""));
    }
    let limit = capacity.listeners as usize;
    if let Some(first) = sections.get(limit) {
        let message = format!("more than {limit} listeners");
        let help = format!("raise `listeners` under [capacity], at most {MAX_LISTENERS}");
        root.report(Diagnostic::error(first.span.clone(), message).help(help));
    }
    let indices: HashMap<&str, usize> = groups
        .iter()
        .enumerate()
        .map(|(index, group)| (group.value.name.as_str(), index))
        .collect();
    let mut seen = Seen::default();
    sections
        .into_iter()
        .filter_map(|section| {
            let span = section.span.clone();
            listener(section, &indices, &mut seen).map(|value| At { value, span })
        })
        .collect()
}

/// What no two listeners may share.
#[derive(Default)]
struct Seen {
    names: BTreeSet<String>,
    addresses: BTreeMap<(Option<IpAddr>, NonZeroU16, Protocol), String>,
}

fn listener(
    section: Section<'_>,
    groups: &HashMap<&str, usize>,
    seen: &mut Seen,
) -> Option<Listener> {
    let name = section.text("name");
    let words = [Protocol::Tcp, Protocol::Udp];
    let protocol = section
        .word("protocol", &["tcp", "udp"])
        .map_or(Protocol::Tcp, |word| words[word]);
    let text = section.text("address");
    if text.is_none() {
        section.missing("address", "\":80\"");
    }
    let address = text
        .clone()
        .and_then(|text| reachable_address(&section, text.value, text.span));
    let target_group = target_group(&section, groups);
    let listener = address.zip(text).map(|((address, port), text)| {
        let separator = if text.value.starts_with(':') { "" } else { ":" };
        let default = format!("{protocol}{separator}{}", text.value);
        let chosen = name.as_ref().map_or(default, |name| name.value.to_owned());
        let place = name
            .as_ref()
            .map_or(text.span.clone(), |name| name.span.clone());
        if chosen.is_empty() {
            section.report(Diagnostic::error(place, "a listener's name can't be empty"));
        } else if let Some(other) = seen
            .addresses
            .insert((address, port, protocol), chosen.clone())
        {
            let message = format!("listener `{other}` has this address, port and protocol already");
            section.report(Diagnostic::error(text.span, message));
        } else if !seen.names.insert(chosen.clone()) {
            let message = format!("there is another listener `{chosen}`");
            section.report(Diagnostic::error(place, message));
        }
        Listener {
            name: chosen,
            address,
            port,
            protocol,
            target_group: target_group.unwrap_or(0),
        }
    });
    section.finish();
    listener.filter(|_| target_group.is_some())
}

fn target_group(section: &Section<'_>, groups: &HashMap<&str, usize>) -> Option<usize> {
    let Some(name) = section.text("target_group") else {
        section.missing("target_group", "\"api\"");
        return None;
    };
    let found = groups.get(name.value).copied();
    if found.is_none() {
        let error = Diagnostic::error(
            name.span,
            format!("there is no target group `{}`", name.value),
        );
        section.report(match nearest(name.value, groups.keys().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!(
                "write [[target_group]] with name = \"{}\"",
                name.value
            )),
        });
    }
    found
}

/// Rules that listeners and groups have with each other.
fn check_together(root: &Section<'_>, listeners: &[At<Listener>], groups: &[At<TargetGroup>]) {
    for (index, group) in groups.iter().enumerate() {
        let mut users = listeners
            .iter()
            .filter(|l| l.value.target_group == index)
            .peekable();
        // A listener with a fault of its own is missing from the list.
        if users.peek().is_none() && root.is_faultless() {
            let message = format!("no listener uses the target group `{}`", group.value.name);
            root.report(Diagnostic::warning(group.span.clone(), message));
        }
        for listener in users {
            let own = |target: &&Target| {
                target.port == listener.value.port && target.address == listener.value.address
            };
            if let Some(target) = group.value.targets.iter().find(own) {
                let message = format!(
                    "listener `{}` has port {} of the same address as a target: packets would \
                     go round in circles",
                    listener.value.name, target.port
                );
                root.report(Diagnostic::error(listener.span.clone(), message));
            }
        }
    }
}
