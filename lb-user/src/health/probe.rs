//! One check of one address: TCP connect, or HTTP/1.1 GET, plain or over TLS.

mod http;
mod tcp;
mod tls;

use std::{future::Future, io, net::SocketAddr, time::Duration};

use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout_at},
};

use self::{http::HttpProber, tls::TlsProber};
use super::reason::{Outcome, Reason};
use crate::config::{HealthCheck, Probe};

/// An answer's header that is still incomplete at this size is given up. The
/// size is looked at between reads, so up to about twice as much is held.
pub const MAX_HEADER_BYTES: usize = 32 * 1024;

/// How much of an answer's body is searched for the expected text.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// A check that can't be put into a request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PrepareError {
    #[error("health check path {0:?} isn't a path (and query) that HTTP can send")]
    Path(String),
    #[error("health check host {0:?} isn't a value that HTTP can send")]
    Host(String),
    #[error("TLS can't be set up for the health check")]
    Tls(#[source] rustls::Error),
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
    Https(Box<TlsProber>, Box<HttpProber>),
}

impl Prober {
    /// `address` is where the traffic goes; if the check has a port of its
    /// own, that replaces the address's.
    ///
    /// # Errors
    /// When the path or the host of an HTTP check can't be put into a request, or
    /// TLS can't be set up.
    pub fn new(mut address: SocketAddr, check: &HealthCheck) -> Result<Self, PrepareError> {
        if let Some(port) = check.port {
            address.set_port(port.get());
        }
        let kind = match &check.probe {
            Probe::Tcp => Kind::Tcp,
            Probe::Http(probe) => {
                let http = Box::new(HttpProber::new(address, probe)?);
                match &probe.tls {
                    Some(tls) => Kind::Https(Box::new(TlsProber::new(address, tls)?), http),
                    None => Kind::Http(http),
                }
            }
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
        match self.steps(deadline).await {
            Ok(()) => Outcome::Success,
            Err(outcome) => outcome,
        }
    }

    async fn steps(&self, deadline: Instant) -> Result<(), Outcome> {
        let stream = within(deadline, Reason::ConnectTimeout, self.connect()).await?;
        let answer = Reason::ResponseTimeout;
        match &self.kind {
            Kind::Tcp => tcp::check(stream),
            Kind::Http(http) => within(deadline, answer, http.exchange(stream)).await,
            Kind::Https(tls, http) => {
                let stream = within(deadline, Reason::TlsTimeout, tls.handshake(stream)).await?;
                within(deadline, answer, http.exchange(stream)).await
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, Outcome> {
        let connected = async { self.socket()?.connect(self.address).await }.await;
        connected.map_err(|error| Outcome::from_io(&error))
    }

    /// Thousands of checks a second are to cost neither side more than they
    /// must. So it closes with a RST, which leaves no TIME_WAIT at either, and
    /// acknowledges the handshake by the request, where one follows.
    fn socket(&self) -> io::Result<TcpSocket> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_zero_linger()?;
        if self.kind != Kind::Tcp {
            SockRef::from(&socket).set_tcp_quickack(false)?;
        }
        Ok(socket)
    }
}

/// What `step` comes to, or `late`.
async fn within<T>(
    deadline: Instant,
    late: Reason,
    step: impl Future<Output = Result<T, Outcome>>,
) -> Result<T, Outcome> {
    timeout_at(deadline, step)
        .await
        .unwrap_or(Err(Outcome::Failure(late)))
}

#[cfg(test)]
mod tests;
