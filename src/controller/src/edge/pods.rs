//! Pods as the model's values: what they ask for depends on the claims of their namespace.

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_api::spend::WorkloadRef;
use bursar_core::model::Key;
use bursar_core::model::event::{Event, GatewayPod, Name, PodShape};
use bursar_core::placement::Placement;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::claims::ClaimIndex;
use super::known_pods::KnownPods;
use super::placement::{node_selector, placement};
use super::{Batch, objects};
use crate::cache::cached;
use crate::context::Context;
use crate::evictions::is_out_of_control;
use crate::gpu_allocation::GpuAllocations;
use crate::health;
use crate::inference::request_path::waits_for_replicas;
use crate::job_target;
use crate::lock::lock;
use crate::object_key::ObjectKey;
use crate::pod;
use crate::pod_resources::{occupied, requests};
use crate::released_pods::is_released;

/// What the model was told of pods.
#[derive(Default)]
pub(super) struct PodEdge {
    known: KnownPods,
    /// Pods to be looked at again though nothing happens to them.
    again: BTreeSet<(Timestamp, Key)>,
}

impl ClaimIndex {
    /// What a pod of this spec asks for, before there is one.
    pub(super) fn shape(
        &self,
        context: &Context,
        namespace: &Name,
        spec: &PodSpec,
    ) -> Arc<PodShape> {
        let claims = self.planned(namespace, spec);
        let placement = placement(spec);
        Arc::new(PodShape {
            requests: requests(spec),
            node_selector: node_selector(spec),
            // a node that the template names is not chosen by kube-scheduler
            placement: match spec.node_name {
                Some(_) if *placement != Placement::nowhere() => Arc::new(Placement::anywhere()),
                _ => placement,
            },
            attributes: claims.planned(&context.stores, namespace, spec, None),
            shares_gpus: false,
            priority: 0,
        })
    }

    /// What a pod asks for.
    fn shape_of(&self, context: &Context, key: &Key, pod: &Pod) -> Arc<PodShape> {
        let Some(spec) = &pod.spec else {
            return Arc::default();
        };
        let mut shape = PodShape {
            requests: occupied(pod),
            node_selector: node_selector(spec),
            placement: placement(spec),
            attributes: None,
            shares_gpus: false,
            priority: spec.priority.unwrap_or(0),
        };
        let (stores, namespace) = (&context.stores, &key.namespace);
        shape.attributes = if has_claims(pod) {
            let claims = self.of_pod(stores, key, pod);
            shape.shares_gpus = claims.shares_devices(pod);
            let planned = || claims.planned(stores, namespace, spec, Some(pod));
            // devices have a price once their charge is open
            claims
                .attributes(pod, None)
                .and_then(|devices| planned().or(Some(devices)))
        } else {
            GpuAllocations::default().planned(stores, namespace, spec, Some(pod))
        };
        Arc::new(shape)
    }
}

/// Whether what a pod of this spec is charged for depends on the volumes that others use.
fn depends_on_claims(spec: &PodSpec) -> bool {
    let mut volumes = spec.volumes.iter().flatten();
    volumes.any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some())
}

fn has_claims(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    pod::may_hold_devices(pod) || pod::may_hold_gpus(pod) && spec.is_some_and(depends_on_claims)
}

