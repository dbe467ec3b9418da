//! The server: its routes, and how it ends.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;

use crate::engine::Engine;
use crate::metrics::{self, Dialect};
use crate::openai::{Ask, Interface, Offer, Refusal};
use crate::reply::Reply;

/// Bytes of a request's body.
const MAX_BODY: usize = 32 << 20;
/// The exit status of a process that was killed.
const KILLED: i32 = 137;
/// The exit status of a process that SIGTERM ended.
const TERMINATED: i32 = 143;

/// What SIGTERM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnSigterm {
    /// Keep answering until nothing has come for a while, then exit: an engine that knows that traffic still arrives for a moment.
    Drain,
    /// Close the listening socket at once, finish what runs, exit.
    Close,
    /// Exit at once; what runs is lost.
    Exit,
}

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Server {
    engine: Engine,
    offer: Offer,
    dialect: Dialect,
    started: u64,
    allow_crash: bool,
    draining: AtomicBool,
    served: AtomicU64,
}

impl Server {
    /// A server of that engine. `started` is the Unix time that `/v1/models` shows.
    pub(crate) fn new(
        engine: Engine,
        offer: Offer,
        dialect: Dialect,
        started: u64,
        allow_crash: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            engine,
            offer,
            dialect,
            started,
            allow_crash,
            draining: AtomicBool::new(false),
            served: AtomicU64::new(0),
        })
    }

    /// Answers until the process is told to end, and then as `on_sigterm` says.
    ///
    /// # Errors
    /// When the socket fails.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        on_sigterm: OnSigterm,
        drain_quiet: Duration,
        sigterm: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let router = self.clone().router();
        let stop = async move {
            sigterm.await;
            match on_sigterm {
                OnSigterm::Drain => self.drain(drain_quiet).await,
                OnSigterm::Close => {}
                OnSigterm::Exit => std::process::exit(TERMINATED),
            }
        };
        axum::serve(listener, router)
            .with_graceful_shutdown(stop)
            .await
    }

    /// Shows metrics on a port of their own.
    ///
    /// # Errors
    /// When the socket fails.
    pub(crate) async fn serve_metrics(
        self: Arc<Self>,
        listener: TcpListener,
    ) -> std::io::Result<()> {
        let router = Router::new().route(self.dialect.metrics_path(), get(scrape));
        axum::serve(listener, router.with_state(self)).await
    }

    /// Returns when no request has been in work for `quiet`.
    async fn drain(&self, quiet: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let mut load = self.engine.load();
        loop {
            // both ends of the channel live as long as the process
            if load.wait_for(|load| *load == 0).await.is_err() {
                return;
            }
            let busy = load.wait_for(|load| *load > 0);
            if tokio::time::timeout(quiet, busy).await.is_err() {
                return;
            }
        }
    }

    fn router(self: Arc<Self>) -> Router {
        let mut router = Router::new()
            .route("/v1/completions", post(completions))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/models", get(models))
            .route(self.dialect.health_path(), get(|| async { StatusCode::OK }));
        if self.dialect.metrics_port().is_none() {
            router = router.route(self.dialect.metrics_path(), get(scrape));
        }
        if self.allow_crash {
            router = router.route("/crash", post(crash));
        }
        router
            .fallback(|| async { detail(StatusCode::NOT_FOUND, "Not Found") })
            .method_not_allowed_fallback(|| async {
                detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
            })
            .layer(middleware::from_fn_with_state(
                self.clone(),
                send_clients_away,
            ))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(self)
    }

    fn answer(&self, ask: Ask) -> (Reply, crate::engine::Generation) {
        let serial = self.served.fetch_add(1, Ordering::Relaxed);
        let reply = Reply::new(&ask, &self.offer.model, serial);
        (reply, self.engine.submit(&ask.sequences))
    }
}

/// While it drains, each answer ends its connection, so that the next request finds another replica.
async fn send_clients_away(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if server.draining.load(Ordering::Relaxed) {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn completions(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    generate(&server, Interface::Completions, &headers, &body).await
}

async fn chat(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    generate(&server, Interface::Chat, &headers, &body).await
}

async fn generate(
    server: &Server,
    interface: Interface,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, Refusal> {
    let ask = server.offer.ask(interface, headers, body)?;
    let (choices, stream) = (ask.sequences.len(), ask.stream);
    let (reply, generation) = server.answer(ask);
    Ok(match stream {
        Some(options) => reply.stream(options, choices, generation),
        None => reply.whole(choices, generation).await,
    })
}

async fn models(State(server): State<Arc<Server>>) -> Response {
    let model = json!({
        "id": server.offer.model,
        "object": "model",
        "created": server.started,
        "owned_by": "vllm",
        "root": server.offer.model,
        "parent": null,
        "max_model_len": server.offer.context,
    });
    Json(json!({ "object": "list", "data": [model] })).into_response()
}

async fn scrape(State(server): State<Arc<Server>>) -> Response {
    match server.engine.scrape().await {
        Ok(page) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        Err(_) => Refusal::stopped().into_response(),
    }
}

async fn crash() {
    std::process::exit(KILLED);
}

/// FastAPI's form, which vLLM keeps for paths that it does not know.
fn detail(status: StatusCode, detail: &str) -> Response {
    (status, Json(json!({ "detail": detail }))).into_response()
}
