//! A fleet of engines in one process: it answers at every address of the machine as an engine of
//! its own would, with the queue depth that was set for that address. No model is computed; what
//! counts is `/metrics`.
//!
//! The control port, on loopback only, sets queue depths and the size of pages, and counts reads.

mod families;
mod page;

use std::collections::HashMap;
use std::future::{Future, IntoFuture};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use families::Figures;
pub(crate) use families::PageSize;

use crate::metrics;

/// Tokens a second for each request.
const SPEED: f64 = 20.0;
/// Tokens of an answer.
const ANSWER: f64 = 200.0;

/// The address to which a connection was made, which tells the engine.
#[derive(Debug, Clone, Copy)]
struct EngineAddress(IpAddr);

/// A listener whose connections send small answers at once.
struct NoDelay(TcpListener);

impl Listener for NoDelay {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        // a connection without it only answers later
        stream.set_nodelay(true).ok();
        (stream, address)
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, NoDelay>> for EngineAddress {
    fn connect_info(stream: IncomingStream<'_, NoDelay>) -> Self {
        let address = stream.io().local_addr().map(|address| address.ip());
        Self(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))
    }
}

/// One engine.
#[derive(Debug)]
struct Engine {
    depth: u64,
    /// When the queue got this depth.
    since: Instant,
    /// What was done before that.
    ended: f64,
    tokens: f64,
    /// The page while nothing changes.
    idle_page: Option<Bytes>,
}

impl Engine {
    /// Idle, with counters of its own.
    fn new(address: IpAddr, now: Instant) -> Self {
        let mut hash = DefaultHasher::new();
        address.hash(&mut hash);
        let ended = (1000 + hash.finish() % 60_000) as f64;
        Self {
            depth: 0,
            since: now,
            ended,
            tokens: ended * ANSWER,
            idle_page: None,
        }
    }

    fn tokens_at(&self, now: Instant) -> f64 {
        let seconds = now.duration_since(self.since).as_secs_f64();
        (self.depth as f64 * SPEED * seconds).floor()
    }

    fn set_depth(&mut self, depth: u64, now: Instant) {
        let tokens = self.tokens_at(now);
        self.tokens += tokens;
        self.ended += (tokens / ANSWER).floor();
        (self.depth, self.since, self.idle_page) = (depth, now, None);
    }

    fn figures(&self, started: f64, now: Instant) -> Figures {
        let tokens = self.tokens_at(now);
        Figures {
            running: self.depth.div_ceil(2),
            waiting: self.depth / 2,
            ended: (self.ended + tokens / ANSWER) as u64,
            tokens: (self.tokens + tokens) as u64,
            started,
        }
    }

    /// The page; that of an idle engine is made once.
    fn page(&mut self, size: PageSize, started: f64, now: Instant) -> Bytes {
        if let Some(page) = &self.idle_page {
            return page.clone();
        }
        let page = Bytes::from(page::render(size, &self.figures(started, now)));
        if self.depth == 0 {
            self.idle_page = Some(page.clone());
        }
        page
    }
}

/// All engines.
#[derive(Debug)]
pub(crate) struct Fleet {
    engines: Mutex<Engines>,
    reads: AtomicU64,
    /// Seconds since 1970.
    started: f64,
}

#[derive(Debug)]
struct Engines {
    size: PageSize,
    by_address: HashMap<IpAddr, Engine>,
}

impl Fleet {
    /// Engines that are idle, with pages of this size.
    pub(crate) fn new(size: PageSize) -> Arc<Self> {
        Arc::new(Self {
            engines: Mutex::new(Engines {
                size,
                by_address: HashMap::new(),
            }),
            reads: AtomicU64::new(0),
            started: seconds_since_1970(),
        })
    }

