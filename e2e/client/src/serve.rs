//! The HTTP API that controls the load generator.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Deserialize;

use crate::{Answer, Sender, Tally, trace};

#[derive(Debug, Clone)]
struct ServerState {
    sender: Sender,
    speedup: u32,
    checkpoint: Arc<Mutex<Option<Bytes>>>,
}

/// The routes of the HTTP API.
pub fn router(sender: Sender, speedup: u32) -> axum::Router {
    let state = ServerState {
        sender,
        speedup,
        checkpoint: Arc::default(),
    };
    axum::Router::new()
        .route("/tally", get(tally))
        .route("/reachable", get(reachable))
        .route("/replay", post(replay))
        .route("/ask", post(ask))
        .route("/refused", post(refused))
        .route("/checkpoint", get(checkpoint).put(put_checkpoint))
        .with_state(state)
}

async fn tally(State(state): State<ServerState>) -> Json<Tally> {
    Json(state.sender.tally())
}

async fn reachable(State(state): State<ServerState>) -> Result<Json<()>, (StatusCode, String)> {
    let reached = state.sender.reach().await;
    reached
        .map(Json)
        .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
}

#[derive(Deserialize)]
struct Replay {
    requests: u32,
}

async fn replay(
    State(state): State<ServerState>,
    Query(Replay { requests }): Query<Replay>,
) -> Result<StatusCode, (StatusCode, String)> {
    let trace = trace::trace(requests)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    if state.sender.replay(trace, state.speedup) {
        Ok(StatusCode::ACCEPTED)
    } else {
        Err((StatusCode::CONFLICT, "a replay is under way".to_owned()))
    }
}

#[derive(Deserialize)]
struct Ask {
    prompt: u32,
    answer: u32,
}

async fn ask(
    State(state): State<ServerState>,
    Query(Ask { prompt, answer }): Query<Ask>,
) -> Json<Answer> {
    Json(state.sender.ask(prompt, answer).await)
}

async fn refused(State(state): State<ServerState>) -> Json<Answer> {
    Json(state.sender.expect_refusal().await)
}

async fn checkpoint(State(state): State<ServerState>) -> Result<Bytes, StatusCode> {
    let kept = state
        .checkpoint
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    kept.clone().ok_or(StatusCode::NOT_FOUND)
}

async fn put_checkpoint(State(state): State<ServerState>, bytes: Bytes) {
    let mut kept = state
        .checkpoint
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    *kept = Some(bytes);
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tokio::net::TcpListener;
    use tower::ServiceExt;

    use super::*;

    async fn call(router: &axum::Router, method: &str, uri: &str, body: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(uri);
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// A service that answers every request with this status.
    async fn service(status: u16) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let status = StatusCode::from_u16(status).unwrap();
        let answers = axum::Router::new().fallback(move || async move { (status, "so be it") });
        tokio::spawn(async move { axum::serve(listener, answers).await });
        address
    }

    #[tokio::test]
    async fn what_was_asked_is_counted_and_what_is_to_be_refused_is_not() {
        let client = router(Sender::new(&service(429).await), 1);
        let refused = call(&client, "POST", "/refused", "").await;
        assert_eq!(refused, (200, r#"{"Ok":[429,"so be it"]}"#.to_owned()));
        call(&client, "POST", "/ask?prompt=1&answer=1", "").await;
        let (_, text) = call(&client, "GET", "/tally", "").await;
        let tally: Tally = serde_json::from_str(&text).unwrap();
        assert_eq!((tally.sent, tally.by_status.get(&429)), (1, Some(&1)));
    }

    #[tokio::test]
    async fn a_second_replay_waits_for_the_first() {
        let client = router(Sender::new(&service(200).await), 1);
        assert_eq!(call(&client, "GET", "/reachable", "").await.0, 200);
        let replay = || call(&client, "POST", "/replay?requests=50", "");
        assert_eq!(replay().await.0, 202);
        assert_eq!(replay().await.0, 409);
    }

    #[tokio::test]
    async fn a_request_without_an_answer_is_lost() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let client = router(Sender::new(&address), 1);
        assert_eq!(call(&client, "GET", "/reachable", "").await.0, 503);
        call(&client, "POST", "/ask?prompt=1&answer=1", "").await;
        let (_, text) = call(&client, "GET", "/tally", "").await;
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap().lost, 1);
    }

    #[tokio::test]
    async fn the_last_checkpoint_is_kept() {
        let client = router(Sender::new("nowhere:80"), 1);
        assert_eq!(call(&client, "GET", "/checkpoint", "").await.0, 404);
        for text in ["a", "b"] {
            call(&client, "PUT", "/checkpoint", text).await;
        }
        let kept = call(&client, "GET", "/checkpoint", "").await;
        assert_eq!(kept, (200, "b".to_owned()));
    }
}
