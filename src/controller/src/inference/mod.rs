//! InferenceDeployments: build what they own, drain what leaves, and say how they are.

pub(crate) mod build;
pub(crate) mod status;

use bursar_api::InferenceDeployment;
use bursar_api::names::{
    DELETION_COST_ANNOTATION, DRAINING_ANNOTATION, SERVING_LABEL, WORKLOAD_LABEL, gateway_slice,
};
use bursar_core::plan::{Decision, LimitedBy};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::api_calls::{ApiError, apply_if_changed, with_timeout};
use crate::context::Context;
use crate::gateways;
use crate::lock::lock;
use crate::pod;
use bursar_core::drain::{DrainInput, Replica, Steps, steps};

/// ReplicaSets delete the pod with the lowest cost first.
const LEAVES_FIRST: &str = "-1000000";

/// Since when a pod has been leaving.
pub(crate) fn draining_since(pod: &Pod) -> Option<Timestamp> {
    pod::annotation(pod, DRAINING_ANNOTATION)?.parse().ok()
}

/// The owned Deployment, as the cache has it.
pub(crate) fn deployment(
    context: &Context,
    object: &InferenceDeployment,
) -> Option<std::sync::Arc<Deployment>> {
    let (namespace, name) = (object.namespace(), object.name_any());
    context
        .stores
        .deployments
        .find(|found| found.namespace() == namespace && found.name_any() == name)
}

/// Makes the cluster follow a decision. Returns when to look again.
///
/// # Errors
/// The first call that failed; the next run goes on from what it finds.
pub(crate) async fn apply(
    context: &Context,
    object: &InferenceDeployment,
    decision: &Decision,
    pods: &[&Pod],
    port: Option<u16>,
    now: Timestamp,
) -> Result<Option<Timestamp>, ApiError> {
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    context.check_readable::<Deployment>(&namespace, &name)?;
    context.check_readable::<Service>(&namespace, &name)?;
    context.check_readable::<EndpointSlice>(&namespace, &gateway_slice(&name))?;
    let found = deployment(context, object);
    let replicas = declared(found.as_deref());
    let steps = steps(
        &scene(context, object, found.as_deref(), decision, pods, now),
        now,
    );
    relabel(context, &namespace, pods, &steps, now).await?;

    let wanted = build::deployment(object, steps.replicas);
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &namespace);
    let same = |found: &Deployment| found.spec.replicas == i32::try_from(steps.replicas).ok();
    let wrote = apply_if_changed(&api, found.as_deref(), wanted, same).await?;
    if wrote && replicas == 0 && steps.replicas > 0 {
        let (_, first_held) = lock(&context.demands).held(&namespace, &name, now);
        if let Some(first_held) = first_held {
            let seconds = Timestamp::now().duration_since(first_held).as_secs_f64();
            context.metrics.wake_seconds.observe(seconds);
            tracing::info!(
                namespace,
                name,
                milliseconds = (seconds * 1000.0) as i64,
                "woken by a held request"
            );
        }
    }
    if wrote && replicas != steps.replicas {
        tracing::info!(
            namespace,
            name,
            from = replicas,
            to = steps.replicas,
            reason = decision.reason,
            "scaled"
        );
    }

    let api: Api<Service> = Api::namespaced(context.client.clone(), &namespace);
    let found = context
        .stores
        .front_services
        .find(|found| found.namespace().as_ref() == Some(&namespace) && found.name_any() == name);
    apply_if_changed(&api, found.as_deref(), build::service(object), |_| true).await?;
    if let Some(port) = port {
        let gateways = gateways::addresses(&context.stores.pods, &context.namespace);
        let wanted = build::gateway_endpoints(object, port, gateways.into_values());
        let slice = gateway_slice(&name);
        let found = context.stores.slices.find(|found| {
            found.namespace().as_ref() == Some(&namespace) && found.name_any() == slice
        });
        let endpoints = wanted.endpoints.clone();
        let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &namespace);
        apply_if_changed(&api, found.as_deref(), wanted, |found| {
            found.endpoints.as_ref().map(Vec::len) == endpoints.as_ref().map(Vec::len)
        })
        .await?;
    }
    Ok(steps.next_look)
}

