//! Who may read what: the API server reviews the caller's token (TokenReview) and says whether RBAC
//! grants the right (SubjectAccessReview).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use tokio::sync::Semaphore;
use tokio::time::Instant;

const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// So long a right that was taken from somebody may still be used.
const GRANTED_TTL: Duration = Duration::from_secs(120);
/// So long a right that was given to somebody may not be used yet.
const REFUSED_TTL: Duration = Duration::from_secs(10);
/// A token with more bytes is nobody's.
const MAX_TOKEN_LEN: usize = 16 * 1024;
const MAX_CACHED: usize = 1024;
/// So many reviews at the same time, each with its turn for so long at least: 40 a second. Strangers
/// who send tokens must not use up what the process may ask of the API server.
const MAX_REVIEWS: usize = 4;
const TURN: Duration = Duration::from_millis(100);

/// What a caller must be allowed to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Right {
    /// To get a path that is no object, such as `/metrics`: `nonResourceURLs` of a ClusterRole.
    GetPath(&'static str),
    /// To get objects of a kind in a namespace.
    Get {
        /// The kind's API group.
        group: &'static str,
        /// The kind's plural.
        resource: &'static str,
        /// The namespace.
        namespace: String,
    },
}

impl Right {
    /// The right in words, as in "may not ...".
    fn in_words(&self) -> String {
        match self {
            Self::GetPath(path) => format!("get {path}"),
            Self::Get {
                group,
                resource,
                namespace,
            } => format!("get {resource}.{group} in namespace {namespace}"),
        }
    }
}

/// Why somebody gets no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request has no token.
    #[error("send a token of this cluster: \"Authorization: Bearer TOKEN\"")]
    NoToken,
    /// The API server does not know the token.
    #[error("the API server does not know this token, or it has expired")]
    UnknownToken,
    /// RBAC does not grant the right.
    #[error("{user} may not {right}")]
    Forbidden {
        /// The user's name.
        user: String,
        /// The right in words.
        right: String,
    },
    /// The API server did not say.
    #[error("the API server cannot review the token now: {0}")]
    Unavailable(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let text = format!("{self}\n");
        match self {
            Self::NoToken | Self::UnknownToken => {
                let challenge = [(WWW_AUTHENTICATE, "Bearer")];
                (StatusCode::UNAUTHORIZED, challenge, text).into_response()
            }
            Self::Forbidden { .. } => (StatusCode::FORBIDDEN, text).into_response(),
            Self::Unavailable(_) => {
                let later = [(RETRY_AFTER, "5")];
                (StatusCode::SERVICE_UNAVAILABLE, later, text).into_response()
            }
        }
    }
}

type Verdict = Result<(), Refusal>;
type Verdicts = HashMap<(String, Right), (Verdict, Instant)>;

/// Asks the API server who may do what, and remembers its answers for a short time.
#[derive(Clone)]
pub struct AccessReviewer {
    client: kube::Client,
    proxied_authorization: &'static str,
    verdicts: Arc<Mutex<Verdicts>>,
    turns: Arc<Semaphore>,
}

impl AccessReviewer {
    /// A reviewer that asks with this client, whose user must be allowed to create TokenReviews and
    /// SubjectAccessReviews. The API server's proxy takes `Authorization` for itself, so a caller behind
    /// it sends the same in the header `proxied_authorization`.
    #[must_use]
    pub fn new(client: kube::Client, proxied_authorization: &'static str) -> Self {
        Self {
            client,
            proxied_authorization,
            verdicts: Arc::default(),
            turns: Arc::new(Semaphore::new(MAX_REVIEWS)),
        }
    }

