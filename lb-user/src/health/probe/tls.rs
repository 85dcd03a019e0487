//! The TLS below an HTTPS check: a full handshake each time, so that each check
//! looks at the certificate anew.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::PrepareError;
use crate::{config::TlsProbe, health::Outcome};

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(ring::default_provider()));

#[derive(Clone, Debug)]
pub(super) struct TlsProber {
    name: ServerName<'static>,
    probe: TlsProbe,
    /// Made of `probe`.
    config: Arc<ClientConfig>,
}

impl PartialEq for TlsProber {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.probe == other.probe
    }
}

impl TlsProber {
    pub(super) fn new(address: SocketAddr, probe: &TlsProbe) -> Result<Self, PrepareError> {
        let name = probe.server_name.clone();
        Ok(Self {
            name: name.unwrap_or_else(|| address.ip().into()),
            config: Arc::new(client(probe).map_err(PrepareError::Tls)?),
            probe: probe.clone(),
        })
    }

    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Outcome> {
        TlsConnector::from(Arc::clone(&self.config))
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| Outcome::from_io(&error))
    }
}

fn client(probe: &TlsProbe) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()?;
    let mut client = match &probe.authorities {
        Some(authorities) => builder.with_root_certificates(authorities.roots()),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate)),
    }
    .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    client.resumption = Resumption::disabled();
    Ok(client)
}

/// Takes any certificate, if only the target has its key.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests;
