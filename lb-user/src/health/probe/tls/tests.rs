//! Against real TLS servers, with certificates made for each test.

use std::{net::Ipv4Addr, num::NonZeroU16, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::PrivateKeyDer,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    config,
    health::{Prober, Reason, probe::tests::serve as serve_by},
};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// For `api.example` and 127.0.0.1.
fn leaf() -> CertificateParams {
    let mut params = CertificateParams::new(vec!["api.example".to_owned()]).unwrap();
    let address = SanType::IpAddress(Ipv4Addr::LOCALHOST.into());
    params.subject_alt_names.push(address);
    params
}

fn server(ca: &Ca, leaf: CertificateParams) -> ServerConfig {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf.signed_by(&key, ca).unwrap();
    with_certificate(certificate.der().clone(), &key, &[&TLS12, &TLS13])
}

fn with_certificate(
    certificate: CertificateDer<'static>,
    key: &KeyPair,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], private_key(key))
        .unwrap()
}

fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

/// An HTTPS server, which answers every request by 200.
async fn serve(config: ServerConfig) -> SocketAddr {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve_by(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await? > 0 {}
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await?;
            stream.shutdown().await
        }
    })
    .await
}

/// The outcome of a check with these lines of configuration; `ca` is what the
/// file `ca.pem` has.
async fn check(address: SocketAddr, lines: &str, ca: &str) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca).unwrap();
    let text = format!(
        "interface = \"eth0\"\n[[listener]]\naddress = \":443\"\ntarget_group = \"api\"\n\
         [[target_group]]\nname = \"api\"\ntargets = [\"10.0.0.2:443\"]\n\
         [target_group.health_check]\nprotocol = \"https\"\ninterval = \"1s\"\n\
         timeout = \"400ms\"\nbody = \"ok\"\n{lines}\n"
    );
    let file = folder.path().join("xlb.toml");
    let parsed = config::parse(&text, file.to_str().unwrap()).unwrap();
    let mut check = parsed.config.target_groups[0].health_check.clone();
    check.port = NonZeroU16::new(address.port());
    Prober::new(address, &check).unwrap().run().await
}

const TRUSTING: &str = "ca_file = \"ca.pem\"";

#[tokio::test]
async fn certificates_give_outcomes() {
    let (own, other) = (ca(), ca());
    let expired = || {
        let mut leaf = leaf();
        leaf.not_after = date_time_ymd(2020, 1, 1);
        leaf
    };
    let future = || {
        let mut leaf = leaf();
        leaf.not_before = date_time_ymd(4000, 1, 1);
        leaf
    };
    let authority = || {
        let mut leaf = leaf();
        leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        leaf
    };
    let named = "ca_file = \"ca.pem\"\nserver_name = \"api.example\"";
    let by_host = "ca_file = \"ca.pem\"\nhost = \"api.example:443\"";
    let misnamed = "ca_file = \"ca.pem\"\nserver_name = \"web.example\"";
    let mishosted = "ca_file = \"ca.pem\"\nhost = \"web.example\"";
    let name_wins = "ca_file = \"ca.pem\"\nhost = \"web.example\"\nserver_name = \"api.example\"";
    let off = "verify = false";
    let failure = Outcome::Failure;
    type Row = (&'static str, CertificateParams, &'static str, Outcome);
    let table: Vec<Row> = vec![
        ("for the address", leaf(), TRUSTING, Outcome::Success),
        ("for the name", leaf(), named, Outcome::Success),
        ("for the host", leaf(), by_host, Outcome::Success),
        ("the name wins", leaf(), name_wins, Outcome::Success),
        (
            "another name",
            leaf(),
            misnamed,
            failure(Reason::CertificateNameMismatch),
        ),
        (
            "another host",
            leaf(),
            mishosted,
            failure(Reason::CertificateNameMismatch),
        ),
        (
            "expired",
            expired(),
            TRUSTING,
            failure(Reason::CertificateExpired),
        ),
        (
            "not yet valid",
            future(),
            TRUSTING,
            failure(Reason::CertificateNotYetValid),
        ),
        (
            "an authority's",
            authority(),
            TRUSTING,
            failure(Reason::CertificateInvalid),
        ),
        (
            "the system's roots",
            leaf(),
            "",
            failure(Reason::CertificateUnknownIssuer),
        ),
        ("expired, unverified", expired(), off, Outcome::Success),
        (
            "another name, unverified",
            leaf(),
            "verify = false\nserver_name = \"web.example\"",
            Outcome::Success,
        ),
    ];
    for (description, leaf, lines, expected) in table {
        let address = serve(server(&own, leaf)).await;
        let outcome = check(address, lines, &own.pem()).await;
        assert_eq!(outcome, expected, "{description}");
    }
    let address = serve(server(&own, leaf())).await;
    let outcome = check(address, TRUSTING, &other.pem()).await;
    assert_eq!(outcome, failure(Reason::CertificateUnknownIssuer));
    let both = other.pem() + &own.pem();
    assert_eq!(check(address, TRUSTING, &both).await, Outcome::Success);
}

