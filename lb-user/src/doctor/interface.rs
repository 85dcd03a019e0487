//! One interface: what XDP can do there, and what is around it.

use aya::programs::loaded_programs;

use super::{Finding, config::of_problem, ethtool, link, named, queues};
use crate::{
    config::{Config, XdpMode},
    dataplane::PROGRAM_PREFIX,
    host::{Host, Interface, XdpFeatures},
    reconcile,
};

pub(super) fn check(name: &str, host: &Host, config: Option<&Config>) -> Vec<Finding> {
    let interface = match reconcile::interface(name, host) {
        Ok(interface) => interface,
        Err(problem) => return vec![of_problem(&problem)],
    };
    let mode = config.map_or_else(XdpMode::default, |config| config.xdp_mode);
    let device = ethtool::ask(name);
    let mut findings = xdp(interface, &device, host, mode);
    findings.extend(redirects(interface));
    findings.extend(hook(interface));
    findings.extend(link::check(interface, host, config));
    // Whether a bond's ports have native XDP decides about the bond.
    let merging = match is_native(interface, mode) {
        Some(true) => Vec::new(),
        Some(false) | None => link::merging_below(interface, host, |name| ethtool::ask(name).gro),
    };
    findings.extend(queues::check(interface, &device, &merging));
    let about = |finding: Finding| finding.about(name);
    findings.into_iter().map(about).collect()
}

/// Whether XDP will be native there; `None` if that can't be told beforehand.
pub(super) fn is_native(interface: &Interface, mode: XdpMode) -> Option<bool> {
    match mode {
        XdpMode::Generic => Some(false),
        XdpMode::Auto | XdpMode::Native => {
            let features = interface.xdp_features?;
            Some(features.has_native(interface.mtu))
        }
    }
}

/// Whether XDP is native, and for packets of every size.
pub(super) fn xdp(
    interface: &Interface,
    device: &ethtool::Device,
    host: &Host,
    mode: XdpMode,
) -> Vec<Finding> {
    let native = native(interface, device, host, mode);
    let large = large_packets(interface, mode);
    [Some(native), large].into_iter().flatten().collect()
}

fn native(interface: &Interface, device: &ethtool::Device, host: &Host, mode: XdpMode) -> Finding {
    const CHECK: &str = "xdp_mode";
    let driver = device.driver.as_deref().unwrap_or("unknown");
    if mode == XdpMode::Generic {
        let message = format!("the configuration asks for generic XDP (driver {driver})");
        return Finding::note(CHECK, message)
            .advice("`xdp_mode = \"auto\"` is faster, if native XDP works");
    }
    let Some(features) = interface.xdp_features else {
        let message =
            format!("this kernel doesn't tell whether the driver {driver} has native XDP");
        return Finding::note(CHECK, message).advice("`xlb status` says it once xlb runs");
    };
    if features.has_basic() {
        return Finding::ok(CHECK, format!("the driver {driver} has native XDP"));
    }
    let message =
        format!("the driver {driver} has no native XDP, and generic XDP is several times slower");
    let parent = interface.vlan.and_then(|vlan| named(host, vlan.parent));
    let advice = match parent {
        Some(parent) => {
            format!("set `interface = {parent:?}`, which sees the frames of the VLAN too")
        }
        None => "use a network card and driver with native XDP, if the speed matters".to_owned(),
    };
    by_mode(mode, CHECK, message).advice(advice)
}

/// Native XDP was asked for, so the agent won't start without.
fn by_mode(mode: XdpMode, check: &'static str, message: String) -> Finding {
    match mode {
        XdpMode::Native => Finding::error(check, message),
        XdpMode::Auto | XdpMode::Generic => Finding::warning(check, message),
    }
}

fn large_packets(interface: &Interface, mode: XdpMode) -> Option<Finding> {
    const CHECK: &str = "mtu";
    let mtu = interface.mtu;
    let features = interface.xdp_features.filter(|it| it.has_basic())?;
    if mode == XdpMode::Generic {
        return None;
    }
    if features.has_native(mtu) {
        return Some(Finding::ok(
            CHECK,
            format!("packets of up to {mtu} bytes fit native XDP"),
        ));
    }
    let fits = XdpFeatures::SINGLE_BUFFER;
    let message = format!(
        "the driver's native XDP takes no packets of several buffers, as the MTU of {mtu} bytes \
         needs them, so XDP will be generic"
    );
    let name = &interface.name;
    let advice = format!("`ip link set {name} mtu {fits}`, or less, if the network allows it");
    Some(by_mode(mode, CHECK, message).advice(advice))
}

/// Whether frames that came in elsewhere can leave here by XDP.
fn redirects(interface: &Interface) -> Option<Finding> {
    const CHECK: &str = "redirect";
    let features = interface.xdp_features?;
    if features.takes_redirects(interface.mtu) {
        return Some(Finding::ok(
            CHECK,
            "frames of other interfaces can be redirected to it",
        ));
    }
    let message = "frames can't be redirected to it, so they take the slower way by tc";
    Some(match interface.kind.as_deref() {
        Some("veth") => Finding::warning(CHECK, format!("{message}: its peer isn't ready for XDP"))
            .advice("`ethtool -K PEER gro on` at its other end, the container's mostly"),
        _ => Finding::note(CHECK, message),
    })
}

/// Whether the place for an XDP program is free.
fn hook(interface: &Interface) -> Option<Finding> {
    const CHECK: &str = "xdp_program";
    let id = interface.xdp_program?;
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| Some(program.name_as_str()?.to_owned()));
    Some(match name {
        Some(name) if name.starts_with(PROGRAM_PREFIX) => {
            Finding::note(CHECK, "xlb is attached to it already")
        }
        name => {
            let name = name.unwrap_or_default();
            let message = format!("another XDP program is attached to it: {name} (id {id})");
            let advice = format!(
                "end what has attached it; `ip link set {} xdp off` removes a stale one",
                interface.name
            );
            Finding::error(CHECK, message).advice(advice)
        }
    })
}