impl PodEdge {
    /// The pods that are to be looked at again at `now`.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<Key> {
        let mut due = Vec::new();
        while self.again.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.again.pop_first().map(|(_, key)| key));
        }
        due
    }

    /// When a pod is to be looked at again.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.again.first().map(|(at, _)| *at)
    }

    /// The pods that the model knows.
    pub(super) fn known(&self) -> &KnownPods {
        &self.known
    }

    /// Notes the pods of namespaces of which a target became known: they may be its own.
    pub(super) fn note_unlabelled(
        &self,
        context: &Context,
        namespaces: &BTreeSet<Name>,
        now: Timestamp,
    ) {
        for key in namespaces.iter().flat_map(|each| self.known.keys_in(each)) {
            let pod = cached(&context.stores.pods, key);
            context.scale_targets.note_pod(key, pod.as_deref(), now);
        }
    }

    /// What the model is told of a pod. Returns whether the gateways that take requests have
    /// changed.
    pub(super) fn observe(&mut self, batch: &mut Batch<'_>, key: &Key) -> bool {
        let (context, now) = (batch.context, batch.now);
        let pod = cached(&context.stores.pods, key);
        let change = lock(&context.index).set(key, pod.as_deref(), now);
        // anybody can label a pod as a gateway; ours are in the operator's namespace
        let gateways_changed = change.gateways && *key.namespace == *context.namespace;
        if change.unknown {
            batch.unknown_accelerators.insert(key.namespace.clone());
        }
        context.scale_targets.note_pod(key, pod.as_deref(), now);
        context.job_targets.note_pod(key, pod.as_deref(), now);
        for workload in change.workloads.iter().filter_map(ObjectKey::of) {
            if let ObjectKey::Service(service) = &workload
                && let Some(object) = cached(&context.stores.services, service)
                && object.spec.target_ref.is_some()
            {
                let endpoints = batch.workloads().target_endpoints(service, &object);
                batch.push(endpoints);
                // with its last pod it is adopted
                let event = batch.workloads().service(service);
                batch.push(event);
            }
            if let ObjectKey::Job(job) = &workload {
                for (role, value) in job_target::events::batch_jobs(context, job) {
                    batch.push(Event::BatchJob(job.clone(), role, Some(value)));
                }
            }
            // which replicas take requests is asked of pods, and their endpoints may have changed before
            if let ObjectKey::Service(service) = &workload
                && waits_for_replicas(&context.stores, service)
            {
                batch.owns_otherwise(workload.clone());
            }
            batch.observed.statuses.insert(workload);
        }
        let with_claims = pod.as_deref().filter(|pod| has_claims(pod));
        let has_claims = with_claims.is_some();
        batch.claims.set(&context.stores, key, with_claims);
        let is_there = |pod: &Key, uid: &str| self.known.contains(pod, uid);
        let is_released = (pod.as_deref()).is_some_and(|pod| is_released(context, pod, is_there));
        if let Some(at) = context.released_pods.note(key, is_released, now) {
            self.again.insert((at, key.clone()));
        }
        if let Some(gone) = self.known.set(key, pod.as_deref()) {
            // nobody will use the workers that it led
            let workers = self.known.workers_of(&gone).cloned();
            self.again.extend(workers.map(|worker| (now, worker)));
            batch.push(Event::Pod(gone.clone(), None));
            batch.push(Event::Gateway(gone, None));
        }
        let Some(pod) = pod else {
            return gateways_changed;
        };
        if let Some(at) = health::changes_at(&[&pod], now) {
            self.again.insert((at, key.clone()));
        }
        if !has_claims {
            self.push_pod(batch, key, &pod);
        }
        gateways_changed
    }

    /// What the model is told of a pod whose price depends on claims.
    pub(super) fn observe_claiming(&self, batch: &mut Batch<'_>, key: &Key) {
        let pod = cached(&batch.context.stores.pods, key);
        if let Some(pod) = pod {
            self.push_pod(batch, key, &pod);
        }
    }

    fn push_pod(&self, batch: &mut Batch<'_>, key: &Key, pod: &Pod) {
        let (context, now) = (batch.context, batch.now);
        let uid = Name::from(pod::uid(pod));
        let mut workload = pod::workload_of(pod);
        let job = workload.as_ref().and_then(ObjectKey::of);
        let job = job.filter(|of| matches!(of, ObjectKey::Job(_)));
        let job = job.as_ref().map(ObjectKey::key);
        if is_out_of_control(context, pod) {
            // budgets may evict it as they may any pod of no workload
            workload = Some(WorkloadRef::unmanaged(key.namespace.to_string()));
        }
        let shape = batch.claims.shape_of(context, key, pod);
        let mut value = objects::pod(pod, workload.as_ref(), shape, now);
        if let Some(target) = job.and_then(|job| context.job_targets.target_of(pod, job)) {
            // whatever there is between the two
            value.made_by = Some(target);
        }
        if pod::is_gateway(pod) && *key.namespace == *context.namespace {
            let gateway = GatewayPod {
                name: key.name.clone(),
                ready_since: value.ready_since.filter(|_| value.deletion.is_none()),
            };
            // one that has ended holds nothing
            let gateway = Some(gateway).filter(|_| value.ended.is_none());
            batch.push(Event::Gateway(uid.clone(), gateway));
        }
        batch.push(Event::Pod(uid, Some(Box::new(value))));
    }
}
