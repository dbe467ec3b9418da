//! The demand stream, for the controller alone, whose token the API server reviews.

use std::convert::Infallible;
use std::sync::Arc;
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

use crate::demand::DemandTracker;

/// The audience that the controller's token must have.
const AUDIENCE: &str = "bursar-gateway";
const TOKEN_REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Who may read the counts, and the counts.
#[derive(Clone)]
pub(crate) struct DemandServer {
    /// Reviews tokens.
    pub(crate) client: kube::Client,
    /// The user who may read the stream.
    pub(crate) controller_user: String,
    pub(crate) demand: DemandTracker,
}

/// `/v1/demand`: a line of JSON for each change, without end.
pub(crate) fn routes(server: DemandServer) -> Router {
    Router::new()
        .route("/v1/demand", get(demand))
        .with_state(Arc::new(server))
}

async fn demand(State(server): State<Arc<DemandServer>>, headers: HeaderMap) -> Response {
    let status = match bearer(&headers, AUTHORIZATION.as_str()) {
        Some(token) => review(&server.client, token.to_owned(), &server.controller_user).await,
        None => StatusCode::UNAUTHORIZED,
    };
    if status != StatusCode::OK {
        return status.into_response();
    }
    let lines = stream::unfold(server.demand.subscribe(), |mut subscription| async {
        let message = subscription.next().await;
        let mut line = serde_json::to_vec(&message).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), subscription))
    });
    Body::from_stream(lines).into_response()
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
