//! TrainingJobs: an Indexed Job for each role and a headless Service each.

pub(crate) mod build;
pub(crate) mod frameworks;
pub(crate) mod job;
mod launcher_files;
pub(crate) mod pod_creation_failures;
pub(crate) mod pod_group;
pub(crate) mod status;

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_api::TrainingJob;
use bursar_api::names::{
    DISRUPTIONS_ANNOTATION, REFUSED_ANNOTATION, RESTART_AT_ANNOTATION, RESTARTS_ANNOTATION,
    RETRIES_ANNOTATION, RETRY_AT_ANNOTATION, RETRY_HAD_ROOM_ANNOTATION,
};
use bursar_api::training::{RoleStatus, Workers};
use bursar_core::model::Key;
use bursar_core::plan::JobOrder;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::api_calls::{ApiError, Unapplied, apply_if_changed, is_as_asked, with_timeout};
use crate::cache::cached;
use crate::context::Context;
use crate::events;
use crate::job_target;
use crate::owned_fields::{concerns_workers, job_patch, service_patch};
use crate::ownership::{is_owned, stops_dependents};
use crate::training::job::{finished, is_replaced, is_running, restart_at, role_jobs};
use crate::training::pod_group::{GangScheduling, Jobs};

/// Carries out an order, and makes everything that a TrainingJob owns what it should be. Returns when to look
/// again at what it owns.
///
/// # Errors
/// The first call that failed. What a start needs is there before it; nothing keeps a stop waiting.
pub(crate) async fn apply(
    context: &Context,
    key: &Key,
    order: Option<&JobOrder>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Unapplied> {
    let Some(object) = cached(&context.stores.jobs, key) else {
        return Ok(None);
    };
    if object.spec.target_ref.is_some() {
        let applied = job_target::apply::apply(context, key, &object, order, now).await;
        return applied.map(|()| None);
    }
    if object.metadata.deletion_timestamp.is_some() {
        let stopped = stop_deleted(context, key, &object).await;
        return stopped.map(|()| None).map_err(Unapplied::before_order);
    }
    // its Jobs run, and the order before it is forgotten
    let order = order.filter(|order| !order.cancels_stop);
    let stop = order.filter(|order| !order.run);
    if let Some(order) = stop {
        stop_jobs(context, key, &object, order)
            .await
            .map_err(Unapplied::before_order)?;
        note_order(context, &object, order);
        let service = apply_service(context, key, &object).await;
        return service.map(|()| None).map_err(Unapplied::after_order);
    }
    // no more workers start than were paid for
    put_back_jobs(context, &object, concerns_workers, now)
        .await
        .map_err(Unapplied::before_order)?;
    start(context, key, &object, order)
        .await
        .map_err(Unapplied::before_order)?;
    let jobs = put_back_jobs(context, &object, |_| true, now).await;
    let service = put_back_service(context, key, &object, now).await;
    let files = launcher_files::restore(context, key, &object, now).await;
    jobs.and(service).and(files).map_err(Unapplied::after_order)
}

/// Puts the Jobs back that somebody has edited so that it matters.
async fn put_back_jobs(
    context: &Context,
    object: &TrainingJob,
    matters: fn(&Value) -> bool,
    now: Timestamp,
) -> Result<(), ApiError> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    let suffix = launcher_files::suffix(context, object, None)?;
    let wanted = build::jobs(object, &suffix, true, 0).into_iter();
    for (role, (_, wanted)) in role_jobs(&context.stores, object).iter().zip(wanted) {
        let Some(found) = role.job.as_ref().filter(|job| finished(job).is_none()) else {
            continue;
        };
        let patch = |found: &Job| job_patch(found, &wanted).filter(matters);
        let edits = &context.foreign_edits;
        edits
            .put_back_unless_answered(&api, found, patch, concerns_workers, now)
            .await?;
    }
    Ok(())
}

