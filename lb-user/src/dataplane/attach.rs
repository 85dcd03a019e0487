//! Attaching to an interface: XDP on ingress (native, else generic), the
//! handoff program on tc ingress and the reply program on tc egress (TCX, else
//! clsact).
//!
//! Where another agent of the instance has left programs, they are replaced in
//! their place, and no packet comes between.

mod held;

use std::fmt;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as Flags,
        links::FdLink,
        tc::{
            self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle,
        },
        xdp::XdpLink,
    },
};
use tracing::warn;

use self::held::{By, Held, SwapError, hold, swap};
use super::{
    EGRESS, HANDOFF, INGRESS,
    error::{AttachError, chain, errno},
    pins::{Hook, Pins},
    program,
};
use crate::{
    config::{TcMode, XdpMode},
    host::Filter,
};

/// What an interface ended up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    pub xdp: XdpHook,
    pub tc: TcHook,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpHook {
    Native,
    Generic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcHook {
    Tcx,
    Clsact,
}

impl fmt::Display for XdpHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl fmt::Display for TcHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// Where to attach, and how.
#[derive(Clone, Copy, Debug)]
pub struct AttachOptions<'a> {
    pub interface: &'a str,
    pub index: u32,
    pub xdp: XdpMode,
    pub tc: TcMode,
    /// Filters that the instance has in the interface's clsact qdisc: they are
    /// replaced if clsact is used again.
    pub filters: &'a [Filter],
}

#[derive(Debug)]
pub(super) struct Attachment {
    interface: String,
    xdp: (XdpHook, Held),
    tc: (TcHook, Vec<Held>),
}

impl Attachment {
    pub(super) fn hooks(&self) -> Attached {
        Attached {
            xdp: self.xdp.0,
            tc: self.tc.0,
        }
    }

    /// Puts the programs of another copy of the object in the place of those that
    /// are there: a packet meets the one or the other.
    pub(super) fn run(&mut self, ebpf: &mut Ebpf) -> Result<(), AttachError> {
        let interface = &self.interface;
        let failed = |reason| not_replaced(interface, reason);
        let xdp: &mut Xdp = program(ebpf, INGRESS)?;
        let updated = self.xdp.1.by.update(|link| update_xdp(xdp, link));
        updated.map_err(failed)?;
        for ((name, ..), held) in CLASSIFIERS.iter().zip(&mut self.tc.1) {
            let classifier: &mut SchedClassifier = program(ebpf, name)?;
            let updated = match held.by {
                By::Filter {
                    hook,
                    priority,
                    handle,
                } => attach_to_filter(classifier, interface, hook, priority, handle)
                    .and_then(|id| classifier.take_link(id))
                    // See `attach_clsact`.
                    .map(std::mem::forget)
                    .map_err(|error| chain(&error)),
                By::Link { .. } => held.by.update(|link| update_tcx(classifier, link)),
            };
            updated.map_err(failed)?;
        }
        Ok(())
    }

    /// XDP first: what it hands off must find its program at tc.
    pub(super) fn detach(self) -> Result<(), AttachError> {
        let mut result = self.xdp.1.detach(&self.interface);
        for held in self.tc.1 {
            result = result.and(held.detach(&self.interface));
        }
        result
    }
}

/// Attaches tc first: a packet that XDP hands off must find its program there.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: Option<&Pins>,
    options: &AttachOptions<'_>,
) -> Result<Attachment, AttachError> {
    let tc = attach_tc(ebpf, pins, options)?;
    let attachment = match attach_xdp(ebpf, pins, options) {
        Ok(xdp) => Attachment {
            interface: options.interface.to_owned(),
            xdp,
            tc,
        },
        Err(error) => {
            take_back(tc.1, options.interface);
            return Err(error);
        }
    };
    if let Some(pins) = pins {
        // Of the other kind, if the configuration was another.
        if attachment.tc.0 == TcHook::Clsact {
            pins.detach_hook(options.index, Hook::TcxIngress)?;
            pins.detach_hook(options.index, Hook::TcxEgress)?;
        }
    }
    Ok(attachment)
}

