//! What the agent is told by signals, what it tells systemd, and its limits.

use std::io;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

/// Every check under way has a socket: the usual 1,024 descriptors are too few
/// for thousands of targets that hang.
pub(super) fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a live rlimit, which the first call fills.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        warn!(error = %io::Error::last_os_error(), "could not raise the limit of open files");
    }
}

/// Tells a systemd that waits for it (`Type=notify`).
pub(super) fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "could not tell systemd");
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signalled {
    /// End, and leave traffic as it is.
    Stop,
    /// End, and take everything back.
    Unload,
    /// Read the configuration again; or the terminal has gone.
    HangUp,
}

/// The signals that the agent listens to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until one of them comes.
    pub(super) async fn next(&mut self) -> Signalled {
        tokio::select! {
            _ = self.terminate.recv() => Signalled::Stop,
            _ = self.interrupt.recv() => Signalled::Unload,
            _ = self.hang_up.recv() => Signalled::HangUp,
        }
    }

    /// Waits until one asks to end. A hang-up doesn't where there is a file to
    /// read again: during the start it has just been read.
    pub(super) async fn end(&mut self, has_file: bool) -> Signalled {
        loop {
            match self.next().await {
                Signalled::HangUp if has_file => {}
                signal => return signal,
            }
        }
    }
}
