//! The control port: the leader's end of the demand stream, over TLS, for whoever proves to be the controller.

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

/// The audience of the controller's token.
const AUDIENCE: &str = "bursar-gateway";
const TOKEN_REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the control port needs.
#[derive(Debug, Clone)]
pub(crate) struct DemandServer {
    /// The port.
    pub(crate) port: u16,
    /// The certificate, read anew for each connection.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// Who may read the stream.
    pub(crate) controller_user: String,
    /// The counts.
    pub(crate) demand: DemandTracker,
}

impl DemandServer {
    /// Serves until `stop`.
    ///
    /// # Errors
    /// When the port cannot be had.
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
                // logs what fails, pauses and goes on: whoever floods this port must not end what is held
                accepted = axum::serve::Listener::accept(&mut listener) => accepted,
            };
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    ended = serve_connection(stream, &shared.0, &shared.1) => if let Err(error) = ended {
                        tracing::debug!(%peer, error, "control connection ended");
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
        .map_err(|_| "slow handshake".to_owned())?;
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

/// Whether the API server knows the token as the controller's, made for this audience.
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
            tracing::warn!(user, "refused a reader of the demand stream");
            StatusCode::FORBIDDEN
        }
    }
}