/// Puts the headless Service back if somebody has edited it.
async fn put_back_service(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    now: Timestamp,
) -> Result<(), ApiError> {
    let wanted = build::service(object);
    let found = cached(&context.stores.front_services, key);
    let Some(found) = found.filter(|found| is_as_asked(&**found, &wanted)) else {
        return Ok(());
    };
    let api: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = |found: &Service| service_patch(found, &wanted);
    let edits = &context.foreign_edits;
    edits.put_back_fields(&api, &*found, patch, now).await
}

/// Suspends the Jobs of a TrainingJob that somebody has deleted, for as long as a finalizer keeps it. One of
/// them that cannot be told does not keep the others running.
async fn stop_deleted(context: &Context, key: &Key, object: &TrainingJob) -> Result<(), ApiError> {
    if !stops_dependents(&object.metadata) {
        return Ok(());
    }
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    let roles = role_jobs(&context.stores, object).into_iter();
    let runs = |job: &Arc<Job>| {
        is_running(job) && finished(job).is_none() && job.metadata.deletion_timestamp.is_none()
    };
    let mut told = Ok(());
    for job in roles.filter_map(|role| role.job).filter(runs) {
        match set_suspended(&jobs, &job, true, None).await {
            Ok(()) => note_changed(key, &job, false, "the TrainingJob is being deleted"),
            Err(error) => told = told.and(Err(error)),
        }
    }
    told
}

/// Makes the Service, and lets the Jobs run if they are to.
async fn start(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    order: Option<&JobOrder>,
) -> Result<(), ApiError> {
    // all of it before the first write: part of a gang would only hold GPUs
    let restarts = order.map_or(0, |order| order.restarts);
    let suffix = launcher_files::suffix(context, object, order)?;
    let wanted = build::jobs(object, &suffix, order.is_none(), restarts).into_iter();
    let is_done = |role: &str| order.is_some_and(|order| is_done(order, role));
    let wanted = wanted.filter(|(role, _)| !is_done(role));
    let mut jobs: Jobs = wanted
        .map(|(role, job)| {
            let found = found_job(context, object, &job)?;
            Ok((role, job, found))
        })
        .collect::<Result<_, ApiError>>()?;
    apply_service(context, key, object).await?;
    let Some(order) = order else { return Ok(()) };
    launcher_files::create(context, key, object, &suffix).await?;
    let restarts_now = jobs.iter().any(|(_, _, found)| {
        let suspended = found.as_deref().filter(|job| !is_running(job));
        suspended.and_then(restart_at).is_some()
    });
    if !order.recreate.is_empty() {
        let starts_again = |(role, _, found): &(String, Job, Option<Arc<Job>>)| {
            let is_replaced = |job: &Arc<Job>| is_replaced(order, role, job);
            let again = found.as_ref().is_none_or(is_replaced);
            again.then(|| role.clone())
        };
        let again = jobs.iter().filter_map(starts_again).collect();
        record_restarts(context, key, object, order.restarts, &again).await?;
    }
    // no new Job runs while an old one is left: without one of its Jobs a gang is let run again, but
    // one of which only some Jobs were told to is stopped
    let mut old: Vec<_> = jobs
        .iter_mut()
        .filter_map(|(role, wanted, found)| {
            let old = found.take_if(|job| is_replaced(order, role, job))?;
            keep_counts(wanted, &old);
            Some(old)
        })
        .collect();
    // as long as one says that the gang starts again, whoever leads next renews the others
    old.sort_by_key(|job| restart_at(job).is_some());
    for job in old {
        delete_job(context, key, &job).await?;
    }
    if let Some(group) = assign_group(context, object, &mut jobs).await? {
        pod_group::create_missing(&context.client, object, group).await?;
    }
    for (_, wanted, found) in jobs {
        apply_job(context, key, wanted, found.as_deref(), order).await?;
    }
    // an Event has said that it would start again, and why
    if !restarts_now {
        note_order(context, object, order);
    }
    Ok(())
}

/// Whether a role has ended well and its Job is gone: it is not made again.
fn is_done(order: &JobOrder, role: &str) -> bool {
    order.done.iter().any(|done| **done == *role)
}

