//! InferenceDeployments: build what they own, carry out orders, and say how they are.

pub(crate) mod build;
pub(crate) mod gateway_slices;
pub(crate) mod request_path;
pub(crate) mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_api::InferenceDeployment;
use bursar_api::conditions::target_ready;
use bursar_api::engine::Engine;
use bursar_api::names::replicas_service;
use bursar_core::model::{Key, Name};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::api_calls::{
    ApiError, Unapplied, apply_if_changed, is_as_asked, patch_replicas, with_timeout,
};
use crate::cache::{cached, key_of};
use crate::context::Context;
use crate::executor::ServiceChange;
use crate::inference::build::Family;
use crate::inference::gateway_slices::{apply_slices, empty_slices};
use crate::inference::request_path::{PathState, RequestPath};
use crate::lock::lock;
use crate::object_key::ObjectKey;
use crate::owned_fields::service_patch;
use crate::ownership::{is_owned, stops_dependents};
use crate::pod;
use crate::pod_mark::PodMark;
use crate::ports::NoPort;
use crate::scale_target;

/// Carries out an order, and makes everything that a service owns what it should be.
///
/// # Errors
/// The first call that failed. The Service and its endpoints keep no order from being carried out.
pub(crate) async fn apply(
    context: &Context,
    key: &Key,
    change: Option<&ServiceChange>,
    now: Timestamp,
) -> Result<(), Unapplied> {
    let object = cached(&context.stores.services, key);
    let is_deleted = |object: &InferenceDeployment| object.metadata.deletion_timestamp.is_some();
    if object.as_deref().is_none_or(is_deleted) {
        lock(&context.service_events).remove(key);
        context.foreign_edits.forget(key);
    }
    let Some(object) = object else { return Ok(()) };
    if object.spec.target_ref.is_some() {
        return scale_target::apply::apply(context, key, &object, change, now).await;
    }
    if is_deleted(&object) {
        return stop_deleted(context, key, &object)
            .await
            .map_err(Unapplied::before_order);
    }
    apply_order(context, key, &object, change, now)
        .await
        .map_err(Unapplied::before_order)?;
    let (path, replicas) = match object.spec.engine {
        Engine::None => (Ok(()), Ok(())),
        _ => apply_path(context, key, &object, now).await,
    };
    let edits = put_back_edits(context, key, &object, now).await;
    path.and(edits).map_err(Unapplied::after_order)?;
    // gateways come and go meanwhile
    replicas.map_err(Unapplied::aside)
}

/// The next step of the way of requests: what fails keeps none of the rest from being as it should. Gateways
/// come into the path before replicas leave it, so the slice goes before the Service. Where the Service may be
/// somebody else's, it goes first: the cluster would send that one's requests to the slice's gateways. Returns
/// how the way went, and how the Service of the replicas did.
async fn apply_path(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    now: Timestamp,
) -> (Result<(), ApiError>, Result<(), ApiError>) {
    let port = port(context, object, now).ok();
    let state = PathState::of(context, object, port.is_some());
    let path = RequestPath::next(state);
    let replicas = match path.replicas_service {
        true => apply_service(context, key, build::replicas_service(object), now).await,
        false => delete_replicas_service(context, key, object).await,
    };
    let slices = apply_slices(context, key, object, (port, path.gateways_ready), now);
    let front = build::service(object, path.through_gateways);
    let front = apply_service(context, key, front, now);
    let (front, slices) = match state.owns_front {
        true if path.keeps_slice => {
            let front = front.await;
            let slices = match front {
                Ok(()) => Ok(()),
                Err(_) => slices.await,
            };
            (front, slices)
        }
        true => {
            let slices = slices.await;
            (front.await, slices)
        }
        false => {
            let front = front.await;
            let slices = match &front {
                Ok(()) => slices.await,
                Err(ApiError::Foreign { .. }) => {
                    empty_slices(context, key, object, port, now).await
                }
                Err(_) => Ok(()),
            };
            (front, slices)
        }
    };
    (front.and(slices), replicas)
}

/// Deletes the Service of the replicas, if the service owns one that it does not need.
async fn delete_replicas_service(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
) -> Result<(), ApiError> {
    let name = replicas_service(&key.name);
    let found = cached(
        &context.stores.front_services,
        &Key::new(&key.namespace, &name),
    );
    let is_ours = |found: &Arc<Service>| {
        let is_kept = found.metadata.deletion_timestamp.is_none();
        is_kept && is_owned(&**found, object.metadata.uid.as_deref())
    };
    let Some(found) = found.filter(is_ours) else {
        return Ok(());
    };
    let api: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: found.uid(),
            resource_version: found.resource_version(),
        }),
        ..DeleteParams::default()
    };
    with_timeout("delete Service", api.delete(&name, &params))
        .await
        .map(drop)
}

