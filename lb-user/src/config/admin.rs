//! Where the admin listener is.

use std::net::SocketAddr;

/// An address to serve metrics and the web page at: of this host's loopback,
/// unless others were let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admin {
    address: SocketAddr,
    allow_remote: bool,
}

/// Why an address is none for the admin listener.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    #[error("`{0}` is not an address with a port: write it as `127.0.0.1:9800` or `[::1]:9800`")]
    NoAddress(String),
    #[error("`{0}`: there is no port 0")]
    NoPort(SocketAddr),
    #[error(
        "`{0}` lets other machines read all that `xlb status` says: take `127.0.0.1:{port}`, or allow \
         it with {ALLOW_REMOTE}",
        port = .0.port()
    )]
    Remote(SocketAddr),
}

const ALLOW_REMOTE: &str = "`admin_allow_remote = true` (with flags: --admin-allow-remote)";

impl Admin {
    /// Reads an address with a port.
    ///
    /// # Errors
    /// If it is none, or other machines can reach it and `allow_remote` doesn't
    /// say that they may.
    pub fn new(text: &str, allow_remote: bool) -> Result<Self, AdminError> {
        let address: SocketAddr = text
            .parse()
            .map_err(|_| AdminError::NoAddress(text.to_owned()))?;
        if address.port() == 0 {
            return Err(AdminError::NoPort(address));
        }
        if !allow_remote && !address.ip().to_canonical().is_loopback() {
            return Err(AdminError::Remote(address));
        }
        Ok(Self {
            address,
            allow_remote,
        })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether whoever can reach the address may use it.
    #[must_use]
    pub fn allows_remote(&self) -> bool {
        self.allow_remote
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_unless_told() {
        for (text, allow_remote, fault) in [
            ("127.0.0.1:9800", false, None),
            ("127.8.0.1:9800", false, None),
            ("[::1]:9800", false, None),
            ("[::ffff:127.0.0.1]:9800", false, None),
            ("0.0.0.0:9800", false, Some("take `127.0.0.1:9800`")),
            ("[::]:9800", false, Some("other machines")),
            ("[::ffff:10.0.0.1]:9800", false, Some("other machines")),
            ("10.0.0.1:9800", false, Some("admin_allow_remote = true")),
            ("10.0.0.1:9800", true, None),
            ("127.0.0.1:0", false, Some("no port 0")),
            (":9800", true, Some("write it as `127.0.0.1:9800`")),
            ("localhost:9800", true, Some("is not an address")),
            ("127.0.0.1", false, Some("is not an address")),
        ] {
            let admin = Admin::new(text, allow_remote);
            match (&admin, fault) {
                (Ok(admin), None) => assert_eq!(admin.allows_remote(), allow_remote),
                (Err(error), Some(fault)) => {
                    assert!(error.to_string().contains(fault), "{text}: {error}");
                }
                _ => panic!("{text}: {admin:?}"),
            }
        }
    }
}
