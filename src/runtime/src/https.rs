//! Routes over TLS.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::listen::listen;

/// How long a client may take for the handshake, and then for the head of each request.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The files of a certificate and its key (PEM). They are read for each connection, so that a renewed
/// certificate is used at once.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The certificate, and those that lead to its CA.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

impl CertificateFiles {
    fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let text = |error: &dyn Display| error.to_string();
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&read(&self.certificate)?).collect();
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|error| text(&error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| text(&error))?
            .with_no_client_auth()
            .with_single_cert(certificates.map_err(|error| text(&error))?, key)
            .map_err(|error| text(&error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Serves `routes` over TLS on `port` of all addresses until `stop`.
///
/// # Errors
/// Fails if the port cannot be opened.
pub async fn serve(
    port: u16,
    files: CertificateFiles,
    routes: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let mut listener = listen(port).await?;
    let files = Arc::new(files);
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // accept() logs an error, pauses and goes on: a flood of connections to this port must
            // not end the process
            accepted = axum::serve::Listener::accept(&mut listener) => accepted,
        };
        let (files, routes, stop) = (Arc::clone(&files), routes.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                ended = serve_connection(stream, &files, routes) => if let Err(error) = ended {
                    tracing::debug!(%peer, error, "a TLS connection ended");
                }
            }
        });
    }
}

async fn serve_connection(
    stream: TcpStream,
    files: &CertificateFiles,
    routes: Router,
) -> Result<(), String> {
    stream.set_nodelay(true).ok();
    let handshake = files.acceptor()?.accept(stream);
    let stream = tokio::time::timeout(CLIENT_TIMEOUT, handshake)
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CLIENT_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await
        .map_err(|error| error.to_string())
}
