//! Whom HTTPS checks trust.

use std::{fmt, path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use super::{MAX_BYTES, read};

/// How an HTTPS check talks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProbe {
    /// What the certificate must be for, and the server name indication if it
    /// is no address; `None`: the target's address.
    pub server_name: Option<ServerName<'static>>,
    /// Whose certificates are trusted; `None`: any certificate will do.
    pub authorities: Option<Authorities>,
}

/// Certificate authorities, at least one. Shared, because a system has more
/// than a hundred of them.
#[derive(Clone)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Those of a PEM file. The error says what is wrong with it.
    pub(crate) fn of_file(path: &Path) -> Result<Self, String> {
        let bytes = read(path).map_err(|error| format!("could not be read: {error}"))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(format!(
                "too large for certificates, at most {MAX_BYTES} bytes"
            ));
        }
        let mut store = RootCertStore::empty();
        for (number, certificate) in (1..).zip(CertificateDer::pem_slice_iter(&bytes)) {
            certificate
                .map_err(|error| error.to_string())
                .and_then(|it| store.add(it).map_err(|error| error.to_string()))
                .map_err(|error| format!("certificate {number}: {error}"))?;
        }
        if store.is_empty() {
            return Err("has no certificate in PEM (`-----BEGIN CERTIFICATE-----`)".to_owned());
        }
        Ok(Self(Arc::new(store)))
    }

    /// Those that this host trusts, without any that can't be understood. The
    /// error says what to do if there is none.
    pub(super) fn of_this_host() -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err("this host trusts no certificate authority".to_owned());
        }
        Ok(Self(Arc::new(store)))
    }

    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.0)
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.roots == other.0.roots
    }
}

impl Eq for Authorities {}

/// The certificates themselves tell nobody anything.
impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}
