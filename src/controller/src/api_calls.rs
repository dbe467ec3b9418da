//! Calls to the API server: each has a time limit, and its error names the call.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use bursar_api::names::{FIELD_MANAGER, SPEC_HASH_ANNOTATION};

const LIMIT: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Somebody else wrote first; the next look sees it.
    #[error("{call}: the object has changed since it was read")]
    Conflict {
        /// The call.
        call: &'static str,
    },
    /// There is an object of that name already.
    #[error("{call}: there is an object of that name already")]
    AlreadyExists {
        /// The call.
        call: &'static str,
    },
    /// The object is not there any more.
    #[error("{call}: there is no such object any more")]
    Gone {
        /// The call.
        call: &'static str,
    },
    /// The API server's answer.
    #[error("{call}: {source}")]
    Api {
        /// The call.
        call: &'static str,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("{call}: no answer within {} s", LIMIT.as_secs())]
    Slow {
        /// The call.
        call: &'static str,
    },
    /// The owned object cannot be read, so nothing is written to it.
    #[error("{kind} {name} cannot be read: {why}")]
    Unreadable {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// The field and the fault.
        why: String,
    },
    /// Somebody edits an owned object as often as it is put back.
    #[error(
        "{by} edits {kind} {name} again each time that it is put back: let {by} edit the workload instead"
    )]
    Edited {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// The field manager.
        by: String,
    },
    /// The target of a targetRef must not be scaled.
    #[error("{why}")]
    NotScalable {
        /// Why, and what helps.
        why: String,
    },
    /// No key could be made for a job's ssh connections.
    #[error("the operating system gave no randomness for the ssh key of the job")]
    NoRandomness,
    /// An object of that name belongs to somebody else.
    #[error("{kind} {name} exists and is not Bursar's: rename it or the workload")]
    Foreign {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
    },
}

impl ApiError {
    /// True if somebody wrote or made it first, or removed the object: the next look sees it.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(
            self,
            Self::Conflict { .. } | Self::AlreadyExists { .. } | Self::Gone { .. }
        )
    }

    /// True if RBAC refuses the call.
    pub(crate) fn is_forbidden(&self) -> bool {
        let Self::Api { source, .. } = self else {
            return false;
        };
        matches!(&**source, kube::Error::Api(status) if status.code == 403)
    }

    /// How soon the call may be tried again.
    pub(crate) fn retry_pace(&self) -> RetryPace {
        match self {
            Self::Conflict { .. } | Self::AlreadyExists { .. } | Self::Gone { .. } => {
                RetryPace::STALE
            }
            Self::Foreign { .. }
            | Self::Unreadable { .. }
            | Self::Edited { .. }
            | Self::NotScalable { .. } => RetryPace::FOREIGN,
            Self::Slow { .. } | Self::NoRandomness => RetryPace::OVERLOADED,
            // 408 and 429 ask for patience; other codes from 400 to 499 refuse the content itself
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status)
                    if (400..500).contains(&status.code) && !matches!(status.code, 408 | 429) =>
                {
                    RetryPace::REFUSED
                }
                _ => RetryPace::OVERLOADED,
            },
        }
    }
}

/// How soon a failed call may be tried again: the wait doubles with each failure in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryPace {
    /// The wait after the first failure.
    pub(crate) first: Duration,
    /// The longest wait.
    pub(crate) most: Duration,
}

impl RetryPace {
    /// The caches are late, and soon show what is there.
    pub(crate) const STALE: Self = Self::new(100, 10_000);
    /// The API server or the network is slow or does not work.
    pub(crate) const OVERLOADED: Self = Self::new(1_000, 60_000);
    /// The API server refuses the object: a quota, a permission, a value.
    pub(crate) const REFUSED: Self = Self::new(30_000, 300_000);
    /// A person has to rename or repair an object.
    pub(crate) const FOREIGN: Self = Self::new(60_000, 60_000);