/// Detaches what wasn't there before.
fn take_back(held: Vec<Held>, interface: &str) {
    for held in held.into_iter().filter(|held| held.is_new) {
        if let Err(error) = held.detach(interface) {
            warn!(interface, error = chain(&error), "could not detach");
        }
    }
}

fn attach_xdp(
    ebpf: &mut Ebpf,
    pins: Option<&Pins>,
    options: &AttachOptions<'_>,
) -> Result<(XdpHook, Held), AttachError> {
    let program: &mut Xdp = program(ebpf, INGRESS)?;
    for (kind, hook, other) in [
        (XdpHook::Native, Hook::XdpNative, XdpMode::Generic),
        (XdpHook::Generic, Hook::XdpGeneric, XdpMode::Native),
    ] {
        let Some(pins) = pins.filter(|pins| pins.holds(options.index, hook)) else {
            continue;
        };
        if options.xdp == other {
            pins.detach_hook(options.index, hook)?;
            continue;
        }
        let path = pins.link(options.index, hook);
        let by = swap(path, |link| update_xdp(program, link))
            .map_err(|reason| not_replaced(options.interface, reason))?;
        return Ok((kind, Held::replaced(by)));
    }
    let (kind, link) = attach_new_xdp(program, options)?;
    let hook = match kind {
        XdpHook::Native => Hook::XdpNative,
        XdpHook::Generic => Hook::XdpGeneric,
    };
    let link = FdLink::try_from(link).map_err(|error| AttachError::NoXdp {
        interface: options.interface.to_owned(),
        reason: chain(&error),
    })?;
    Ok((kind, Held::new(hold(link, pins, options.index, hook)?)))
}

fn attach_new_xdp(
    program: &mut Xdp,
    options: &AttachOptions<'_>,
) -> Result<(XdpHook, XdpLink), AttachError> {
    let taken = |error: &ProgramError| matches!(errno(error), Some(libc::EBUSY | libc::EEXIST));
    let interface = options.interface.to_owned();
    let mut attach = |flags| {
        let id = program.attach_to_if_index(options.index, flags)?;
        program.take_link(id)
    };
    if options.xdp != XdpMode::Generic {
        match attach(Flags::Driver) {
            Ok(link) => return Ok((XdpHook::Native, link)),
            Err(error) if taken(&error) => return Err(AttachError::XdpTaken { interface }),
            Err(error) if options.xdp == XdpMode::Native => {
                return Err(AttachError::NoNativeXdp {
                    interface,
                    reason: chain(&error),
                });
            }
            Err(error) => warn!(
                interface,
                reason = chain(&error),
                "the driver has no native XDP for its present settings; going on with generic \
                 XDP, which is several times slower"
            ),
        }
    }
    match attach(Flags::Skb) {
        Ok(link) => Ok((XdpHook::Generic, link)),
        Err(error) if taken(&error) => Err(AttachError::XdpTaken { interface }),
        Err(error) => Err(AttachError::NoXdp {
            interface,
            reason: chain(&error),
        }),
    }
}

type TcLinks = (TcHook, Vec<Held>);

/// The tc programs, where they go, and how.
const CLASSIFIERS: [(&str, TcAttachType, Hook); 2] = [
    (HANDOFF, TcAttachType::Ingress, Hook::TcxIngress),
    (EGRESS, TcAttachType::Egress, Hook::TcxEgress),
];

fn attach_tc(
    ebpf: &mut Ebpf,
    pins: Option<&Pins>,
    options: &AttachOptions<'_>,
) -> Result<TcLinks, AttachError> {
    let interface = || options.interface.to_owned();
    if options.tc != TcMode::Clsact {
        match classifiers(ebpf, options, |classifier, hook, pin| {
            attach_tcx(classifier, pins, options, hook, pin)
        }) {
            Ok(links) => return Ok((TcHook::Tcx, links)),
            Err(reason) if options.tc == TcMode::Tcx => {
                return Err(AttachError::NoTcx {
                    interface: interface(),
                    reason,
                });
            }
            Err(_) => {}
        }
    }
    let failed = |reason| AttachError::NoTc {
        interface: interface(),
        reason,
    };
    match tc::qdisc_add_clsact(options.interface) {
        Ok(()) | Err(tc::TcError::AlreadyAttached) => {}
        Err(error) if errno(&error) == Some(libc::EEXIST) => {}
        Err(error) => return Err(failed(chain(&error))),
    }
    let links = classifiers(ebpf, options, |classifier, hook, _| {
        attach_clsact(classifier, options, hook)
    });
    Ok((TcHook::Clsact, links.map_err(failed)?))
}

