//! The server of the demand stream: over TLS, for the controller alone, whose token the API server
//! reviews.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bursar_runtime::listen::listen;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::demand::DemandTracker;

/// The audience that the controller's token must have.
const AUDIENCE: &str = "bursar-gateway";
const TOKEN_REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The demand server's settings, and the counts that it sends.
#[derive(Debug, Clone)]
pub(crate) struct DemandServer {
    pub(crate) port: u16,
    /// The certificate file, read again for each connection.
    pub(crate) certificate: PathBuf,
    /// The file of the certificate's key.
    pub(crate) key: PathBuf,
    /// The user who may read the stream.
    pub(crate) controller_user: String,
    pub(crate) demand: DemandTracker,
}

impl DemandServer {
    /// Serves until `stop`.
    ///
    /// # Errors
    /// Fails if the port cannot be opened.
    pub(crate) async fn serve(
        self,
        client: kube::Client,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let mut listener = listen(self.port).await?;
        let shared = Arc::new((self, client));
        loop {
            let (stream, peer) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // accept() logs an error, pauses and goes on: a flood of connections to this port
                // must not end the gateway
                accepted = axum::serve::Listener::accept(&mut listener) => accepted,
            };
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    ended = serve_connection(stream, &shared.0, &shared.1) => if let Err(error) = ended {
                        tracing::debug!(%peer, error, "a connection to the demand server ended");
                    }
                }
            });
        }
    }

    fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&read(&self.certificate)?).collect();
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|error| text(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| text(&error))?
            .with_no_client_auth()
            .with_single_cert(certificates.map_err(|error| text(&error))?, key)
            .map_err(|error| text(&error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

async fn serve_connection(
    stream: TcpStream,
    server: &DemandServer,
    client: &kube::Client,
) -> Result<(), String> {
    stream.set_nodelay(true).ok();
    let handshake = server.acceptor()?.accept(stream);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?;
    let stream = stream.map_err(|error| error.to_string())?;
    let handle = service_fn(|request: Request<Incoming>| async move {
        let status = match (request.uri().path(), bearer(&request)) {
            ("/v1/demand", Some(token)) => review(client, token, &server.controller_user).await,
            ("/v1/demand", None) => StatusCode::UNAUTHORIZED,
            _ => StatusCode::NOT_FOUND,
        };
        let mut response = if status == StatusCode::OK {
            let messages = stream::unfold(server.demand.subscribe(), |mut subscription| async {
                let message = subscription.next().await;
                let mut line = serde_json::to_vec(&message).unwrap_or_default();
                line.push(b'\n');
                Some((
                    Ok::<_, Infallible>(Frame::data(Bytes::from(line))),
                    subscription,
                ))
            });
            Response::new(Either::Left(StreamBody::new(messages.boxed())))
        } else {
            Response::new(Either::Right(
                Full::<Bytes>::default().map_err(|never| match never {}),
            ))
        };
        *response.status_mut() = status;
        Ok::<_, Infallible>(response)
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), handle)
        .await
        .map_err(|error| error.to_string())
}

fn bearer(request: &Request<Incoming>) -> Option<String> {
    let value = request
        .headers()
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?;
    value.strip_prefix("Bearer ").map(str::to_owned)
}

/// Asks the API server whether the token belongs to the controller and was issued for this
/// audience.
async fn review(client: &kube::Client, token: String, controller_user: &str) -> StatusCode {
    let spec = TokenReviewSpec {
        token,
        audiences: Some(vec![AUDIENCE.to_owned()]),
    };
    let review = TokenReview {
        spec,
        ..TokenReview::default()
    };
    let api: Api<TokenReview> = Api::all(client.clone());
    let params = PostParams::default();
    let answer = tokio::time::timeout(TOKEN_REVIEW_TIMEOUT, api.create(&params, &review)).await;
    let status = match answer {
        Ok(Ok(review)) => review.status.unwrap_or_default(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot review a token");
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        Err(_) => return StatusCode::SERVICE_UNAVAILABLE,
    };
    let user = status
        .user
        .and_then(|user| user.username)
        .unwrap_or_default();
    let audience = status
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == AUDIENCE);
    match status.authenticated == Some(true) && audience && user == controller_user {
        true => StatusCode::OK,
        false => {
            tracing::warn!(user, "a user may not read the demand stream");
            StatusCode::FORBIDDEN
        }
    }
}