/// Keeps the gateways' endpoints current of a service that is paused, or only observed, and changes
/// nothing else: they answer requests that no replica can, and whoever gets the address of one that is
/// gone would be sent them. Where all requests go through gateways and there is none, the Service
/// selects its replicas until there is one again.
///
/// # Errors
/// The call failed.
pub(crate) async fn apply_endpoints(
    context: &Context,
    key: &Key,
    now: Timestamp,
) -> Result<(), Unapplied> {
    let object = cached(&context.stores.services, key);
    let object = object.filter(|object| object.metadata.deletion_timestamp.is_none());
    let has_slice = |family: Family| {
        let slice = Key::new(&key.namespace, &family.gateway_slice(&key.name));
        cached(&context.stores.slices, &slice).is_some()
    };
    let Some(object) = object.filter(|_| Family::ALL.into_iter().any(has_slice)) else {
        return Ok(());
    };
    if object.spec.target_ref.is_some() {
        let applied = scale_target::apply::apply_path(context, key, &object, now).await;
        return applied.map_err(Unapplied::after_order);
    }
    let port = port(context, &object, now).ok();
    let state = PathState::of(context, &object, port.is_some());
    if !state.owns_front {
        let emptied = empty_slices(context, key, &object, port, now).await;
        return emptied.map_err(Unapplied::after_order);
    }
    let path = RequestPath::next(state);
    let is_given_back = state.is_through_gateways && !state.has_gateway && !path.through_gateways;
    let goes_through =
        state.has_replicas_service && !state.is_through_gateways && path.through_gateways;
    let front = match is_given_back || goes_through {
        true => {
            let front = build::service(&object, path.through_gateways);
            apply_service(context, key, front, now).await
        }
        false => Ok(()),
    };
    // a switch of the mode waits, but for the gateways of a service that was given back
    let gateways_ready = match state.is_always && state.has_replicas_service {
        true => path.gateways_ready,
        false => state.has_gateways(),
    };
    let slices = match path.keeps_slice && front.is_ok() {
        true => Ok(()),
        false => apply_slices(context, key, &object, (port, gateways_ready), now).await,
    };
    front.and(slices).map_err(Unapplied::after_order)
}

/// Tells the pods and the Deployment what was ordered.
async fn apply_order(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    change: Option<&ServiceChange>,
    now: Timestamp,
) -> Result<(), ApiError> {
    context.check_readable::<Deployment>(&key.namespace, &key.name)?;
    let marked = match change {
        Some(change) => mark_pods(context, key, &change.pods, now).await,
        None => Ok(()),
    };
    // which pods go first does not matter where all go
    if change.is_none_or(|change| change.order.replicas.1 > 0) {
        marked?;
        return apply_deployment(context, key, object, change).await;
    }
    apply_deployment(context, key, object, change).await?;
    marked
}

async fn apply_service(
    context: &Context,
    key: &Key,
    wanted: Service,
    now: Timestamp,
) -> Result<(), ApiError> {
    let name = Key::new(&key.namespace, &wanted.name_any());
    context.check_readable::<Service>(&name.namespace, &name.name)?;
    let api: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let found = cached(&context.stores.front_services, &name);
    let edited = found
        .as_deref()
        .filter(|found| is_as_asked(*found, &wanted));
    if let Some(found) = edited {
        let patch = |found: &Service| service_patch(found, &wanted);
        let edits = &context.foreign_edits;
        return edits.put_back_fields(&api, found, patch, now).await;
    }
    apply_if_changed(&api, found.as_deref(), wanted, |_| true)
        .await
        .map(drop)
}

/// The service's port on gateways.
///
/// # Errors
/// It has none, and why.
pub(crate) fn port(
    context: &Context,
    object: &InferenceDeployment,
    now: Timestamp,
) -> Result<u16, NoPort> {
    let spec = &object.spec;
    if spec.engine == Engine::None || spec.target_ref.is_some() && spec.service_ref.is_none() {
        return Err(NoPort::NoRequests);
    }
    // gateways could not tell whom NetworkPolicies let reach it
    let view = context.scale_targets.view(&key_of(object));
    let problem = view.and_then(|view| view.problem);
    if problem.is_some_and(|problem| problem.reason == target_ready::KIND_NOT_SUPPORTED) {
        return Err(NoPort::NoRequests);
    }
    let status = object.status.as_ref();
    let in_status = status.and_then(|status| status.activation.as_ref()?.port);
    let in_status = in_status.and_then(|port| u16::try_from(port).ok());
    context.port(&key_of(object), in_status, now)
}

/// The owned Deployment, with the ordered replicas or as many as it has. None is made before the
/// first order.
async fn apply_deployment(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    change: Option<&ServiceChange>,
) -> Result<(), ApiError> {
    let found = cached(&context.stores.deployments, key);
    let declared = found.as_ref().map(|found| {
        let replicas = found
            .spec
            .replicas
            .and_then(|count| u32::try_from(count).ok());
        replicas.unwrap_or(0)
    });
    let ordered = change.map(|change| change.order.replicas.1);
    let Some(replicas) = ordered.or(declared) else {
        return Ok(());
    };
    let wanted = build::deployment(object, replicas);
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &key.namespace);
    let same = |found: &Deployment| found.spec.replicas == i32::try_from(replicas).ok();
    let scaled = found
        .as_deref()
        .filter(|found| is_as_asked(*found, &wanted) && !same(found));
    let changed = found.as_deref().filter(|found| {
        let is_kept = found.metadata.deletion_timestamp.is_none();
        let is_ours = is_owned(*found, object.metadata.uid.as_deref());
        is_kept && is_ours && !is_as_asked(*found, &wanted)
    });
    let edits = &context.foreign_edits;
    let wrote = match scaled {
        Some(found) => {
            let scaled = patch_replicas(&api, found, replicas).await?;
            edits.note_written(found, scaled);
            true
        }
        None => match changed {
            // applied, it would keep what is not asked for any more
            Some(found) => edits.replace(&api, found, &wanted).await?,
            None => apply_if_changed(&api, found.as_deref(), wanted, same).await?,
        },
    };
    if let Some(change) = change {
        note_change(context, object, change, wrote);
    }
    Ok(())
}

