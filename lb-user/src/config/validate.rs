//! TOML → [`Config`], with every rule that doesn't depend on the host.

mod fail_open;
mod forwarding;
mod group;
mod health;
mod limits;
mod listener;
mod names;
mod security_group;
mod target;
mod tls;
mod together;

use std::{
    cell::RefCell,
    net::IpAddr,
    ops::{Range, RangeInclusive},
    path::Path,
    time::Duration,
};

use lb_common::limits::{DEFAULT_SOURCE_PORTS, MAX_FLOWS, MAX_LISTENERS, MAX_TARGETS};
use toml::de::DeTable;

use super::{
    Admin,
    diagnostic::Diagnostic,
    model::*,
    reader::{At, Section},
    values,
};

/// Of the configurations that this program reads. A later one means that a file
/// of this one would say something else.
const VERSION: u32 = 1;
/// Until the configuration sets one. Known to everybody, so whoever wants to
/// keep clients from choosing their target sets `hash_key`.
const DEFAULT_HASH_KEY: u64 = 0x786C_622D_6861_7368;
/// Linux's IFNAMSIZ, without the terminating zero.
const MAX_INTERFACE_NAME: usize = 15;
/// The longest time that makes sense for anything here.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Validates a text; the configuration is there if the text could be read, but
/// may be used only if no diagnostic is an error. `folder` is where paths in it
/// begin.
pub(super) fn validate(text: &str, folder: &Path) -> (Option<Config>, Vec<Diagnostic>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let place = |error: &toml::de::Error| error.span().unwrap_or(0..0);
        let errors = errors
            .iter()
            .map(|e| Diagnostic::error(place(e), e.message().trim()));
        return (None, errors.collect());
    }
    let sink = RefCell::new(Vec::new());
    let config = read(Section::new(root.get_ref(), 0..0, &sink), folder);
    (config, sink.into_inner())
}

fn read(root: Section<'_>, folder: &Path) -> Option<Config> {
    version(&root);
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
    let admin = admin(&root);
    let hash_key = hash_key(&root);
    let capacity = capacity(&root);
    let timeouts = timeouts(&root);
    let source_ports = source_ports(&root);
    let groups = group::groups(&root, capacity, &tls::Trust::new(folder));
    let security_groups = security_group::security_groups(&root, folder);
    let listeners = listener::listeners(&root, &groups, &security_groups, capacity);
    together::check(&root, &listeners, &groups);
    together::check_security_groups(&root, &listeners, &security_groups);
    root.finish();
    Some(Config {
        interfaces,
        xdp_mode: xdp_mode.unwrap_or_default(),
        tc_mode: tc_mode.unwrap_or_default(),
        manage_address,
        admin,
        listeners: listeners
            .into_iter()
            .map(|listener| listener.value)
            .collect(),
        target_groups: groups.into_iter().map(|group| group.value).collect(),
        security_groups: security_groups
            .into_iter()
            .map(|group| group.value)
            .collect(),
        capacity,
        timeouts,
        source_ports,
        hash_key,
    })
}

/// Of the configuration's form; a file without one is of the first.
fn version(root: &Section<'_>) {
    let Some(version) = root.number("version", 1..=u32::MAX) else {
        return;
    };
    if version.value != VERSION {
        let message = format!(
            "this is a configuration of version {}, and this xlb reads version {VERSION}",
            version.value
        );
        let help =
            "use the xlb that it was written for (CHANGELOG.md says which), or write it anew";
        root.report(Diagnostic::error(version.span, message).help(help));
    }
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

fn admin(root: &Section<'_>) -> Option<Admin> {
    let allow_remote = root.boolean("admin_allow_remote").unwrap_or(false);
    let text = root.text("admin")?;
    Admin::new(text.value, allow_remote)
        .map_err(|error| root.report(Diagnostic::error(text.span, error.to_string())))
        .ok()
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
    let mut capacity = Capacity::default();
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
    let time = time_from_zero(section, key)?;
    if time.value.is_zero() {
        let message = format!("`{key}` must be more than zero");
        section.report(Diagnostic::error(time.span, message));
        return None;
    }
    Some(time)
}

fn time_from_zero(section: &Section<'_>, key: &'static str) -> Option<At<Duration>> {
    let text = section.text(key)?;
    let error = match values::duration(text.value) {
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

/// An address that packets from outside can be sent to.
fn reachable_address(
    section: &Section<'_>,
    text: &str,
    span: Range<usize>,
) -> Option<(Option<IpAddr>, Ports)> {
    let error = match values::socket_address(text) {
        Ok((address, ports)) => match address.and_then(values::not_reachable) {
            None => return Some((address, ports)),
            Some(why) => Diagnostic::error(span, format!("`{text}` can't be used")).help(why),
        },
        Err(message) => Diagnostic::error(span, message),
    };
    section.report(error);
    None
}
