//! Serves routes on a port that any pod may reach, in bounded memory: over TLS, or plainly.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::connections::Connections;
use crate::listen::listen;

/// How long a client may take for the handshake, and then for the head of each request.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection ends after this long, unless the port has endless responses.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The files of a certificate and its key (PEM). When they change, further connections have the new
/// ones.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The certificate, and those that lead to its CA.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// A port.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its number, on all addresses.
    pub number: u16,
    /// The certificate, if it is served over TLS.
    pub certificate: Option<CertificateFiles>,
    /// Responses may go on for ever.
    pub has_endless_responses: bool,
}

impl Port {
    /// A port without TLS.
    #[must_use]
    pub fn plain(number: u16) -> Self {
        Self {
            number,
            certificate: None,
            has_endless_responses: false,
        }
    }

    /// A port with TLS.
    #[must_use]
    pub fn tls(number: u16, certificate: CertificateFiles) -> Self {
        Self {
            certificate: Some(certificate),
            ..Self::plain(number)
        }
    }
}

/// Serves `routes` on a port until `stop`. Connections above [`Connections`]' bounds are closed.
///
/// # Errors
/// Fails if the port cannot be opened.
pub async fn serve(port: Port, routes: Router, stop: CancellationToken) -> std::io::Result<()> {
    let mut listener = listen(port.number).await?;
    let certificate = port.certificate.map(Certificate::new).map(Arc::new);
    let max_age = match port.has_endless_responses {
        true => Duration::MAX,
        false => MAX_AGE,
    };
    let connections = Connections::default();
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // accept() logs an error, pauses and goes on: a flood of connections to this port must
            // not end the process
            accepted = axum::serve::Listener::accept(&mut listener) => accepted,
        };
        let Some(counted) = connections.count(peer.ip()) else {
            continue;
        };
        let (certificate, routes, stop) = (certificate.clone(), routes.clone(), stop.clone());
        tokio::spawn(async move {
            let served = serve_connection(stream, certificate.as_deref(), routes);
            tokio::select! {
                () = stop.cancelled() => {}
                ended = tokio::time::timeout(max_age, served) => if let Ok(Err(error)) = ended {
                    tracing::debug!(%peer, error, "a connection ended");
                }
            }
            drop(counted);
        });
    }
}

async fn serve_connection(
    stream: TcpStream,
    certificate: Option<&Certificate>,
    routes: Router,
) -> Result<(), String> {
    stream.set_nodelay(true).ok();
    let Some(certificate) = certificate else {
        return serve_http(stream, routes).await;
    };
    let handshake = certificate.acceptor()?.accept(stream);
    let stream = tokio::time::timeout(CLIENT_TIMEOUT, handshake)
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    serve_http(stream, routes).await
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
) -> Result<(), String> {
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CLIENT_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await
        .map_err(|error| error.to_string())
}

/// A certificate, read again when its files have changed.
struct Certificate {
    files: CertificateFiles,
    read: Mutex<Option<(FileTimes, TlsAcceptor)>>,
}

/// When the certificate and the key were written.
type FileTimes = [SystemTime; 2];

impl Certificate {
    fn new(files: CertificateFiles) -> Self {
        Self {
            files,
            read: Mutex::default(),
        }
    }

    fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let times = [written(&self.files.certificate)?, written(&self.files.key)?];
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, acceptor)) = &*read
            && *known == times
        {
            return Ok(acceptor.clone());
        }
        let acceptor = acceptor(&self.files)?;
        *read = Some((times, acceptor.clone()));
        Ok(acceptor)
    }
}

fn written(path: &Path) -> Result<SystemTime, String> {
    let written = std::fs::metadata(path).and_then(|file| file.modified());
    written.map_err(|error| format!("{}: {error}", path.display()))
}

fn acceptor(files: &CertificateFiles) -> Result<TlsAcceptor, String> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let text = |error: &dyn Display| error.to_string();
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&read(&files.certificate)?).collect();
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| text(&error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .with_no_client_auth()
        .with_single_cert(certificates.map_err(|error| text(&error))?, key)
        .map_err(|error| text(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests;
