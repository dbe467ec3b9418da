//! The Secret and the ConfigMap that the pods of a gang with a launcher mount.
//!
//! Pods mount them by name, and the controller, which may only make such objects, reads none: had somebody else made
//! one of that name before, his script would run in the pods. So nobody can foresee the name. The objects are
//! made before a Job shows it, and the Jobs have it on record for all who lead later. Whoever may delete and make
//! Secrets or ConfigMaps in the namespace can still put others in their place.

use std::sync::Arc;

use bursar_api::TrainingJob;
use bursar_api::names::FIELD_MANAGER;
use bursar_core::model::Key;
use bursar_core::plan::JobOrder;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::{Api, PostParams};
use kube::core::NamespaceResourceScope;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api_calls::{ApiError, with_timeout};
use crate::context::Context;
use crate::lock::lock;
use crate::object_key::ObjectKey;
use crate::pod;
use crate::training::frameworks::{NameSuffix, launcher};
use crate::training::job::{finished, is_replaced, is_running, role_jobs};

/// The files of pods that have not started so long after they got their node may be missing. They are looked
/// at as often.
const START_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);

/// The suffix of a gang's files: of those that its Jobs mount, but for Jobs that are replaced, or a new one.
///
/// # Errors
/// There was no randomness for a new one.
pub(super) fn suffix(
    context: &Context,
    object: &TrainingJob,
    order: Option<&JobOrder>,
) -> Result<NameSuffix, ApiError> {
    let roles = role_jobs(&context.stores, object);
    let on_record = roles.iter().find_map(|found| {
        let job = found.job.as_deref()?;
        let is_replaced = order.is_some_and(|order| is_replaced(order, found.role.name, job));
        NameSuffix::on_record(job).filter(|_| !is_replaced)
    });
    match on_record {
        Some(suffix) => Ok(suffix),
        None => context.launcher_suffixes.suffix(object),
    }
}

/// Makes the files of these names, unless they are there.
///
/// # Errors
/// The first call that failed.
pub(super) async fn create(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    suffix: &NameSuffix,
) -> Result<(), ApiError> {
    if let Some(config_map) = launcher::config_map(object, suffix) {
        create_unless_there(context, key, &config_map).await?;
    }
    if let Some(secret) = launcher::secret(object, suffix)? {
        create_unless_there(context, key, &secret).await?;
    }
    Ok(())
}

/// Makes the files again of a gang that runs, where pods have not started in time: nobody tells that the files
/// are missing. Returns when to look again.
///
/// # Errors
/// The first call that failed.
pub(super) async fn restore(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    now: Timestamp,
) -> Result<Option<Timestamp>, ApiError> {
    if object.spec.launcher().is_none() {
        return Ok(None);
    }
    let roles = role_jobs(&context.stores, object);
    let mut jobs = roles.iter().filter_map(|found| found.job.as_deref());
    if !jobs.any(|job| is_running(job) && finished(job).is_none()) {
        return Ok(None);
    }
    let workload = ObjectKey::Job(key.clone()).workload();
    let pods: Vec<Arc<Pod>> = workload.map_or_else(Vec::new, |workload| {
        lock(&context.index).pods_of(&context.stores.pods, &workload)
    });
    let started = pods.iter().filter(|pod| pod::has_started(pod)).count();
    if u32::try_from(started).is_ok_and(|started| started >= object.spec.workers()) {
        return Ok(None);
    }
    let is_late = |pod: &Arc<Pod>| {
        let bound = pod::bound_at(pod).filter(|_| !pod::has_started(pod));
        bound.is_some_and(|at| now.duration_since(at) >= START_TIMEOUT)
    };
    if pods.iter().any(is_late) {
        let suffix = suffix(context, object, None)?;
        create(context, key, object, &suffix).await?;
    }
    Ok(now.checked_add(START_TIMEOUT).ok())
}

/// What is there cannot be changed, and nobody could foresee its name: it is right, and need not be read.
async fn create_unless_there<K>(context: &Context, key: &Key, object: &K) -> Result<(), ApiError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), &key.namespace);
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match with_timeout("create", api.create(&params, object)).await {
        Ok(_) | Err(ApiError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
