//! What a process says about itself: health to everybody, metrics to whom RBAC lets read them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::access::{AccessReviewer, Right};

/// The path of the metrics.
const METRICS: &str = "/metrics";

/// True while the process can do its work.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Changes the readiness.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }
}

/// `/healthz` and `/readyz`, for the kubelet's probes.
pub fn health_routes(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route(
            "/readyz",
            get(move || async move {
                match readiness.0.load(Ordering::Relaxed) {
                    true => (StatusCode::OK, "ok"),
                    false => (StatusCode::SERVICE_UNAVAILABLE, "not ready yet"),
                }
            }),
        )
}

/// `/metrics` (OpenMetrics). They name workloads and money of all namespaces, so the caller needs the
/// right to get the path `/metrics`.
pub fn metrics_routes(registry: Registry, reviewer: AccessReviewer) -> Router {
    Router::new()
        .route(METRICS, get(metrics))
        .with_state((Arc::new(registry), reviewer))
}

async fn metrics(
    State((registry, reviewer)): State<(Arc<Registry>, AccessReviewer)>,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = reviewer.check(&headers, Right::GetPath(METRICS)).await {
        return refusal.into_response();
    }
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use bursar_apitest::Server;
    use bursar_apitest::https::TestCertificate;

    use super::*;
    use crate::listen::listen;
    use crate::server::{self, CertificateFiles, Port};
    use tokio_util::sync::CancellationToken;

    async fn free_port() -> u16 {
        let listener = listen(0).await.unwrap();
        listener.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn metrics_are_for_those_alone_whom_rbac_lets_get_them() {
        let server = Server::new(&[]);
        for user in ["prometheus", "tenant"] {
            server.add_user(user, user);
        }
        server.grant("prometheus", "get /metrics");
        let routes = metrics_routes(
            Registry::default(),
            AccessReviewer::new(server.client(), "none"),
        );
        let certificate = TestCertificate::new().unwrap();
        let files = CertificateFiles {
            certificate: certificate.certificate(),
            key: certificate.key(),
        };
        let port = free_port().await;
        let stop = CancellationToken::new();
        let served = tokio::spawn(server::serve(Port::tls(port, files), routes, stop.clone()));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
        for (headers, status) in [
            ("authorization: Bearer prometheus\r\n", "200 OK"),
            ("authorization: Bearer tenant\r\n", "403 Forbidden"),
            ("authorization: Bearer guess\r\n", "401 Unauthorized"),
            ("", "401 Unauthorized"),
        ] {
            let answer = certificate.get(address, METRICS, headers).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{headers}: {answer}"
            );
        }
        stop.cancel();
        served.await.unwrap().unwrap();
    }
}
