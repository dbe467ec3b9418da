//! Addresses and TLS, as each source has them.

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::SourceErrorKind::{AddressRefused, Unauthorized, Unreachable};
use super::*;

fn source(url: &str) -> Http {
    Http::new(HttpUrl::parse(url).unwrap(), "").unwrap()
}

#[tokio::test]
async fn special_addresses_are_refused_before_a_connection() {
    for host in [
        "169.254.169.254",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        // forms that the system's resolver knows
        "2852039166",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
    ] {
        let read = read(source(&format!("http://{host}:1/"))).await;
        assert_fails(
            &read,
            AddressRefused,
            &["a link-local address", "no connection to"],
        );
    }
}

#[tokio::test]
async fn a_name_is_checked_by_what_it_resolves_to() {
    let strict = Dialer::new(Arc::new(StandardPolicy::default()));
    let source = SignalSource::Http(source("http://localhost:1/"));
    let read = source.read(&Credentials::default(), &strict).await;
    assert_fails(&read, AddressRefused, &["localhost", "a loopback address"]);
}

#[tokio::test]
async fn a_name_without_an_address_says_how_services_are_named() {
    let read = read(source("http://no-such-host.invalid/")).await;
    assert_fails(
        &read,
        Unreachable,
        &["no-such-host.invalid", "NAME.NAMESPACE.svc"],
    );
}

struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

/// A certificate with its key.
struct Signed {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
        Self { issuer }
    }

    fn pem(&self) -> Vec<u8> {
        self.issuer.pem().into_bytes()
    }

    fn sign(&self, name: &str) -> Signed {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Signed { certificate, key }
    }

    /// A server over TLS that wants client certificates of this authority, and answers `5`.
    async fn server(&self, name: &str) -> Endpoint {
        let provider = Arc::new(ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let signed = self.sign(name);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signed.key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![signed.certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        server(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n5";
                stream.write_all(answer).await.unwrap();
                stream.shutdown().await.ok();
            }
        })
        .await
    }
}

#[tokio::test]
async fn tls_trusts_the_authority_of_the_secret_and_shows_its_certificate() {
    let authority = Authority::new();
    let endpoint = authority.server("127.0.0.1").await;
    let source = source(&format!("https://{endpoint}/"));
    let client = authority.sign("client");
    let mut credentials = Credentials {
        ca: Some(authority.pem()),
        certificate: Some(client.certificate.pem().into_bytes()),
        key: Some(client.key.serialize_pem().into_bytes()),
        ..Credentials::default()
    };
    assert_eq!(read_with(source.clone(), &credentials).await, Ok(5000));

    credentials.ca = Some(Authority::new().pem());
    let other = read_with(source.clone(), &credentials).await;
    assert_fails(&other, Unreachable, &["unknown authority", "ca.crt"]);
    credentials.ca = None;
    let public = read_with(source.clone(), &credentials).await;
    assert_fails(&public, Unreachable, &["unknown authority", "ca.crt"]);

    credentials.ca = Some(authority.pem());
    credentials.certificate = None;
    let half = read_with(source.clone(), &credentials).await;
    assert_fails(&half, Unauthorized, &["`tls.crt`", "missing"]);
    credentials.key = None;
    let without = read_with(source.clone(), &credentials).await;
    assert_fails(&without, Unreachable, &["CertificateRequired"]);
    credentials.ca = Some(b"no PEM".to_vec());
    let broken = read_with(source, &credentials).await;
    assert_fails(&broken, Unauthorized, &["`ca.crt`", "PEM"]);
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused() {
    let authority = Authority::new();
    let endpoint = authority.server("queue.example").await;
    let credentials = Credentials {
        ca: Some(authority.pem()),
        ..Credentials::default()
    };
    let read = read_with(source(&format!("https://{endpoint}/")), &credentials).await;
    assert_fails(
        &read,
        Unreachable,
        &["TLS with 127.0.0.1", "not valid for name"],
    );
}

#[tokio::test]
async fn a_server_without_tls_is_named_as_one() {
    let endpoint = answering("HTTP/1.1 400 Bad\r\n\r\n").await;
    let read = read(source(&format!("https://{endpoint}/"))).await;
    assert_fails(&read, Unreachable, &["does not speak TLS"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_waits_for_a_line_instead_of_tls_is_told_from_one_that_is_slow() {
    let endpoint = server(|mut stream| async move { read_to_end(&mut stream).await }).await;
    let read = read(source(&format!("https://{endpoint}/"))).await;
    assert_fails(
        &read,
        Unreachable,
        &["within 3 s", "does it speak TLS on this port?"],
    );
}