/// Puts on record how often a worker has failed, and that these roles, which may have ended well, start again:
/// between a Job and the next one of its role, only the status knows.
async fn record_restarts(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    restarts: u32,
    again: &BTreeSet<String>,
) -> Result<(), ApiError> {
    let mut status = json!({"restarts": restarts.max(object.restarts())});
    match object
        .status
        .as_ref()
        .filter(|_| !object.ended_well().is_empty())
    {
        Some(old) => {
            let roles = old.roles.iter().map(|role| {
                let mut role = role.clone();
                if again.contains(&role.name) {
                    role.workers.succeeded = 0;
                }
                role
            });
            let roles: Vec<RoleStatus> = roles.collect();
            // the only role of the short form is none of them
            let ended = roles.iter().map(|role| role.workers.succeeded);
            let succeeded = ended.fold(0, i32::saturating_add);
            status["workers"] = json!(Workers {
                succeeded,
                ..old.workers
            });
            status["roles"] = json!(roles);
        }
        None if object.restarts() >= restarts => return Ok(()),
        None => {}
    }
    let api: Api<TrainingJob> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = Patch::Merge(json!({
        "metadata": {"uid": object.uid()},
        "status": status,
    }));
    let (name, params) = (object.name_any(), PatchParams::default());
    with_timeout("patch status", api.patch_status(&name, &params, &patch))
        .await
        .map(drop)
}

/// The next Job of a role goes on counting how often its gang was taken back and interrupted.
fn keep_counts(wanted: &mut Job, old: &Job) {
    for name in [
        RETRIES_ANNOTATION,
        RETRY_AT_ANNOTATION,
        RETRY_HAD_ROOM_ANNOTATION,
        REFUSED_ANNOTATION,
        DISRUPTIONS_ANNOTATION,
    ] {
        if let Some(value) = old.annotations().get(name) {
            let annotations = wanted.metadata.annotations.get_or_insert_default();
            annotations.insert(name.to_owned(), value.clone());
        }
    }
}