/// Puts the Deployment back if somebody has edited it.
async fn put_back_edits(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    now: Timestamp,
) -> Result<(), ApiError> {
    let edits = &context.foreign_edits;
    let found = cached(&context.stores.deployments, key);
    let Some(found) = found.filter(|found| !edits.is_as_asked(&found.metadata)) else {
        return Ok(());
    };
    let replicas = found.spec.replicas.unwrap_or(0);
    let wanted = build::deployment(object, u32::try_from(replicas).unwrap_or(0));
    if !is_as_asked(&*found, &wanted) {
        return Ok(());
    }
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &key.namespace);
    edits.put_back(&api, &found, &wanted, now).await.map(drop)
}

/// Scales the Deployment of a service that somebody has deleted to zero, for as long as a finalizer keeps
/// it.
async fn stop_deleted(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
) -> Result<(), ApiError> {
    if !stops_dependents(&object.metadata) {
        return Ok(());
    }
    let runs = |found: &Arc<Deployment>| {
        let has_replicas = found.spec.replicas != Some(0);
        let is_kept = found.metadata.deletion_timestamp.is_none();
        has_replicas && is_kept && is_owned(&**found, object.metadata.uid.as_deref())
    };
    let Some(found) = cached(&context.stores.deployments, key).filter(runs) else {
        return Ok(());
    };
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &key.namespace);
    patch_replicas(&api, &found, 0).await?;
    let (namespace, name) = (&*key.namespace, &*key.name);
    let reason = "the InferenceDeployment is being deleted";
    tracing::info!(namespace, name, to = 0, reason, "scaled");
    Ok(())
}

/// Says what was carried out, in an Event, a log line and a metric. `scaled` if the Deployment was
/// told another number.
pub(crate) fn note_change(
    context: &Context,
    object: &InferenceDeployment,
    change: &ServiceChange,
    scaled: bool,
) {
    let ServiceChange {
        order, decision, ..
    } = change;
    let event = {
        let mut all = lock(&context.service_events);
        let said = all.entry(order.service.clone()).or_default();
        said.next(order, decision)
    };
    if let Some(event) = event {
        context.events.send(object.object_ref(&()), event);
    }
    let (from, to) = order.replicas;
    if !scaled || from == to {
        return;
    }
    let (namespace, name) = (&*order.service.namespace, &*order.service.name);
    if let Some(held_since) = order.held_since {
        let seconds = Timestamp::now().duration_since(held_since).as_secs_f64();
        context.metrics.wake_seconds.observe(seconds);
        let milliseconds = (seconds * 1000.0) as i64;
        tracing::info!(namespace, name, milliseconds, "woken by a held request");
    }
    let reason = &order.reason;
    tracing::info!(namespace, name, from, to, reason, "scaled");
}

/// Tells pods to drain, to serve after all, or to be deleted before others.
pub(crate) async fn mark_pods(
    context: &Context,
    key: &Key,
    marks: &BTreeMap<Name, PodMark>,
    now: Timestamp,
) -> Result<(), ApiError> {
    if marks.is_empty() {
        return Ok(());
    }
    let Some(workload) = ObjectKey::Service(key.clone()).workload() else {
        return Ok(());
    };
    let pods = lock(&context.index).pods_of(&context.stores.pods, &workload);
    let marked = |pod: &Arc<Pod>| {
        marks
            .get(pod::uid(pod))
            .map(|mark| (Arc::clone(pod), *mark))
    };
    let mut marked: Vec<(Arc<Pod>, PodMark)> = pods.iter().filter_map(marked).collect();
    // a replica serves again before another drains
    marked.sort_by_key(|(_, mark)| match mark {
        PodMark::Keep => 0,
        PodMark::Drain => 1,
        PodMark::Remove => 2,
    });
    for (pod, mark) in marked {
        if let Some(metadata) = mark.change(&pod, now) {
            patch_pod(context, &pod, metadata).await?;
        }
    }
    Ok(())
}

async fn patch_pod(context: &Context, pod: &Pod, mut metadata: Value) -> Result<(), ApiError> {
    metadata["uid"] = json!(pod.uid());
    metadata["resourceVersion"] = json!(pod.resource_version());
    let namespace = pod.namespace().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let (name, params) = (pod.name_any(), PatchParams::default());
    with_timeout("patch pod", api.patch_metadata(&name, &params, &patch))
        .await
        .map(drop)
}