    /// Answers until `stop`.
    ///
    /// # Errors
    /// When a socket fails.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        control: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let engines = Router::new()
            .route("/metrics", get(metrics_page))
            .route("/health", get(|| async { StatusCode::OK }))
            .fallback(|| async { Json(json!({ "choices": [] })) })
            .with_state(self.clone());
        let engines = axum::serve(
            NoDelay(listener),
            engines.into_make_service_with_connect_info::<EngineAddress>(),
        );
        tokio::select! {
            served = engines.into_future() => served,
            served = axum::serve(control, self.control()).into_future() => served,
            () = stop => Ok(()),
        }
    }

    fn control(self: Arc<Self>) -> Router {
        Router::new()
            .route("/depths", put(set_depths))
            .route("/page-size/{size}", put(set_page_size))
            .route("/reads", get(count_reads))
            .with_state(self)
    }

    fn lock(&self) -> MutexGuard<'_, Engines> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, address: IpAddr) -> Bytes {
        let now = Instant::now();
        let mut engines = self.lock();
        let size = engines.size;
        let engine = engines.by_address.entry(address);
        let engine = engine.or_insert_with(|| Engine::new(address, now));
        engine.page(size, self.started, now)
    }
}

fn seconds_since_1970() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

async fn metrics_page(
    State(fleet): State<Arc<Fleet>>,
    ConnectInfo(EngineAddress(address)): ConnectInfo<EngineAddress>,
) -> Response {
    fleet.reads.fetch_add(1, Ordering::Relaxed);
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], fleet.page(address)).into_response()
}

/// Sets the queue depths of these addresses at once; others keep theirs. Answers with the time, in
/// seconds since 1970.
async fn set_depths(
    State(fleet): State<Arc<Fleet>>,
    Json(depths): Json<HashMap<IpAddr, u64>>,
) -> Json<Value> {
    let now = Instant::now();
    let mut engines = fleet.lock();
    for (address, depth) in depths {
        let engine = engines.by_address.entry(address);
        let engine = engine.or_insert_with(|| Engine::new(address, now));
        engine.set_depth(depth, now);
    }
    Json(json!({ "at": seconds_since_1970() }))
}

async fn set_page_size(State(fleet): State<Arc<Fleet>>, Path(size): Path<String>) -> StatusCode {
    let Ok(size) = clap::ValueEnum::from_str(&size, false) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut engines = fleet.lock();
    engines.size = size;
    for engine in engines.by_address.values_mut() {
        engine.idle_page = None;
    }
    StatusCode::NO_CONTENT
}

/// How often a page was read since the start.
async fn count_reads(State(fleet): State<Arc<Fleet>>) -> Json<Value> {
    Json(json!({ "reads": fleet.reads.load(Ordering::Relaxed) }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 200, 0, last).into()
    }

    #[test]
    fn an_idle_engine_changes_nothing_and_a_busy_one_writes_tokens() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut engine = Engine::new(address(1), start);
        let before = engine.figures(0.0, start);
        assert_eq!(engine.figures(0.0, at(60)), before);
        engine.set_depth(5, at(60));
        let busy = engine.figures(0.0, at(70));
        assert_eq!((busy.running, busy.waiting), (3, 2));
        assert_eq!(busy.tokens - before.tokens, 1000);
        engine.set_depth(0, at(70));
        let after = engine.figures(0.0, at(500));
        assert_eq!((after.running, after.waiting), (0, 0));
        assert_eq!((after.tokens, after.ended), (busy.tokens, busy.ended));
    }

    #[test]
    fn the_page_of_an_idle_engine_is_made_anew_when_its_queue_grows() {
        let fleet = Fleet::new(PageSize::Small);
        let idle = fleet.page(address(1));
        assert_eq!(fleet.page(address(1)), idle);
        assert_ne!(fleet.page(address(2)), idle, "each has counters of its own");
        let mut engines = fleet.lock();
        let engine = engines.by_address.get_mut(&address(1)).unwrap();
        engine.set_depth(8, Instant::now());
        drop(engines);
        assert_ne!(fleet.page(address(1)), idle);
    }
}
