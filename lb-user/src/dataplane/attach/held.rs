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
    pub(super) by: By,
    /// It wasn't there before.
    pub(super) is_new: bool,
}

#[derive(Debug)]
pub(super) enum By {
    /// Detached when it is dropped, unless it is pinned. Held all the same: so
    /// it outlives the loss of its pin, too.
    Link {
        link: Option<FdLink>,
        pin: Option<PathBuf>,
    },
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

impl By {
    /// Puts another program in the place of the link's.
    pub(super) fn update(
        &mut self,
        update: impl FnOnce(FdLink) -> Result<FdLink, SwapError>,
    ) -> Result<(), String> {
        let Self::Link { link, pin } = self else {
            return Err("it is a filter".to_owned());
        };
        // aya lets go of a link that it can't update: of a pinned one that is a
        // second handle.
        let taken = match pin.as_ref().filter(|pin| pin.exists()) {
            Some(pin) => PinnedLink::from_pin(pin).map(FdLink::from),
            None => link.take().ok_or(LinkError::InvalidLink),
        };
        let updated = taken.map_err(SwapError::from).and_then(update);
        *link = Some(updated.map_err(|error| chain(&error))?);
        Ok(())
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
    let (link, pin) = (Some(link), Some(path));
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
        let (link, pin) = (Some(link), None);
        return Ok(By::Link { link, pin });
    };
    let path = pins.link(index, hook);
    // One of an interface that had the same index.
    pins.detach_hook(index, hook)?;
    let link = link.pin(&path).map_err(|error| PinError::Io {
        action: "pin",
        path: path.clone(),
        source: io::Error::other(error),
    })?;
    let (link, pin) = (Some(FdLink::from(link)), Some(path));
    Ok(By::Link { link, pin })
}