fn scene(
    context: &Context,
    object: &InferenceDeployment,
    deployment: Option<&Deployment>,
    decision: &Decision,
    pods: &[&Pod],
    now: Timestamp,
) -> DrainInput {
    let status = deployment.and_then(|found| found.status.as_ref());
    let rolling = status.is_some_and(|status| {
        let behind =
            deployment.and_then(|found| found.metadata.generation) != status.observed_generation;
        behind || status.updated_replicas.unwrap_or(0) < status.replicas.unwrap_or(0)
    });
    let timeout = object
        .spec
        .settings()
        .map(|settings| settings.drain_timeout)
        .unwrap_or_default();
    DrainInput {
        replicas: declared(deployment),
        allowed: decision.allowed,
        pods: replicas(context, object, pods, now),
        rolling,
        budget: decision.limited_by == Some(LimitedBy::Budget),
        timeout,
    }
}

/// The replicas that the owned Deployment is told to have.
pub(crate) fn declared(deployment: Option<&Deployment>) -> u32 {
    deployment
        .and_then(|found| found.spec.replicas)
        .map_or(0, |count| u32::try_from(count).unwrap_or(0))
}

/// The workload's pods that are not being deleted.
pub(crate) fn replicas(
    context: &Context,
    object: &InferenceDeployment,
    pods: &[&Pod],
    now: Timestamp,
) -> Vec<Replica> {
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    let in_endpoints = ready_endpoints(context, &key);
    let readings = lock(&context.readings);
    let readings = readings.get(&key);
    let alive = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && !pod::is_terminal(pod));
    let replica = |pod: &&Pod| Replica {
        pod: pod.name_any(),
        ready: pod::is_ready(pod),
        in_endpoints: in_endpoints.contains(pod::uid(pod)),
        draining_since: draining_since(pod),
        released: pod::annotation(pod, DELETION_COST_ANNOTATION) == Some(LEAVES_FIRST),
        busy: readings.and_then(|readings| readings.busy(pod::uid(pod), now)),
        created: pod.creation_timestamp().map_or(now, |time| time.0),
    };
    alive.map(replica).collect()
}

/// UIDs of the pods that the Service's own slices name as ready.
fn ready_endpoints(
    context: &Context,
    key: &(String, String),
) -> std::collections::BTreeSet<String> {
    let slices = context.stores.slices.state();
    let ours = slices.iter().filter(|slice| {
        slice.namespace().as_ref() == Some(&key.0)
            && slice.labels().get(WORKLOAD_LABEL) == Some(&key.1)
    });
    let endpoints = ours.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| {
        endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true)
    });
    ready
        .filter_map(|endpoint| endpoint.target_ref.as_ref()?.uid.clone())
        .collect()
}

async fn relabel(
    context: &Context,
    namespace: &str,
    pods: &[&Pod],
    steps: &Steps,
    now: Timestamp,
) -> Result<(), ApiError> {
    let leave = json!({"labels": {SERVING_LABEL: null}, "annotations": {DRAINING_ANNOTATION: now.to_string()}});
    let stay = json!({"labels": {SERVING_LABEL: "true"}, "annotations": {DRAINING_ANNOTATION: null, DELETION_COST_ANNOTATION: null}});
    let go = json!({"annotations": {DELETION_COST_ANNOTATION: LEAVES_FIRST}});
    for (names, change) in [
        (&steps.keep, &stay),
        (&steps.drain, &leave),
        (&steps.remove, &go),
    ] {
        for pod in pods.iter().filter(|pod| names.contains(&pod.name_any())) {
            if change == &go && pod::annotation(pod, DELETION_COST_ANNOTATION) == Some(LEAVES_FIRST)
            {
                continue;
            }
            patch_pod(context, namespace, pod, change.clone()).await?;
        }
    }
    Ok(())
}

async fn patch_pod(
    context: &Context,
    namespace: &str,
    pod: &Pod,
    mut metadata: Value,
) -> Result<(), ApiError> {
    metadata["uid"] = json!(pod.uid());
    metadata["resourceVersion"] = json!(pod.resource_version());
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let patch = Patch::Merge(json!({"metadata": metadata}));
    with_timeout(
        "patch pod",
        api.patch_metadata(&pod.name_any(), &PatchParams::default(), &patch),
    )
    .await
    .map(drop)
}
