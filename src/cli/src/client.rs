//! Asks the leader for its last decision over a namespace; if that is not possible, reads the object.

use std::{path::PathBuf, time::Duration};

use crate::args::{ExplainArgs, Kind, Object};
use bursar_api::PriceList;
use bursar_api::names::GROUP;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

const LEASE: &str = "bursar-controller";
const ADMIN_PORT: u16 = 8080;
/// A leader that does not answer must not keep the object's status from being printed.
const LEADER_LIMIT: Duration = Duration::from_secs(5);
const API_LIMIT: Duration = Duration::from_secs(15);

/// Why nothing can be printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no cluster to ask: {0}")]
    Config(String),
    #[error("there is no {kind} {name} in namespace {namespace}", kind = .object.kind.as_str(), name = .object.name)]
    Missing { object: Object, namespace: String },
    #[error("reading {kind} {name}: {why}", kind = .object.kind.as_str(), name = .object.name)]
    Unreadable { object: Object, why: String },
}

/// Why the leader's decision is not known.
#[derive(Debug, thiserror::Error)]
enum LeaderError {
    #[error("reading Lease {LEASE} in namespace {namespace}: {why}")]
    Lease { namespace: String, why: String },
    #[error("no controller leads: Lease {LEASE} in namespace {namespace} has no holder")]
    Nobody { namespace: String },
    #[error("asking the leader {pod}: {why}")]
    Silent { pod: String, why: String },
    #[error("the leader's last decision does not name it")]
    Unnamed,
}

/// Where an answer comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The leader's last decision over the whole namespace.
    Decision(Value),
    /// The object, and why it is not the leader's decision.
    Object { object: Value, cause: String },
}

/// What is known of an object.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Which object.
    pub(crate) object: Object,
    /// Its namespace.
    pub(crate) namespace: String,
    /// What is known of it.
    pub(crate) source: Source,
}

/// A client for the cluster that kubectl would talk to.
pub(crate) async fn client(
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
) -> Result<Client, Error> {
    let failed = |error: &dyn std::error::Error| Error::Config(error_chain(error));
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| failed(&error))?
        }
        None if options.context.is_some() => Config::from_kubeconfig(&options)
            .await
            .map_err(|error| failed(&error))?,
        None => Config::infer().await.map_err(|error| failed(&error))?,
    };
    Client::try_from(config).map_err(|error| failed(&error))
}

/// What is known of what was asked.
pub(crate) async fn explain(client: &Client, asked: &ExplainArgs) -> Result<Answer, Error> {
    let namespace = asked
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let decided = match tokio::time::timeout(
        LEADER_LIMIT,
        decision(client, &asked.operator_namespace, &namespace),
    )
    .await
    {
        Ok(Ok(decision)) if names(&decision, &asked.object) => Ok(decision),
        Ok(Ok(_)) => Err(LeaderError::Unnamed.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "the leader did not answer within {} s",
            LEADER_LIMIT.as_secs()
        )),
    };
    let source = match decided {
        Ok(decision) => Source::Decision(decision),
        Err(cause) => Source::Object {
            object: object(client, &asked.object, &namespace).await?,
            cause,
        },
    };
    Ok(Answer {
        object: asked.object.clone(),
        namespace,
        source,
    })
}

/// The list of a decision that names objects of a kind.
pub(crate) fn list(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "services",
        Kind::Job => "jobs",
        Kind::Budget => "budgets",
    }
}

fn names(decision: &Value, object: &Object) -> bool {
    decision[list(object.kind)]
        .as_array()
        .is_some_and(|entries| entries.iter().any(|entry| entry["name"] == object.name))
}

async fn decision(
    client: &Client,
    operator_namespace: &str,
    namespace: &str,
) -> Result<Value, LeaderError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), operator_namespace);
    let lease = leases
        .get(LEASE)
        .await
        .map_err(|error| LeaderError::Lease {
            namespace: operator_namespace.to_owned(),
            why: api_error(&error),
        })?;
    let pod = lease
        .spec
        .and_then(|spec| spec.holder_identity)
        .filter(|holder| !holder.is_empty())
        .ok_or_else(|| LeaderError::Nobody {
            namespace: operator_namespace.to_owned(),
        })?;
    let silent = |why: String| LeaderError::Silent {
        pod: pod.clone(),
        why,
    };
    let path = format!(
        "/api/v1/namespaces/{operator_namespace}/pods/{pod}:{ADMIN_PORT}/proxy/explain/{namespace}"
    );
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(|error| silent(error.to_string()))?;
    let text = client
        .request_text(request)
        .await
        .map_err(|error| silent(api_error(&error)))?;
    serde_json::from_str(&text).map_err(|error| silent(format!("its answer is not JSON: {error}")))
}

async fn object(client: &Client, object: &Object, namespace: &str) -> Result<Value, Error> {
    let unreadable = |why: String| Error::Unreadable {
        object: object.clone(),
        why,
    };
    let kind = GroupVersionKind::gvk(GROUP, "v1alpha1", object.kind.as_str());
    let resource = ApiResource::from_gvk_with_plural(&kind, object.kind.plural());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let found = match tokio::time::timeout(API_LIMIT, api.get_opt(&object.name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            return Err(unreadable(format!(
                "the cluster does not know {}: is Bursar installed?",
                resource.plural
            )));
        }
        Ok(Err(error)) => return Err(unreadable(api_error(&error))),
        Err(_) => {
            return Err(unreadable(format!(
                "the API server did not answer within {} s",
                API_LIMIT.as_secs()
            )));
        }
    };
    let found = found.ok_or_else(|| Error::Missing {
        object: object.clone(),
        namespace: namespace.to_owned(),
    })?;
    serde_json::to_value(found).map_err(|error| unreadable(error.to_string()))
}

/// All PriceLists of the cluster.
pub(crate) async fn price_lists(client: &Client) -> Result<Vec<PriceList>, kube::Error> {
    let api: Api<PriceList> = Api::all(client.clone());
    Ok(api.list(&ListParams::default()).await?.items)
}

/// The API server's own words, or an error with all its causes on one line, none said twice.
pub(crate) fn api_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => {
            format!("{} ({})", status.message.trim(), status.code)
        }
        other => error_chain(other),
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text.trim().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_decision_names_an_object_only_under_its_own_kind() {
        let decision = json!({"services": [{"name": "chat"}], "jobs": [], "budgets": []});
        let object = |kind| Object {
            kind,
            name: "chat".into(),
        };
        assert!(names(&decision, &object(Kind::Service)));
        assert!(!names(&decision, &object(Kind::Job)));
    }
}