    const fn new(first: u64, most: u64) -> Self {
        Self {
            first: Duration::from_millis(first),
            most: Duration::from_millis(most),
        }
    }
}

/// Why what a workload owns is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Unapplied {
    /// The first call that failed.
    pub(crate) error: ApiError,
    /// The order was carried out all the same.
    pub(crate) order_done: bool,
    /// Everything else that the workload owns is as it should be.
    pub(crate) is_aside: bool,
}

impl Unapplied {
    /// The order was not carried out.
    pub(crate) fn before_order(error: ApiError) -> Self {
        Self {
            error,
            order_done: false,
            is_aside: false,
        }
    }

    /// The order was carried out before.
    pub(crate) fn after_order(error: ApiError) -> Self {
        Self {
            error,
            order_done: true,
            is_aside: false,
        }
    }

    /// Nothing else failed, and what failed holds nothing else up.
    pub(crate) fn aside(error: ApiError) -> Self {
        Self {
            error,
            order_done: true,
            is_aside: true,
        }
    }
}

/// Runs a call within the time limit.
pub(crate) async fn with_timeout<T>(
    call: &'static str,
    future: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
            // a quota that another write is counted in meanwhile is a 409 too, and a try later may do
            Err(match status.reason.as_str() {
                "AlreadyExists" => ApiError::AlreadyExists { call },
                _ => ApiError::Conflict { call },
            })
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(ApiError::Gone { call }),
        Ok(Err(source)) => Err(ApiError::Api {
            call,
            source: Box::new(source),
        }),
        Err(_) => Err(ApiError::Slow { call }),
    }
}

/// Applies an owned object if it differs from the one that was found. The write names the version
/// that was read, so a former leader overwrites nothing. `same` compares what the hash leaves out.
///
/// # Errors
/// The first call that failed. [`ApiError::Foreign`] if the object of that name has another owner,
/// also where caches do not show it because it lacks Bursar's labels.
pub(crate) async fn apply_if_changed<K>(
    api: &Api<K>,
    found: Option<&K>,
    mut wanted: K,
    same: impl Fn(&K) -> bool,
) -> Result<bool, ApiError>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let name = wanted.name_any();
    let Some(found) = found else {
        return create(api, &wanted).await.map(|()| true);
    };
    if owner(found) != owner(&wanted) {
        return Err(foreign::<K>(name));
    }
    if found.meta().deletion_timestamp.is_some() || (is_as_asked(found, &wanted) && same(found)) {
        return Ok(false);
    }
    wanted.meta_mut().uid = found.uid();
    wanted.meta_mut().resource_version = found.resource_version();
    with_timeout(
        "apply",
        api.patch(
            &name,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(&wanted),
        ),
    )
    .await?;
    Ok(true)
}

/// Whether an owned object is as `wanted` asks, but for what the hash leaves out.
pub(crate) fn is_as_asked<K: Resource>(found: &K, wanted: &K) -> bool {
    let hash = |object: &K| object.annotations().get(SPEC_HASH_ANNOTATION).cloned();
    let is_there = found.meta().deletion_timestamp.is_none();
    is_there && owner(found) == owner(wanted) && hash(found) == hash(wanted)
}

/// Tells an owned Deployment that is otherwise as asked another number of replicas. The API server
/// does less for it than for an object that is applied, and a thousand Deployments may be told at
/// once. The write names the version that was read. Returns its metadata.
///
/// # Errors
/// The call failed.
pub(crate) async fn patch_replicas(
    api: &Api<Deployment>,
    found: &Deployment,
    replicas: u32,
) -> Result<ObjectMeta, ApiError> {
    let metadata = json!({"uid": found.uid(), "resourceVersion": found.resource_version()});
    let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"replicas": replicas}}));
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let name = found.name_any();
    let patched = api.patch_metadata(&name, &params, &patch);
    let patched = with_timeout("patch replicas", patched).await?;
    Ok(patched.metadata)
}

