//! The room on nodes, from nodes and pods.

use std::collections::BTreeMap;

use bursar_api::quantities;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::capacity::{Capacity, Gang, Node as NodeRoom, Resources, Room};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use crate::cache::Stores;
use crate::pod;
use crate::training::job::{finished, is_running};

/// An order that no cache shows after this long was never given.
const ORDERED_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// Amounts in thousandths of their units. The API server lets no amount through that is not a quantity.
fn resources(amounts: Option<&BTreeMap<String, Quantity>>) -> Resources {
    amounts
        .into_iter()
        .flatten()
        .filter_map(|(name, quantity)| Some((name.clone(), quantities::milli(quantity).ok()?)))
        .collect()
}

/// What a pod asks for: the sum of its containers and sidecars, or its largest init container; a limit counts where no request is.
/// What it asks for as a whole stands for its containers, and its overhead comes on top.
pub(crate) fn requests(spec: &PodSpec) -> Resources {
    total(spec, None)
}

/// What a pod has: as it asks for, or as its kubelet has allocated. The two differ while it is resized in place.
pub(crate) fn allocated(pod: &Pod) -> Resources {
    let spec = pod.spec.as_ref();
    spec.map(|spec| total(spec, pod.status.as_ref()))
        .unwrap_or_default()
}

fn total(spec: &PodSpec, status: Option<&PodStatus>) -> Resources {
    let told = |name: &str| {
        let status = status?;
        let all = [&status.container_statuses, &status.init_container_statuses];
        let told = all
            .into_iter()
            .flatten()
            .flatten()
            .find(|told| told.name == name)?;
        let actual = told
            .resources
            .as_ref()
            .and_then(|actual| actual.requests.as_ref());
        told.allocated_resources.as_ref().or(actual)
    };
    let of = |container: &Container| {
        let asked = container.resources.as_ref();
        let mut all = resources(asked.and_then(|asked| asked.limits.as_ref()));
        all.extend(resources(asked.and_then(|asked| asked.requests.as_ref())));
        all.extend(resources(told(&container.name)));
        all
    };
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let init = || spec.init_containers.iter().flatten();
    let mut sum = Resources::from([("pods".to_owned(), 1000)]);
    for (name, amount) in spec
        .containers
        .iter()
        .chain(init().filter(is_sidecar))
        .flat_map(of)
    {
        let sum = sum.entry(name).or_default();
        *sum = sum.saturating_add(amount);
    }
    for (name, amount) in init()
        .filter(|container| !is_sidecar(container))
        .flat_map(of)
    {
        let sum = sum.entry(name).or_default();
        *sum = (*sum).max(amount);
    }
    if let Some(asked) = &spec.resources {
        let actual = status.and_then(|status| status.resources.as_ref()?.requests.as_ref());
        sum.extend(resources(asked.requests.as_ref()));
        sum.extend(resources(actual));
    }
    for (name, amount) in resources(spec.overhead.as_ref()) {
        let sum = sum.entry(name).or_default();
        *sum = sum.saturating_add(amount);
    }
    sum
}

/// `workers` pods of this spec.
pub(crate) fn gang(spec: &PodSpec, workers: u32) -> Gang {
    Gang {
        workers,
        worker: requests(spec),
        node_selector: spec.node_selector.clone().unwrap_or_default(),
    }
}

/// True if the pod's node selector takes the node.
pub(crate) fn selects(node: &Node, pod: &Gang) -> bool {
    pod.node_selector
        .iter()
        .all(|(key, value)| node.labels().get(key) == Some(value))
}

