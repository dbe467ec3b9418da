//! The demand stream, for the controller alone, whose token the API server reviews.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bursar_runtime::access::bearer;
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::demand::DemandTracker;

/// The audience that the controller's token must have.
const AUDIENCE: &str = "bursar-gateway";
const TOKEN_REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// A token with more bytes is nobody's.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// So many reviews at the same time, each with its turn for so long at least: 40 a second. Whoever reaches this
/// port with guesses must not use up what gateways may ask of the API server.
const MAX_REVIEWS: usize = 4;
const TURN: Duration = Duration::from_millis(100);
/// So long after the end of its stream the controller comes back without a review, past all who wait for one.
const RETURN_WITHIN: Duration = Duration::from_secs(120);

/// Who may read the counts, and the counts.
#[derive(Clone)]
pub(crate) struct DemandServer {
    /// Reviews tokens.
    client: kube::Client,
    /// The user who may read the stream.
    controller_user: String,
    demand: DemandTracker,
    turns: Arc<Semaphore>,
    last_granted: Arc<Mutex<Option<(String, Instant)>>>,
}

/// A token with which a stream is read. It is remembered when that ends.
struct GrantedToken {
    token: String,
    last_granted: Arc<Mutex<Option<(String, Instant)>>>,
}

impl Drop for GrantedToken {
    fn drop(&mut self) {
        let token = std::mem::take(&mut self.token);
        let mut last = self
            .last_granted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some((token, Instant::now()));
    }
}

/// `/v1/demand`: a line of JSON for each change, without end.
pub(crate) fn routes(server: DemandServer) -> Router {
    Router::new()
        .route("/v1/demand", get(demand))
        .with_state(Arc::new(server))
}

async fn demand(State(server): State<Arc<DemandServer>>, headers: HeaderMap) -> Response {
    let Some(token) = bearer(&headers, AUTHORIZATION.as_str()) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let granted = match server.check(token).await {
        Ok(granted) => granted,
        Err(status) => return status.into_response(),
    };
    let subscribed = (server.demand.subscribe(), granted);
    let lines = stream::unfold(subscribed, |(mut subscription, granted)| async {
        let message = subscription.next().await;
        let mut line = serde_json::to_vec(&message).unwrap_or_default();
        line.push(b'\n');
        let next = (subscription, granted);
        Some((Ok::<_, Infallible>(Bytes::from(line)), next))
    });
    Body::from_stream(lines).into_response()
}

impl DemandServer {
    /// A server that reviews tokens with this client, and streams to this user alone.
    pub(crate) fn new(
        client: kube::Client,
        controller_user: String,
        demand: DemandTracker,
    ) -> Self {
        Self {
            client,
            controller_user,
            demand,
            turns: Arc::new(Semaphore::new(MAX_REVIEWS)),
            last_granted: Arc::default(),
        }
    }

    /// Whether the stream may be read with this token.
    ///
    /// # Errors
    /// The status that says why not, or that it is not known in time.
    async fn check(&self, token: &str) -> Result<GrantedToken, StatusCode> {
        let granted = || GrantedToken {
            token: token.to_owned(),
            last_granted: Arc::clone(&self.last_granted),
        };
        if token.len() > MAX_TOKEN_BYTES {
            return Err(StatusCode::FORBIDDEN);
        }
        if self.is_back(token) {
            return Ok(granted());
        }
        let reviewed = async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
            let end = Instant::now() + TURN;
            let status = review(&self.client, token.to_owned(), &self.controller_user).await;
            tokio::spawn(async move {
                tokio::time::sleep_until(end).await;
                drop(turn);
            });
            Some(status)
        };
        let status = tokio::time::timeout(TOKEN_REVIEW_TIMEOUT, reviewed).await;
        match status.ok().flatten() {
            Some(StatusCode::OK) => Ok(granted()),
            Some(status) => Err(status),
            None => Err(StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    /// Whether the last stream was read with this token, and has just ended.
    fn is_back(&self, token: &str) -> bool {
        let last = self
            .last_granted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .is_some_and(|(known, at)| known == token && at.elapsed() < RETURN_WITHIN)
    }
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
    let status = match api.create(&params, &review).await {
        Ok(review) => review.status.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "cannot review a token");
            return StatusCode::SERVICE_UNAVAILABLE;
        }
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

#[cfg(test)]
mod tests {
    use bursar_apitest::Server;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::metrics::Metrics;

    const CONTROLLER: &str = "system:serviceaccount:bursar-system:bursar-controller";

    fn server() -> (Server, DemandServer) {
        let server = Server::new(&["bursar-system"]);
        server.add_user(CONTROLLER, "token-of-the-controller");
        server.add_user("system:serviceaccount:team:default", "token-of-a-tenant");
        let metrics = Metrics::new(&mut Registry::default());
        let demand = DemandTracker::new("gateway", metrics);
        let gateway = DemandServer::new(server.client(), CONTROLLER.to_owned(), demand);
        (server, gateway)
    }

    #[tokio::test]
    async fn the_demand_stream_is_for_the_controller_alone() {
        let (_server, gateway) = server();
        assert!(gateway.check("token-of-the-controller").await.is_ok());
        let long = "x".repeat(MAX_TOKEN_BYTES + 1);
        for token in ["token-of-a-tenant", "guess", &long] {
            let refused = gateway.check(token).await.err();
            assert_eq!(refused, Some(StatusCode::FORBIDDEN), "{token:.20}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_tokens_has_few_reviewed_and_keeps_the_controller_from_nothing() {
        let (server, gateway) = server();
        let stream = gateway.check("token-of-the-controller").await.ok();
        assert!(stream.is_some());
        let before = server.token_reviews();
        for number in 0..1_000 {
            let gateway = gateway.clone();
            tokio::spawn(async move { drop(gateway.check(&format!("guess-{number}")).await) });
        }
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        let reviewed = server.token_reviews() - before;
        assert!((30..=44).contains(&reviewed), "{reviewed}");
        // its connection breaks in the middle of that
        drop(stream);
        let begin = Instant::now();
        assert!(gateway.check("token-of-the-controller").await.is_ok());
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_reviewed_anew_when_its_stream_has_ended_for_long() {
        let (server, gateway) = server();
        drop(gateway.check("token-of-the-controller").await);
        let reviewed = server.token_reviews();
        tokio::time::sleep(RETURN_WITHIN).await;
        assert!(gateway.check("token-of-the-controller").await.is_ok());
        assert_eq!(server.token_reviews(), reviewed + 1);
    }
}