/// Creates an owned object that no cache shows.
///
/// # Errors
/// The first call that failed. [`ApiError::Foreign`] if an object of that name has another owner.
pub(crate) async fn create<K>(api: &Api<K>, wanted: &K) -> Result<(), ApiError>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let created = with_timeout("create", api.create(&params, wanted)).await;
    let Err(conflict @ ApiError::AlreadyExists { .. }) = created else {
        return created.map(drop);
    };
    // there is one of that name: the caches are late, or they never show it, since they select by label
    let name = wanted.name_any();
    let Some(live) = with_timeout("get", api.get_opt(&name)).await? else {
        return Err(conflict);
    };
    if owner(&live) != owner(wanted) {
        return Err(foreign::<K>(name));
    }
    if !is_shown(live.labels(), wanted.labels()) {
        // somebody took the labels off; once they are back, the caches show the object
        let metadata = json!({
            "uid": live.uid(),
            "resourceVersion": live.resource_version(),
            "labels": wanted.labels(),
        });
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let params = PatchParams::default();
        with_timeout("patch labels", api.patch_metadata(&name, &params, &patch)).await?;
    }
    Err(conflict)
}

/// UID of the controlling owner.
fn owner<K: Resource>(object: &K) -> Option<&str> {
    let owners = object.meta().owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    controllers.next().map(|owner| owner.uid.as_str())
}

fn foreign<K: Resource<DynamicType = ()>>(name: String) -> ApiError {
    ApiError::Foreign {
        kind: K::kind(&()).into_owned(),
        name,
    }
}

/// Whether `found` has everything that `wanted` has. Fields that the API server adds do not count,
/// and a missing list, an empty one and null are equal: the API server drops empty lists of its
/// own kinds.
pub(crate) fn is_shown(found: &impl Serialize, wanted: &impl Serialize) -> bool {
    match (serde_json::to_value(found), serde_json::to_value(wanted)) {
        (Ok(found), Ok(wanted)) => contains(&found, &wanted),
        _ => false,
    }
}

fn contains(found: &Value, wanted: &Value) -> bool {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match (found, wanted) {
        (found, wanted) if is_empty(wanted) => is_empty(found),
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(field, wanted)| contains(found.get(field).unwrap_or(&Value::Null), wanted)),
        (Value::Array(found), Value::Array(wanted)) => {
            let mut pairs = found.iter().zip(wanted);
            found.len() == wanted.len() && pairs.all(|(found, wanted)| contains(found, wanted))
        }
        (found, wanted) => found == wanted,
    }
}

#[cfg(test)]
mod tests {
    use bursar_apitest::Server;
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    /// A Service `chat` with this owner and these labels.
    fn service(owner: &str, labels: Value) -> Service {
        let owner = json!({"apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment", "name": "chat", "uid": owner, "controller": true});
        serde_json::from_value(json!({
            "metadata": {"name": "chat", "labels": labels, "ownerReferences": [owner]},
            "spec": {"ports": [{"port": 80}]},
        }))
        .unwrap()
    }

    /// What becomes of our Service when `there` is on the server and no cache shows it.
    async fn apply_unseen(there: &Service) -> (ApiError, Service, Service) {
        let server = Server::new(&["team"]);
        let api: Api<Service> = Api::namespaced(server.client(), "team");
        let before = api.create(&PostParams::default(), there).await.unwrap();
        let wanted = service("ours", json!({"bursar.dev/workload": "chat"}));
        let applied = apply_if_changed(&api, None, wanted, |_| true).await;
        (applied.unwrap_err(), before, api.get("chat").await.unwrap())
    }

    #[tokio::test]
    async fn an_object_of_somebody_else_that_no_cache_shows_is_foreign() {
        let bare = serde_json::from_value(json!({"metadata": {"name": "chat"}})).unwrap();
        for there in [service("theirs", json!({})), bare] {
            let (error, before, after) = apply_unseen(&there).await;
            assert!(matches!(error, ApiError::Foreign { .. }), "{error}");
            assert_eq!(error.retry_pace(), RetryPace::FOREIGN);
            assert_eq!(before, after);
        }
    }

