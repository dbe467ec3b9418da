//! Calls to the API server: each has a time limit, and its error names the call.

use std::future::Future;
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

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
    /// True if somebody wrote first, or removed the object: the next look sees it.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::Gone { .. })
    }
}

/// Runs a call within the time limit.
pub(crate) async fn with_timeout<T>(
    call: &'static str,
    future: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(ApiError::Conflict { call }),
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
        with_timeout(
            "create",
            api.create(
                &PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..Default::default()
                },
                &wanted,
            ),
        )
        .await?;
        return Ok(true);
    };
    let owner = |object: &K| {
        object
            .owner_references()
            .iter()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| owner.uid.clone())
    };
    if owner(found) != owner(&wanted) {
        return Err(ApiError::Foreign {
            kind: K::kind(&()).into_owned(),
            name,
        });
    }
    let hash = |object: &K| object.annotations().get(SPEC_HASH_ANNOTATION).cloned();
    if found.meta().deletion_timestamp.is_some() || (hash(found) == hash(&wanted) && same(found)) {
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