fn takes_pods(node: &Node) -> bool {
    let cordoned = node
        .spec
        .as_ref()
        .and_then(|spec| spec.unschedulable)
        .unwrap_or(false);
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    !cordoned
        && conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The room on ready nodes. Pods that wait for a node have their place taken already.
pub(crate) fn capacity<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Capacity {
    let mut rooms: BTreeMap<String, NodeRoom> = nodes
        .into_iter()
        .filter(|node| takes_pods(node))
        .map(|node| {
            let allocatable = resources(
                node.status
                    .as_ref()
                    .and_then(|status| status.allocatable.as_ref()),
            );
            (
                node.name_any(),
                NodeRoom {
                    labels: node.labels().clone(),
                    free: allocatable.clone(),
                    allocatable,
                },
            )
        })
        .collect();
    let mut pending = Vec::new();
    for pod in pods.into_iter().filter(|pod| !pod::is_terminal(pod)) {
        let Some(spec) = &pod.spec else { continue };
        match pod::node_name(pod) {
            None => pending.push(gang(spec, 1)),
            Some(node) => {
                let Some(room) = rooms.get_mut(node) else {
                    continue;
                };
                for (name, amount) in requests(spec) {
                    if let Some(free) = room.free.get_mut(&name) {
                        *free = free.saturating_sub(amount);
                    }
                }
            }
        }
    }
    let mut capacity = Capacity {
        nodes: rooms.into_values().collect(),
    };
    pending.iter().for_each(|pod| capacity.place(pod));
    capacity
}

/// Room that decisions have given away and that no cache shows yet: namespaces are decided over at the same time, and a Job's pods
/// come after the Job. Lost with the process, which loses no more than the caches of the next one lack for a moment.
#[derive(Debug, Default)]
pub(crate) struct Reserved(BTreeMap<WorkloadRef, (Timestamp, Gang)>);

impl Reserved {
    /// Replaces what the workloads of a namespace were given: all of their workers.
    pub(crate) fn replace(
        &mut self,
        namespace: &str,
        orders: impl IntoIterator<Item = (WorkloadRef, Gang)>,
        now: Timestamp,
    ) {
        let of_namespace = |workload: &WorkloadRef| workload.namespace == namespace;
        let before = self.0.clone();
        self.0.retain(|workload, _| !of_namespace(workload));
        for (workload, gang) in orders {
            // an order that is given again and again is not a new one
            let since = before.get(&workload).map_or(now, |(since, _)| *since);
            self.0.insert(workload, (since, gang));
        }
    }

    /// Whether room was given to this workload a moment ago.
    pub(crate) fn holds(&self, workload: &WorkloadRef, now: Timestamp) -> bool {
        self.fresh(now).any(|(held, _)| held == workload)
    }

    fn fresh(&self, now: Timestamp) -> impl Iterator<Item = (&WorkloadRef, &Gang)> {
        self.0
            .iter()
            .filter(move |(_, (since, _))| now.duration_since(*since) < ORDERED_WITHIN)
            .map(|(workload, (_, gang))| (workload, gang))
    }
}

/// What all namespaces but `own` have ordered and have no pods of yet: by the caches, and by what is reserved.
pub(crate) fn awaited(
    stores: &Stores,
    own: &str,
    reserved: &Reserved,
    now: Timestamp,
) -> Vec<Gang> {
    let (deployments, jobs) = (stores.deployments.state(), stores.batch_jobs.state());
    let deployments = deployments
        .iter()
        .filter_map(|found| ordered_replicas(found));
    let jobs = jobs.iter().filter_map(|found| ordered_workers(found));
    let mut ordered: BTreeMap<WorkloadRef, Gang> = deployments.chain(jobs).collect();
    for (workload, gang) in reserved.fresh(now) {
        let seen = ordered.entry(workload.clone()).or_default();
        if seen.workers < gang.workers {
            *seen = gang.clone();
        }
    }
    ordered.retain(|workload, gang| workload.namespace != own && gang.workers > 0);
    for pod in stores.pods.state() {
        let workload = pod::workload_of(&pod).filter(|_| pod::is_present(&pod));
        if let Some(gang) = workload.and_then(|workload| ordered.get_mut(&workload)) {
            gang.workers = gang.workers.saturating_sub(1);
        }
    }
    ordered.into_values().collect()
}

fn ordered_replicas(deployment: &Deployment) -> Option<(WorkloadRef, Gang)> {
    let replicas = u32::try_from(deployment.spec.replicas?).ok()?;
    let workload = WorkloadRef {
        namespace: deployment.namespace()?,
        kind: WorkloadKind::InferenceDeployment,
        name: deployment.name_any(),
    };
    let spec = deployment.spec.template.spec.as_ref()?;
    Some((workload, gang(spec, replicas)))
}

fn ordered_workers(job: &Job) -> Option<(WorkloadRef, Gang)> {
    let spec = job.spec.as_ref()?;
    if !is_running(job) || finished(job).is_some() {
        return None;
    }
    let succeeded = job.status.as_ref().and_then(|status| status.succeeded);
    let workers = spec.completions.unwrap_or(1) - succeeded.unwrap_or(0);
    let workload = WorkloadRef {
        namespace: job.namespace()?,
        kind: WorkloadKind::TrainingJob,
        name: job.name_any(),
    };
    let workers = u32::try_from(workers).unwrap_or(0);
    Some((workload, gang(spec.template.spec.as_ref()?, workers)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bound_pods_and_pending_ones_take_their_room() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": "4", "pods": "9"}, "conditions": [
                {"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        let pod = |node: Option<&str>, phase: &str| -> Pod {
            let spec = json!({"nodeName": node, "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]});
            serde_json::from_value(
                json!({"metadata": {}, "spec": spec, "status": {"phase": phase}}),
            )
            .unwrap()
        };
        let capacity = capacity(
            [&node],
            [
                &pod(Some("n"), "Running"),
                &pod(None, "Pending"),
                &pod(Some("n"), "Failed"),
            ],
        );
        assert_eq!(capacity.nodes[0].free["nvidia.com/gpu"], 2000);
    }
}