/// As a server without an authority behind it has it.
#[tokio::test]
async fn a_self_signed_certificate_can_be_trusted() {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf().self_signed(&key).unwrap();
    for version in [&TLS12, &TLS13] {
        let server = with_certificate(certificate.der().clone(), &key, &[version]);
        let address = serve(server).await;
        let outcome = check(address, TRUSTING, &certificate.pem()).await;
        assert_eq!(outcome, Outcome::Success, "{version:?}");
        let outcome = check(address, "verify = false", "").await;
        assert_eq!(outcome, Outcome::Success, "{version:?}, unverified");
    }
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_refuses() {
    let ca = ca();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&PROVIDER))
            .build()
            .unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = leaf().signed_by(&key, &ca).unwrap();
    for version in [&TLS12, &TLS13] {
        let server = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(vec![certificate.der().clone()], private_key(&key))
            .unwrap();
        let outcome = check(serve(server).await, TRUSTING, &ca.pem()).await;
        let Outcome::Failure(reason @ Reason::TlsRefused { .. }) = outcome else {
            panic!("{version:?}: {outcome:?}");
        };
        let text = reason.to_string();
        assert!(text.ends_with("CertificateRequired"), "{version:?}: {text}");
    }
}

#[tokio::test]
async fn what_is_no_tls() {
    let ca = ca();
    let plain = serve_by(|mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await?;
        stream.shutdown().await
    })
    .await;
    let closing = serve_by(|mut stream| async move {
        let _hello = stream.read(&mut [0; 4096]).await?;
        Ok(())
    })
    .await;
    // TLS 1.0 in its server's hello.
    let old = serve_by(|mut stream| async move {
        let _hello = stream.read(&mut [0; 4096]).await?;
        let mut hello = vec![22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1];
        hello.extend([7; 32]);
        hello.extend([0, 0, 0x2F, 0]);
        stream.write_all(&hello).await?;
        // Until the probe has had its say, or is gone.
        let _alert = stream.read(&mut [0; 64]).await?;
        Ok(())
    })
    .await;
    for (description, address, expected) in [
        ("plain HTTP", plain, Reason::NotTls),
        ("closes", closing, Reason::ConnectionClosed),
        ("TLS 1.0", old, Reason::TlsIncompatible),
    ] {
        let outcome = check(address, TRUSTING, &ca.pem()).await;
        assert_eq!(outcome, Outcome::Failure(expected), "{description}");
    }
}

#[tokio::test]
async fn what_hangs_times_out_where_it_hangs() {
    let ca = ca();
    let silent = serve_by(|stream| async move {
        sleep(Duration::from_secs(2)).await;
        drop(stream);
        Ok(())
    })
    .await;
    let acceptor = TlsAcceptor::from(Arc::new(server(&ca, leaf())));
    let mute = serve_by(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let stream = acceptor.accept(stream).await?;
            sleep(Duration::from_secs(2)).await;
            drop(stream);
            Ok(())
        }
    })
    .await;
    for (address, expected) in [
        (silent, Reason::TlsTimeout),
        (mute, Reason::ResponseTimeout),
    ] {
        let start = Instant::now();
        let outcome = check(address, TRUSTING, &ca.pem()).await;
        assert_eq!(outcome, Outcome::Failure(expected));
        let took = start.elapsed();
        assert!(took < Duration::from_millis(900), "took {took:?}");
    }
}

#[test]
fn a_prober_is_the_same_if_it_checks_the_same() {
    let pem = ca().pem();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let probe = |pem: &str, name: Option<&'static str>| {
        std::fs::write(&file, pem).unwrap();
        let probe = TlsProbe {
            server_name: name.map(|name| name.try_into().unwrap()),
            authorities: Some(config::Authorities::of_file(&file).unwrap()),
        };
        TlsProber::new("127.0.0.1:443".parse().unwrap(), &probe).unwrap()
    };
    assert_eq!(probe(&pem, None), probe(&pem, None), "the file read again");
    assert_ne!(probe(&pem, None), probe(&ca().pem(), None));
    assert_ne!(probe(&pem, None), probe(&pem, Some("api.example")));
}
