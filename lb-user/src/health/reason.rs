//! What a check found, and why a target isn't healthy.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error as TlsError};
use serde::{Deserialize, Serialize};

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Success,
    Failure(Reason),
    /// The check couldn't be made, and it isn't the target's fault. Says
    /// nothing about the target: were it a failure, running out of file
    /// descriptors would turn every target unhealthy at once.
    Inconclusive(LocalFault),
}

/// Why a target isn't healthy, or why its last check failed.
///
/// Every variant has a stable [`code`](Self::code) for machines; `Display` is
/// the sentence for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// New, and its first check has no result yet.
    RegistrationInProgress,
    /// No listener uses its target group.
    NotInUse,
    /// It gets no new flow, and its flows may end in peace: it was removed, or
    /// its group's last listener.
    DeregistrationInProgress,
    /// An operator took it out (`xlb drain`).
    DrainedByOperator,
    /// No answer to the connection request.
    ConnectTimeout,
    ConnectionRefused,
    HostUnreachable,
    NetworkUnreachable,
    /// This host has no source address for it, or it isn't an address that
    /// one can connect to.
    AddressUnusable,
    /// A firewall rule or a `prohibit` route of this host.
    Forbidden,
    /// Another error of the connection.
    ConnectionFailed {
        /// As in errno(3), 0 if the system gave none.
        errno: i32,
    },
    /// Connected, but the TLS handshake wasn't complete in time.
    TlsTimeout,
    /// What it sent isn't TLS.
    NotTls,
    /// The target ended TLS by an alert.
    TlsRefused {
        /// RFC 8446, section 6.
        alert: u8,
    },
    /// No TLS version or cipher suite in common.
    TlsIncompatible,
    /// Another error of TLS.
    TlsFailed,
    CertificateExpired,
    CertificateNotYetValid,
    /// It is for another name or address.
    CertificateNameMismatch,
    /// It is from nobody who is trusted.
    CertificateUnknownIssuer,
    /// Something else is wrong with it.
    CertificateInvalid,
    /// Connected, but not answered in full in time.
    ResponseTimeout,
    /// The target ended the connection by RST.
    ConnectionReset,
    /// The target closed the connection before its answer was complete.
    ConnectionClosed,
    /// The answer isn't HTTP/1.
    MalformedResponse,
    /// The answer's header exceeds
    /// [`MAX_HEADER_BYTES`](super::probe::MAX_HEADER_BYTES) or has more than
    /// 100 fields.
    HeaderTooLarge,
    ResponseCodeMismatch {
        code: u16,
    },
    /// The text isn't in the first
    /// [`MAX_BODY_BYTES`](super::probe::MAX_BODY_BYTES) of the body.
    BodyMismatch,
}

/// A shortage on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalFault {
    /// EMFILE, ENFILE.
    FileDescriptors,
    /// ENOMEM, ENOBUFS.
    Memory,
}

impl Outcome {
    /// What an error of connecting or of the connection means.
    pub(super) fn from_io(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        if let Some(error) = inner {
            return Self::Failure(Reason::from_tls(error));
        }
        let errno = error.raw_os_error().unwrap_or(0);
        match errno {
            libc::EMFILE | libc::ENFILE => Self::Inconclusive(LocalFault::FileDescriptors),
            libc::ENOMEM | libc::ENOBUFS => Self::Inconclusive(LocalFault::Memory),
            _ => Self::Failure(Reason::from_errno(errno, error.kind())),
        }
    }
}

