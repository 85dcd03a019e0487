//! What keeps a program at its hook.

use std::{io, path::PathBuf};

use aya::programs::{
    Link as _, ProgramError, TcAttachType,
    links::{FdLink, LinkError, PinnedLink},
    tc::{SchedClassifierLink, TcHandle},
};

use crate::dataplane::{
    error::{AttachError, PinError, chain},
    pins::{self, Hook, Pins},
};

/// A program at its hook.
#[derive(Debug)]
pub(super) struct Held {
    by: By,
    /// It wasn't there before.
    pub(super) is_new: bool,
}

#[derive(Debug)]
pub(super) enum By {
    /// Detached when it is dropped, unless it is pinned. Held all the same: so
    /// it outlives the loss of its pin, too.
    Link { link: FdLink, pin: Option<PathBuf> },
    Filter {
        hook: TcAttachType,
        priority: u16,
        handle: TcHandle,
    },
}

impl Held {
    pub(super) fn new(by: By) -> Self {
        Self { by, is_new: true }
    }

    pub(super) fn replaced(by: By) -> Self {
        Self { by, is_new: false }
    }

    pub(super) fn detach(self, interface: &str) -> Result<(), AttachError> {
        match self.by {
            By::Link { link, pin } => {
                let pin = pin.filter(|pin| pin.exists());
                let detached = pin.map_or(Ok(()), |pin| pins::detach(&pin));
                drop(link);
                Ok(detached?)
            }
            By::Filter {
                hook,
                priority,
                handle,
            } => SchedClassifierLink::attached(interface, hook, priority, handle, None)
                .map_err(|error| chain(&error))
                .and_then(|link| link.detach().map_err(|error| chain(&error)))
                .map_err(|reason| AttachError::Detach {
                    interface: interface.to_owned(),
                    reason,
                }),
        }
    }
}

/// Puts another program in the place of a pinned link's.
pub(super) fn swap(
    path: PathBuf,
    update: impl FnOnce(FdLink) -> Result<FdLink, SwapError>,
) -> Result<By, String> {
    let link = PinnedLink::from_pin(&path)
        .map_err(SwapError::from)
        .and_then(|link| update(FdLink::from(link)))
        .map_err(|error| chain(&error))?;
    let pin = Some(path);
    Ok(By::Link { link, pin })
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SwapError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Pins a new link, if it is to outlive this process.
pub(super) fn hold(
    link: FdLink,
    pins: Option<&Pins>,
    index: u32,
    hook: Hook,
) -> Result<By, PinError> {
    let Some(pins) = pins else {
        return Ok(By::Link { link, pin: None });
    };
    let path = pins.link(index, hook);
    // One of an interface that had the same index.
    pins.detach_hook(index, hook)?;
    let link = link.pin(&path).map_err(|error| PinError::Io {
        action: "pin",
        path: path.clone(),
        source: io::Error::other(error),
    })?;
    let (link, pin) = (FdLink::from(link), Some(path));
    Ok(By::Link { link, pin })
}