    /// Whether the sender of a request with these headers has the right.
    ///
    /// # Errors
    /// Says why it has not, or why that is not known.
    pub async fn check(&self, headers: &HeaderMap, right: Right) -> Result<(), Refusal> {
        let proxied = bearer(headers, self.proxied_authorization);
        let token = proxied
            .or_else(|| bearer(headers, AUTHORIZATION.as_str()))
            .ok_or(Refusal::NoToken)?;
        if token.len() > MAX_TOKEN_LEN {
            return Err(Refusal::UnknownToken);
        }
        let key = (token.to_owned(), right);
        if let Some(verdict) = self.remembered(&key) {
            return verdict;
        }
        let review = async {
            let turn = Arc::clone(&self.turns).acquire_owned().await;
            let turn = turn.map_err(|error| Refusal::Unavailable(error.to_string()))?;
            let end = Instant::now() + TURN;
            let verdict = self.review(&key.0, &key.1).await;
            tokio::spawn(async move {
                tokio::time::sleep_until(end).await;
                drop(turn);
            });
            verdict
        };
        let too_long = format!("no answer within {} s", REVIEW_TIMEOUT.as_secs());
        let verdict = tokio::time::timeout(REVIEW_TIMEOUT, review)
            .await
            .unwrap_or(Err(Refusal::Unavailable(too_long)));
        self.remember(key, &verdict);
        verdict
    }

    async fn review(&self, token: &str, right: &Right) -> Verdict {
        let user = self.user(token).await?;
        if self.is_granted(&user, right).await? {
            return Ok(());
        }
        Err(Refusal::Forbidden {
            user: user.username.unwrap_or_default(),
            right: right.in_words(),
        })
    }

    async fn user(&self, token: &str) -> Result<UserInfo, Refusal> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let status = answer.map_err(|error| unavailable(&error))?.status;
        let status = status.filter(|status| status.authenticated == Some(true));
        status
            .and_then(|status| status.user)
            .ok_or(Refusal::UnknownToken)
    }

    async fn is_granted(&self, user: &UserInfo, right: &Right) -> Result<bool, Refusal> {
        let verb = Some("get".to_owned());
        let mut spec = SubjectAccessReviewSpec {
            user: user.username.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            ..SubjectAccessReviewSpec::default()
        };
        match right {
            Right::GetPath(path) => {
                spec.non_resource_attributes = Some(NonResourceAttributes {
                    path: Some((*path).to_owned()),
                    verb,
                });
            }
            Right::Get {
                group,
                resource,
                namespace,
            } => {
                spec.resource_attributes = Some(ResourceAttributes {
                    group: Some((*group).to_owned()),
                    resource: Some((*resource).to_owned()),
                    namespace: Some(namespace.clone()),
                    verb,
                    ..ResourceAttributes::default()
                });
            }
        }
        let review = SubjectAccessReview {
            spec,
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let status = answer.map_err(|error| unavailable(&error))?.status;
        Ok(status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }

    fn remembered(&self, key: &(String, Right)) -> Option<Verdict> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let (verdict, until) = verdicts.get(key)?;
        (Instant::now() < *until).then(|| verdict.clone())
    }

    fn remember(&self, key: (String, Right), verdict: &Verdict) {
        let ttl = match verdict {
            Ok(()) => GRANTED_TTL,
            Err(Refusal::Unavailable(_)) => return,
            Err(_) => REFUSED_TTL,
        };
        let now = Instant::now();
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= MAX_CACHED {
            verdicts.retain(|_, (_, until)| now < *until);
        }
        if verdicts.len() >= MAX_CACHED {
            // a flood of unknown tokens pushes out only what was refused
            verdicts.retain(|_, (verdict, _)| verdict.is_ok());
        }
        if verdicts.len() < MAX_CACHED {
            verdicts.insert(key, (verdict.clone(), now + ttl));
        }
    }
}

/// The token in a header of a request, if it has one.
#[must_use]
pub fn bearer<'a>(headers: &'a HeaderMap, header: &str) -> Option<&'a str> {
    let (scheme, token) = headers.get(header)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn unavailable(error: &kube::Error) -> Refusal {
    tracing::warn!(%error, "cannot review a token");
    Refusal::Unavailable("its answer was an error".to_owned())
}

#[cfg(test)]
mod tests;