impl Reason {
    /// For JSON and metric labels; never changes its meaning.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::RegistrationInProgress => "registration_in_progress",
            Self::NotInUse => "not_in_use",
            Self::DeregistrationInProgress => "deregistration_in_progress",
            Self::DrainedByOperator => "drained_by_operator",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectionRefused => "connection_refused",
            Self::HostUnreachable => "host_unreachable",
            Self::NetworkUnreachable => "network_unreachable",
            Self::AddressUnusable => "address_unusable",
            Self::Forbidden => "forbidden",
            Self::ConnectionFailed { .. } => "connection_failed",
            Self::TlsTimeout => "tls_timeout",
            Self::NotTls => "not_tls",
            Self::TlsRefused { .. } => "tls_refused",
            Self::TlsIncompatible => "tls_incompatible",
            Self::TlsFailed => "tls_failed",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::CertificateNameMismatch => "certificate_name_mismatch",
            Self::CertificateUnknownIssuer => "certificate_unknown_issuer",
            Self::CertificateInvalid => "certificate_invalid",
            Self::ResponseTimeout => "response_timeout",
            Self::ConnectionReset => "connection_reset",
            Self::ConnectionClosed => "connection_closed",
            Self::MalformedResponse => "malformed_response",
            Self::HeaderTooLarge => "header_too_large",
            Self::ResponseCodeMismatch { .. } => "response_code_mismatch",
            Self::BodyMismatch => "body_mismatch",
        }
    }

    fn from_errno(errno: i32, kind: io::ErrorKind) -> Self {
        match errno {
            libc::ECONNREFUSED => Self::ConnectionRefused,
            libc::ECONNRESET => Self::ConnectionReset,
            libc::EPIPE => Self::ConnectionClosed,
            libc::ETIMEDOUT => Self::ConnectTimeout,
            libc::EHOSTUNREACH | libc::EHOSTDOWN => Self::HostUnreachable,
            libc::ENETUNREACH | libc::ENETDOWN => Self::NetworkUnreachable,
            // EINVAL: a `blackhole` route, or a link-local address without its
            // scope (man 7 ip, fib_props in net/ipv4/fib_semantics.c).
            libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::EINVAL => Self::AddressUnusable,
            libc::EACCES | libc::EPERM => Self::Forbidden,
            0 => match kind {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Self::ConnectionClosed,
                _ => Self::ConnectionFailed { errno: 0 },
            },
            errno => Self::ConnectionFailed { errno },
        }
    }

    fn from_tls(error: &TlsError) -> Self {
        match error {
            TlsError::InvalidCertificate(error) => Self::from_certificate(error),
            TlsError::NoCertificatesPresented => Self::CertificateInvalid,
            TlsError::InvalidMessage(_) => Self::NotTls,
            &TlsError::AlertReceived(alert) => Self::TlsRefused {
                alert: alert.into(),
            },
            TlsError::PeerIncompatible(_) => Self::TlsIncompatible,
            _ => Self::TlsFailed,
        }
    }

    fn from_certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::CertificateExpired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::CertificateNotYetValid,
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::CertificateNameMismatch,
            // The latter: from one that only has a trusted authority's name.
            E::UnknownIssuer | E::BadSignature => Self::CertificateUnknownIssuer,
            _ => Self::CertificateInvalid,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RegistrationInProgress => "the first health check has no result yet",
            Self::NotInUse => "no listener uses its target group",
            Self::DeregistrationInProgress => "it was removed; its flows may end",
            Self::DrainedByOperator => "an operator drained it, until `xlb enable`",
            Self::ConnectTimeout => "no answer to the connection request within the timeout",
            Self::ConnectionRefused => "the connection was refused: nothing listens on the port",
            Self::HostUnreachable => "the host is unreachable",
            Self::NetworkUnreachable => "there is no route to its network",
            Self::AddressUnusable => "this host can't connect to its address",
            Self::Forbidden => "a firewall rule or route of this host forbids the connection",
            Self::ConnectionFailed { errno } => {
                return write!(
                    f,
                    "the connection failed: {}",
                    io::Error::from_raw_os_error(*errno)
                );
            }
            Self::TlsTimeout => "connected, but no TLS handshake within the timeout",
            Self::NotTls => "what it sends isn't TLS: plain HTTP?",
            Self::TlsRefused { alert } => {
                let alert = AlertDescription::from(*alert);
                return write!(f, "it refused TLS with the alert {alert:?}");
            }
            Self::TlsIncompatible => "it has no TLS 1.2 or 1.3 with a cipher suite in common",
            Self::TlsFailed => "TLS failed",
            Self::CertificateExpired => "its certificate has expired",
            Self::CertificateNotYetValid => {
                "its certificate isn't valid yet, or this host's clock is wrong"
            }
            Self::CertificateNameMismatch => {
                "its certificate is for another name: set `server_name`"
            }
            Self::CertificateUnknownIssuer => {
                "its certificate is from no trusted authority: set `ca_file`"
            }
            Self::CertificateInvalid => "its certificate isn't one that a server may have",
            Self::ResponseTimeout => "connected, but no complete answer within the timeout",
            Self::ConnectionReset => "it reset the connection",
            Self::ConnectionClosed => "it closed the connection before its answer was complete",
            Self::MalformedResponse => "its answer isn't HTTP/1",
            Self::HeaderTooLarge => "the header of its answer is too large",
            Self::ResponseCodeMismatch { code } => {
                return write!(f, "it answered with the status code {code}");
            }
            Self::BodyMismatch => "the body of its answer hasn't the expected text",
        })
    }
}

impl fmt::Display for LocalFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileDescriptors => "out of file descriptors: raise the limit (LimitNOFILE=)",
            Self::Memory => "out of memory for sockets",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_gives_the_outcome() {
        use Outcome::{Failure, Inconclusive};
        let table = [
            (libc::ECONNREFUSED, Failure(Reason::ConnectionRefused)),
            (libc::ECONNRESET, Failure(Reason::ConnectionReset)),
            (libc::EPIPE, Failure(Reason::ConnectionClosed)),
            (libc::ETIMEDOUT, Failure(Reason::ConnectTimeout)),
            (libc::EHOSTUNREACH, Failure(Reason::HostUnreachable)),
            (libc::ENETUNREACH, Failure(Reason::NetworkUnreachable)),
            (libc::EADDRNOTAVAIL, Failure(Reason::AddressUnusable)),
            (libc::EPERM, Failure(Reason::Forbidden)),
            (libc::EACCES, Failure(Reason::Forbidden)),
            (libc::EMFILE, Inconclusive(LocalFault::FileDescriptors)),
            (libc::ENFILE, Inconclusive(LocalFault::FileDescriptors)),
            (libc::ENOBUFS, Inconclusive(LocalFault::Memory)),
            (
                libc::EPROTO,
                Failure(Reason::ConnectionFailed {
                    errno: libc::EPROTO,
                }),
            ),
        ];
        for (errno, expected) in table {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(Outcome::from_io(&error), expected, "{error}");
        }
    }
}