/// Attaches each tc program by `attach`, all or none.
fn classifiers(
    ebpf: &mut Ebpf,
    options: &AttachOptions<'_>,
    attach: impl Fn(&mut SchedClassifier, TcAttachType, Hook) -> Result<Held, String>,
) -> Result<Vec<Held>, String> {
    let mut links = Vec::new();
    for (name, hook, pin) in CLASSIFIERS {
        let classifier = program(ebpf, name).map_err(|error| chain(&error))?;
        match attach(classifier, hook, pin) {
            Ok(held) => links.push(held),
            Err(reason) => {
                take_back(links, options.interface);
                return Err(reason);
            }
        }
    }
    Ok(links)
}

fn attach_tcx(
    classifier: &mut SchedClassifier,
    pins: Option<&Pins>,
    options: &AttachOptions<'_>,
    hook: TcAttachType,
    pin: Hook,
) -> Result<Held, String> {
    if let Some(pins) = pins.filter(|pins| pins.holds(options.index, pin)) {
        let path = pins.link(options.index, pin);
        let by = swap(path, |link| update_tcx(classifier, link))?;
        return Ok(Held::replaced(by));
    }
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = classifier
        .attach_with_options(options.interface, hook, tcx)
        .and_then(|id| classifier.take_link(id))
        .map_err(|error| chain(&error))?;
    let link = FdLink::try_from(link).map_err(|error| chain(&error))?;
    let by = hold(link, pins, options.index, pin).map_err(|error| chain(&error))?;
    Ok(Held::new(by))
}

fn attach_clsact(
    classifier: &mut SchedClassifier,
    options: &AttachOptions<'_>,
    hook: TcAttachType,
) -> Result<Held, String> {
    let is_egress = hook == TcAttachType::Egress;
    let mut filters = options.filters.iter();
    let known = filters.find(|filter| filter.is_egress() == is_egress);
    let attached = match known {
        Some(filter) => {
            let (priority, (major, minor)) = (filter.priority(), filter.handle());
            let handle = TcHandle::new(major, minor);
            attach_to_filter(classifier, options.interface, hook, priority, handle)
        }
        None => {
            let anywhere = TcAttachOptions::Netlink(NlOptions::default());
            classifier.attach_with_options(options.interface, hook, anywhere)
        }
    };
    let link = attached
        .and_then(|id| classifier.take_link(id))
        .map_err(|error| chain(&error))?;
    let found = link
        .priority()
        .and_then(|priority| Ok((priority, link.handle()?)));
    let (priority, handle) = found.map_err(|error| chain(&error))?;
    // A filter outlives who made it; this value would take it away.
    std::mem::forget(link);
    let by = By::Filter {
        hook,
        priority,
        handle,
    };
    Ok(match known {
        Some(_) => Held::replaced(by),
        None => Held::new(by),
    })
}

fn attach_to_filter(
    classifier: &mut SchedClassifier,
    interface: &str,
    hook: TcAttachType,
    priority: u16,
    handle: TcHandle,
) -> Result<SchedClassifierLinkId, ProgramError> {
    let link = SchedClassifierLink::attached(interface, hook, priority, handle, None);
    classifier.attach_to_link(link.map_err(ProgramError::IOError)?)
}

fn update_xdp(program: &mut Xdp, link: FdLink) -> Result<FdLink, SwapError> {
    let id = program.attach_to_link(XdpLink::try_from(link)?)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn update_tcx(classifier: &mut SchedClassifier, link: FdLink) -> Result<FdLink, SwapError> {
    let id = classifier.attach_to_link(SchedClassifierLink::try_from(link)?)?;
    Ok(classifier.take_link(id)?.try_into()?)
}

fn not_replaced(interface: &str, reason: String) -> AttachError {
    AttachError::Swap {
        interface: interface.to_owned(),
        reason,
    }
}