/// Deletes a Job of an earlier run; its pods follow. One that is gone already is no error, and one that
/// has changed since it was read is left as it is.
async fn delete_job(context: &Context, key: &Key, job: &Job) -> Result<(), ApiError> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    let preconditions = Preconditions {
        uid: job.uid(),
        resource_version: job.resource_version(),
    };
    let params = DeleteParams::background().preconditions(preconditions);
    let name = job.name_any();
    match with_timeout("delete job", jobs.delete(&name, &params)).await {
        Ok(_) | Err(ApiError::Gone { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Suspends the Jobs. One of them that cannot be told does not keep the others running.
async fn stop_jobs(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    order: &JobOrder,
) -> Result<(), ApiError> {
    let mut told = Ok(());
    let restarts = order
        .restart
        .map_or(order.restarts, |restart| restart.count);
    let mut jobs: Jobs = Vec::new();
    let suffix = launcher_files::suffix(context, object, Some(order))?;
    let all = build::jobs(object, &suffix, true, restarts).into_iter();
    for (role, wanted) in all.filter(|(role, _)| !is_done(order, role)) {
        match found_job(context, object, &wanted) {
            Ok(found) => jobs.push((role, wanted, found)),
            // whether a Job that cannot be read runs is not known: nothing is restarted for want of it
            Err(error @ ApiError::Unreadable { .. }) if order.restart.is_some() => {
                return Err(error);
            }
            Err(error) => told = told.and(Err(error)),
        }
    }
    if told.is_ok() {
        assign_group(context, object, &mut jobs).await?;
    }
    let (there, missing): (Jobs, Jobs) =
        jobs.into_iter().partition(|(_, _, found)| found.is_some());
    for (_, wanted, found) in there {
        let this = apply_job(context, key, wanted, found.as_deref(), order).await;
        told = told.and(this);
    }
    told?;
    // those that are made name files that are there, and all of them the same
    if !missing.is_empty() {
        launcher_files::create(context, key, object, &suffix).await?;
    }
    for (_, wanted, _) in missing {
        apply_job(context, key, wanted, None, order).await?;
    }
    Ok(())
}

/// Makes the pods of new Jobs members of the gang's PodGroup, where the installation has these.
async fn assign_group(
    context: &Context,
    object: &TrainingJob,
    jobs: &mut Jobs,
) -> Result<Option<PodGroup>, ApiError> {
    match context.gang_scheduling {
        GangScheduling::Auto => pod_group::assign(&context.client, object, jobs).await,
        GangScheduling::Disabled => Ok(None),
    }
}

/// The headless Service by which the workers find each other.
async fn apply_service(context: &Context, key: &Key, object: &TrainingJob) -> Result<(), ApiError> {
    context.check_readable::<Service>(&key.namespace, &key.name)?;
    let api: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let found = cached(&context.stores.front_services, key);
    let wanted = build::service(object);
    apply_if_changed(&api, found.as_deref(), wanted, |_| true)
        .await
        .map(drop)
}

/// Says what was carried out, in an Event.
fn note_order(context: &Context, object: &TrainingJob, order: &JobOrder) {
    if let Some(event) = events::of_job(order, object) {
        context.events.send(object.object_ref(&()), event);
    }
}

/// The Job of this name, as the cache has it.
fn found_job(
    context: &Context,
    object: &TrainingJob,
    job: &Job,
) -> Result<Option<Arc<Job>>, ApiError> {
    let key = Key::new(&object.namespace().unwrap_or_default(), &job.name_any());
    context.check_readable::<Job>(&key.namespace, &key.name)?;
    let found = cached(&context.stores.batch_jobs, &key);
    match found
        .as_ref()
        .is_some_and(|found| !is_owned(&**found, object.metadata.uid.as_deref()))
    {
        true => Err(ApiError::Foreign {
            kind: "Job".to_owned(),
            name: key.name.to_string(),
        }),
        false => Ok(found),
    }
}

/// Tells the Job of one role to run or not.
async fn apply_job(
    context: &Context,
    key: &Key,
    wanted: Job,
    found: Option<&Job>,
    order: &JobOrder,
) -> Result<(), ApiError> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(found) = found else {
        apply_if_changed(&jobs, None, wanted, |_| true).await?;
        return Ok(());
    };
    // of a Job that exists only its suspension changes
    if is_running(found) == order.run || finished(found).is_some() {
        return Ok(());
    }
    // how often it was taken back counts until it is suspended for another reason
    let annotations = (!order.run).then(|| {
        let retry = order.retry.as_ref();
        let had_room = retry.filter(|retry| retry.had_room);
        let mut annotations = json!({
            RETRIES_ANNOTATION: retry.map(|retry| retry.count.to_string()),
            RETRY_AT_ANNOTATION: retry.map(|retry| retry.at.to_string()),
            RETRY_HAD_ROOM_ANNOTATION: had_room.map(|retry| retry.had_room.to_string()),
            REFUSED_ANNOTATION: retry.and_then(|retry| retry.creation_failure.as_deref()),
        });
        // the restart stays due whatever else keeps the gang from it
        if let Some(restart) = order.restart {
            annotations[RESTARTS_ANNOTATION] = json!(restart.count.to_string());
            annotations[RESTART_AT_ANNOTATION] = json!(restart.at.to_string());
            annotations[DISRUPTIONS_ANNOTATION] = json!(restart.disruptions.to_string());
        }
        annotations
    });
    set_suspended(&jobs, found, !order.run, annotations).await?;
    note_changed(key, found, order.run, &order.reason);
    Ok(())
}

fn note_changed(key: &Key, job: &Job, run: bool, reason: &str) {
    let (namespace, name) = (&*key.namespace, job.name_any());
    tracing::info!(namespace, name, run, reason, "training");
}

async fn set_suspended(
    jobs: &Api<Job>,
    found: &Job,
    suspend: bool,
    annotations: Option<Value>,
) -> Result<(), ApiError> {
    let mut metadata = json!({"uid": found.uid(), "resourceVersion": found.resource_version()});
    if let Some(annotations) = annotations {
        metadata["annotations"] = annotations;
    }
    let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"suspend": suspend}}));
    let (name, params) = (found.name_any(), PatchParams::default());
    with_timeout("patch job", jobs.patch(&name, &params, &patch))
        .await
        .map(drop)
}
