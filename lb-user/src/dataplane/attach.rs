//! Attaching to an interface: XDP on ingress (native, else generic), the
//! handoff program on tc ingress and the reply program on tc egress (TCX, else
//! clsact).

use std::fmt;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode as Flags,
        tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions},
        xdp::XdpLinkId,
    },
};
use tracing::warn;

use super::{
    EGRESS, HANDOFF, INGRESS,
    error::{AttachError, chain, errno},
    program,
};
use crate::config::{TcMode, XdpMode};

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

#[derive(Debug)]
pub(super) struct Attachment {
    interface: String,
    xdp: (XdpHook, XdpLinkId),
    tc: (TcHook, Vec<(&'static str, SchedClassifierLinkId)>),
}

impl Attachment {
    pub(super) fn hooks(&self) -> Attached {
        Attached {
            xdp: self.xdp.0,
            tc: self.tc.0,
        }
    }

    pub(super) fn detach(self, ebpf: &mut Ebpf) -> Result<(), AttachError> {
        let interface = self.interface.clone();
        let failed = |error: &(dyn std::error::Error + 'static)| AttachError::Detach {
            interface: interface.clone(),
            reason: chain(error),
        };
        let xdp: &mut Xdp = program(ebpf, INGRESS)?;
        let mut result = xdp.detach(self.xdp.1).map_err(|error| failed(&error));
        for (name, link) in self.tc.1 {
            let classifier: &mut SchedClassifier = program(ebpf, name)?;
            result = result.and(classifier.detach(link).map_err(|error| failed(&error)));
        }
        result
    }
}

/// Attaches tc first: a packet that XDP hands off must find its program there.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    interface: &str,
    index: u32,
    xdp: XdpMode,
    tc: TcMode,
) -> Result<Attachment, AttachError> {
    let tc = attach_tc(ebpf, interface, tc)?;
    match attach_xdp(ebpf, interface, index, xdp) {
        Ok(xdp) => Ok(Attachment {
            interface: interface.to_owned(),
            xdp,
            tc,
        }),
        Err(error) => {
            for (name, link) in tc.1 {
                let classifier: &mut SchedClassifier = program(ebpf, name)?;
                if let Err(error) = classifier.detach(link) {
                    warn!(
                        interface,
                        program = name,
                        error = chain(&error),
                        "could not detach"
                    );
                }
            }
            Err(error)
        }
    }
}

fn attach_xdp(
    ebpf: &mut Ebpf,
    interface: &str,
    index: u32,
    mode: XdpMode,
) -> Result<(XdpHook, XdpLinkId), AttachError> {
    let program: &mut Xdp = program(ebpf, INGRESS)?;
    let taken = |error: &aya::programs::ProgramError| {
        matches!(errno(error), Some(libc::EBUSY | libc::EEXIST))
    };
    let interface = interface.to_owned();
    if mode != XdpMode::Generic {
        match program.attach_to_if_index(index, Flags::Driver) {
            Ok(link) => return Ok((XdpHook::Native, link)),
            Err(error) if taken(&error) => return Err(AttachError::XdpTaken { interface }),
            Err(error) if mode == XdpMode::Native => {
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
    match program.attach_to_if_index(index, Flags::Skb) {
        Ok(link) => Ok((XdpHook::Generic, link)),
        Err(error) if taken(&error) => Err(AttachError::XdpTaken { interface }),
        Err(error) => Err(AttachError::NoXdp {
            interface,
            reason: chain(&error),
        }),
    }
}

type TcLinks = (TcHook, Vec<(&'static str, SchedClassifierLinkId)>);

fn attach_tc(ebpf: &mut Ebpf, interface: &str, mode: TcMode) -> Result<TcLinks, AttachError> {
    if mode != TcMode::Clsact {
        match attach_classifiers(ebpf, interface, || {
            TcAttachOptions::TcxOrder(LinkOrder::default())
        }) {
            Ok(links) => return Ok((TcHook::Tcx, links)),
            Err(reason) if mode == TcMode::Tcx => {
                return Err(AttachError::NoTcx {
                    interface: interface.to_owned(),
                    reason,
                });
            }
            Err(_) => {}
        }
    }
    let failed = |reason| AttachError::NoTc {
        interface: interface.to_owned(),
        reason,
    };
    match tc::qdisc_add_clsact(interface) {
        Ok(()) | Err(tc::TcError::AlreadyAttached) => {}
        Err(error) if errno(&error) == Some(libc::EEXIST) => {}
        Err(error) => return Err(failed(chain(&error))),
    }
    let links = attach_classifiers(ebpf, interface, || {
        TcAttachOptions::Netlink(NlOptions::default())
    })
    .map_err(failed)?;
    Ok((TcHook::Clsact, links))
}

fn attach_classifiers(
    ebpf: &mut Ebpf,
    interface: &str,
    options: impl Fn() -> TcAttachOptions,
) -> Result<Vec<(&'static str, SchedClassifierLinkId)>, String> {
    let mut links = Vec::new();
    for (name, hook) in [
        (HANDOFF, TcAttachType::Ingress),
        (EGRESS, TcAttachType::Egress),
    ] {
        let classifier: &mut SchedClassifier =
            program(ebpf, name).map_err(|error| chain(&error))?;
        match classifier.attach_with_options(interface, hook, options()) {
            Ok(link) => links.push((name, link)),
            Err(error) => {
                for (name, link) in links {
                    if let Ok(classifier) = program::<SchedClassifier>(ebpf, name) {
                        // The reason for the failure is what's worth reporting.
                        let _ = classifier.detach(link);
                    }
                }
                return Err(chain(&error));
            }
        }
    }
    Ok(links)
}