    #[tokio::test]
    async fn our_own_object_that_no_cache_shows_yet_is_a_conflict() {
        let labels = json!({"bursar.dev/workload": "chat", "more": "labels"});
        let (error, before, after) = apply_unseen(&service("ours", labels)).await;
        assert!(error.is_stale(), "{error}");
        assert_eq!(before, after);
    }

    #[tokio::test]
    async fn our_own_object_without_our_labels_gets_them_back_so_that_caches_show_it() {
        let (error, _, after) = apply_unseen(&service("ours", json!({"more": "labels"}))).await;
        assert!(error.is_stale(), "{error}");
        let labels = [("bursar.dev/workload", "chat"), ("more", "labels")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(after.metadata.labels, Some(labels.into()));
    }

    #[tokio::test]
    async fn replicas_alone_are_patched_at_the_version_that_was_read() {
        let server = Server::new(&["team"]);
        let api: Api<Deployment> = Api::namespaced(server.client(), "team");
        let pod = json!({"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let spec =
            json!({"replicas": 1, "selector": {"matchLabels": {"app": "chat"}}, "template": pod});
        let there = json!({"metadata": {"name": "chat"}, "spec": spec});
        let there = serde_json::from_value(there).unwrap();
        let read = api.create(&PostParams::default(), &there).await.unwrap();
        patch_replicas(&api, &read, 3).await.unwrap();
        let mut now = api.get("chat").await.unwrap();
        assert_eq!(now.spec.replicas.replace(1), Some(3));
        assert_eq!(now.spec, read.spec, "nothing else");
        let stale = patch_replicas(&api, &read, 5).await.unwrap_err();
        assert!(matches!(stale, ApiError::Conflict { .. }), "{stale}");
        let now = api.get("chat").await.unwrap();
        assert_eq!(now.spec.replicas, Some(3));
    }

    #[test]
    fn a_missing_list_and_an_empty_one_are_equal_and_fields_of_the_server_do_not_count() {
        let shown = |found: Value, wanted: Value| is_shown(&found, &wanted);
        assert!(shown(json!(null), json!([])));
        assert!(shown(json!([]), json!(null)));
        assert!(shown(json!({"a": 1}), json!({"a": 1, "list": []})));
        assert!(shown(json!({"a": 1, "added": true}), json!({"a": 1})));
        assert!(!shown(json!([1]), json!([])));
        assert!(!shown(json!([]), json!([1])));
        assert!(!shown(json!([1, 2]), json!([1])));
        assert!(!shown(json!({"a": 2}), json!({"a": 1})));
        assert!(!shown(json!({}), json!({"a": 1})));
        assert!(!shown(json!({"a": 0}), json!({"a": []})));
    }

    #[test]
    fn what_time_does_not_heal_waits_longer_than_what_it_heals() {
        let call = "create";
        let answer = |code: u16| ApiError::Api {
            call,
            source: Box::new(kube::Error::Api(Box::new(kube::core::Status {
                code,
                ..Default::default()
            }))),
        };
        let pace = |error: ApiError| error.retry_pace();
        assert_eq!(pace(ApiError::Conflict { call }), RetryPace::STALE);
        assert_eq!(pace(ApiError::Slow { call }), RetryPace::OVERLOADED);
        for (code, expected) in [
            (400, RetryPace::REFUSED),
            (403, RetryPace::REFUSED),
            (422, RetryPace::REFUSED),
            (429, RetryPace::OVERLOADED),
            (500, RetryPace::OVERLOADED),
            (503, RetryPace::OVERLOADED),
        ] {
            assert_eq!(pace(answer(code)), expected, "{code}");
        }
        let name = String::new();
        let kind = String::new();
        assert_eq!(pace(ApiError::Foreign { kind, name }), RetryPace::FOREIGN);
    }
}
