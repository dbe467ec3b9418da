//! Asks the leader for its last decision over a namespace; where that is not possible, reads the
//! object's status.

use std::fmt::Debug;
use std::time::Duration;

use bursar_api::explanation::{self, Explanation, NOT_LEADING, SECURE_SERVICE};
use bursar_api::names::PROXIED_AUTHORIZATION;
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use http::HeaderValue;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::object::{ObjectKind, ObjectRef};
use crate::client::api_error;

/// A leader that does not answer must not keep the object's status from being printed.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);
const API_TIMEOUT: Duration = Duration::from_secs(15);
/// With three controllers, so many random tries miss the leader once in 3,000 times.
const MAX_QUESTIONS: usize = 20;

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("there is no {kind} {name} in namespace {namespace}", kind = .object.kind.as_str(), name = .object.name)]
    Missing {
        object: ObjectRef,
        namespace: String,
    },
    #[error("reading {kind} {name}: {why}", kind = .object.kind.as_str(), name = .object.name)]
    Unreadable { object: ObjectRef, why: String },
}

/// Why the leader's decision is not known.
#[derive(Debug, thiserror::Error)]
enum LeaderError {
    #[error("asking the leader: {0}")]
    Request(String),
    #[error("no controller leads: each that was asked waits to lead")]
    NoLeader,
    #[error(
        "the leader answers callers with a token, and the kubeconfig has none: \
         --token \"$(kubectl create token NAME -n NAMESPACE)\""
    )]
    NoToken,
    #[error("the leader's last decision does not name it")]
    NotDecided,
    #[error("the leader did not answer within {} s", LEADER_TIMEOUT.as_secs())]
    Timeout,
}

/// The source of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The leader's last decision over the whole namespace.
    Decision(Explanation),
    /// The object, and why it is not the leader's decision.
    Status { object: StoredObject, cause: String },
}

/// An object that the API server holds.
#[derive(Debug, Clone)]
pub(crate) enum StoredObject {
    Service(Box<InferenceDeployment>),
    Job(Box<TrainingJob>),
    Budget(Box<BudgetPolicy>),
}

/// The answer about an object.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Which object.
    pub(crate) object: ObjectRef,
    /// Its namespace.
    pub(crate) namespace: String,
    /// The source of the answer.
    pub(crate) source: Source,
}

/// The answer about `object`, from the leader or from its status.
pub(crate) async fn answer(
    client: &Client,
    object: &ObjectRef,
    namespace: String,
    operator_namespace: &str,
    authorization: Option<HeaderValue>,
) -> Result<Answer, Error> {
    let decision = decision(client, operator_namespace, &namespace, authorization);
    let decision = match tokio::time::timeout(LEADER_TIMEOUT, decision).await {
        Ok(Ok(decision)) if names(&decision, object) => Ok(decision),
        Ok(Ok(_)) => Err(LeaderError::NotDecided),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(LeaderError::Timeout),
    };
    let source = match decision {
        Ok(decision) => Source::Decision(decision),
        Err(cause) => Source::Status {
            object: stored(client, object, &namespace).await?,
            cause: cause.to_string(),
        },
    };
    Ok(Answer {
        object: object.clone(),
        namespace,
        source,
    })
}

fn names(decision: &Explanation, object: &ObjectRef) -> bool {
    match object.kind {
        ObjectKind::Service => decision.service(&object.name).is_some(),
        ObjectKind::Job => decision.job(&object.name).is_some(),
        ObjectKind::Budget => decision.budget(&object.name).is_some(),
    }
}

async fn decision(
    client: &Client,
    operator_namespace: &str,
    namespace: &str,
    authorization: Option<HeaderValue>,
) -> Result<Explanation, LeaderError> {
    let authorization = authorization.ok_or(LeaderError::NoToken)?;
    let path = explanation::path(namespace);
    let path =
        format!("/api/v1/namespaces/{operator_namespace}/services/{SECURE_SERVICE}/proxy{path}");
    // the API server passes each question to any of the controllers
    for _ in 0..MAX_QUESTIONS {
        let request = http::Request::get(&path)
            .header(PROXIED_AUTHORIZATION, authorization.clone())
            .body(Vec::new())
            .map_err(|error| LeaderError::Request(error.to_string()))?;
        match client.request_text(request).await {
            Ok(text) => {
                return serde_json::from_str(&text).map_err(|error| {
                    LeaderError::Request(format!("its answer cannot be read: {error}"))
                });
            }
            Err(kube::Error::Api(status)) if status.message.contains(NOT_LEADING) => {}
            Err(error) => return Err(LeaderError::Request(api_error(&error))),
        }
    }
    Err(LeaderError::NoLeader)
}

async fn stored(
    client: &Client,
    object: &ObjectRef,
    namespace: &str,
) -> Result<StoredObject, Error> {
    Ok(match object.kind {
        ObjectKind::Service => StoredObject::Service(get(client, object, namespace).await?),
        ObjectKind::Job => StoredObject::Job(get(client, object, namespace).await?),
        ObjectKind::Budget => StoredObject::Budget(get(client, object, namespace).await?),
    })
}

async fn get<K>(client: &Client, object: &ObjectRef, namespace: &str) -> Result<Box<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let unreadable = |why: String| Error::Unreadable {
        object: object.clone(),
        why,
    };
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let found = match tokio::time::timeout(API_TIMEOUT, api.get_opt(&object.name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            return Err(unreadable(format!(
                "the cluster does not know {}: is Bursar installed?",
                K::plural(&())
            )));
        }
        Ok(Err(error)) => return Err(unreadable(api_error(&error))),
        Err(_) => {
            return Err(unreadable(format!(
                "the API server did not answer within {} s",
                API_TIMEOUT.as_secs()
            )));
        }
    };
    found.map(Box::new).ok_or_else(|| Error::Missing {
        object: object.clone(),
        namespace: namespace.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bursar_api::explanation::ServiceExplanation;

    #[test]
    fn a_decision_names_an_object_only_under_its_own_kind() {
        let decision = Explanation {
            services: vec![ServiceExplanation {
                name: "chat".into(),
                ..ServiceExplanation::default()
            }],
            ..Explanation::default()
        };
        let object = |kind| ObjectRef {
            kind,
            name: "chat".into(),
        };
        assert!(names(&decision, &object(ObjectKind::Service)));
        assert!(!names(&decision, &object(ObjectKind::Job)));
    }
}
