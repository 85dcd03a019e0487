//! One check of one address: TCP connect, or HTTP/1.1 GET.

mod http;
mod tcp;

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use self::http::HttpProber;
use super::reason::{Outcome, Reason};
use crate::config::{HealthCheck, Probe};

/// An answer's header that is still incomplete at this size is given up. The
/// size is looked at between reads, so up to about twice as much is held.
pub const MAX_HEADER_BYTES: usize = 32 * 1024;

/// How much of an answer's body is searched for the expected text.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// A check that can't be put into a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    #[error("health check path {0:?} isn't a path (and query) that HTTP can send")]
    Path(String),
    #[error("health check host {0:?} isn't a value that HTTP can send")]
    Host(String),
}

/// A check of one address, all that can be prepared for it done.
#[derive(Clone, Debug, PartialEq)]
pub struct Prober {
    address: SocketAddr,
    timeout: Duration,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Tcp,
    Http(Box<HttpProber>),
}

impl Prober {
    /// `address` is where the traffic goes; if the check has a port of its
    /// own, that replaces the address's.
    ///
    /// # Errors
    /// When the path or the host of an HTTP check can't be put into a request.
    pub fn new(mut address: SocketAddr, check: &HealthCheck) -> Result<Self, PrepareError> {
        if let Some(port) = check.port {
            address.set_port(port.get());
        }
        let kind = match &check.probe {
            Probe::Tcp => Kind::Tcp,
            Probe::Http(probe) => Kind::Http(Box::new(HttpProber::new(address, probe)?)),
        };
        Ok(Self {
            address,
            timeout: check.timeout,
            kind,
        })
    }

    /// Checks once; takes no longer than the check's timeout. Dropping the
    /// future closes the connection.
    pub async fn run(&self) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let stream = match connect(self.address, deadline).await {
            Ok(stream) => stream,
            Err(outcome) => return outcome,
        };
        match &self.kind {
            Kind::Tcp => tcp::check(stream),
            Kind::Http(prober) => timeout_at(deadline, prober.exchange(stream))
                .await
                .unwrap_or(Outcome::Failure(Reason::ResponseTimeout)),
        }
    }
}

async fn connect(address: SocketAddr, deadline: Instant) -> Result<TcpStream, Outcome> {
    timeout_at(deadline, TcpStream::connect(address))
        .await
        .map_err(|_elapsed| Outcome::Failure(Reason::ConnectTimeout))?
        .map_err(|error| Outcome::from_io(&error))
}

#[cfg(test)]
mod tests;
