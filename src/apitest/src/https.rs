//! A server's certificate for `localhost`, and a client that trusts it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const HOST: &str = "localhost";

/// A new certificate that has signed itself. Its files go with it.
#[derive(Debug)]
pub struct TestCertificate {
    files: TempDir,
    certificate: CertificateDer<'static>,
}

impl TestCertificate {
    /// Makes one.
    ///
    /// # Errors
    /// Fails if its files cannot be written.
    pub fn new() -> io::Result<Self> {
        let signed = rcgen::generate_simple_self_signed([HOST.to_owned()]);
        let signed = signed.map_err(io::Error::other)?;
        let files = tempfile::tempdir()?;
        std::fs::write(files.path().join("tls.crt"), signed.cert.pem())?;
        std::fs::write(
            files.path().join("tls.key"),
            signed.signing_key.serialize_pem(),
        )?;
        Ok(Self {
            files,
            certificate: signed.cert.der().clone(),
        })
    }

    /// The certificate's file (PEM).
    pub fn certificate(&self) -> PathBuf {
        self.files.path().join("tls.crt")
    }

    /// The key's file (PEM).
    pub fn key(&self) -> PathBuf {
        self.files.path().join("tls.key")
    }

    /// Sends a GET over TLS with these headers (each line ends with `\r\n`), and returns the answer,
    /// head and body.
    ///
    /// # Errors
    /// Fails if nobody answers there with this certificate.
    pub async fn get(&self, address: SocketAddr, path: &str, headers: &str) -> io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.certificate.clone())
            .map_err(io::Error::other)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}
