//! Everything but Bursar: users, the Deployment and Job controllers, the scheduler, the kubelet, and the clock. It keeps its own
//! journal of when pods held a node, from which [`World::cost`] computes what the ledger must say.

use std::collections::BTreeMap;

use bursar_api::names::{DELETION_COST_ANNOTATION, SERVING_LABEL, SPEND_FINALIZER};
use bursar_api::{BudgetPolicy, InferenceDeployment, PriceList, SpendRecord, TrainingJob};
use bursar_apitest::Server;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::pod;

pub(super) const NAMESPACE: &str = "team";
pub(super) const OPERATOR: &str = "bursar-system";
/// Nano-units that a GPU costs an hour.
const PRICE: i128 = 3_600_000_000;
/// GPUs of the only node.
const GPUS: usize = 8;
/// Seconds from the order to end until a pod has ended.
const GRACE: i64 = 3;

/// Since when and until when a pod held its node.
struct Stay {
    workload: String,
    from: Timestamp,
    to: Option<Timestamp>,
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) now: Timestamp,
    /// Requests that clients have in flight; they wait in the gateway while nobody serves.
    pub(super) requests: u64,
    client: Client,
    stays: BTreeMap<String, Stay>,
    /// Replicas that a Deployment took away while the Service still sent them requests.
    pub(super) cut: Vec<String>,
    /// The Deployment and the Job controllers act in every third second only.
    pub(super) slow: bool,
    /// Whether an admission policy gives pods their finalizer.
    pub(super) admission: bool,
    /// What controllers wrote last, by UID.
    reported: BTreeMap<String, Value>,
}

impl World {
    /// A cluster with a node of eight GPUs and a price for them.
    pub(super) async fn new() -> Self {
        let server = Server::new(&[NAMESPACE, OPERATOR]);
        let now: Timestamp = "2026-11-30T23:58:50Z".parse().unwrap();
        server.set_clock(now);
        let world = Self {
            client: server.client(),
            server,
            now,
            requests: 0,
            stays: BTreeMap::new(),
            cut: Vec::new(),
            slow: false,
            admission: true,
            reported: BTreeMap::new(),
        };
        world.create_node("node").await;
        world.create_prices().await;
        world
    }

    /// The list that prices the nodes' GPUs.
    pub(super) async fn create_prices(&self) {
        let spec = json!({"currency": "USD", "gpus": [{"model": "H100", "pricePerHour": "3.6"}]});
        let list = json!({"metadata": {"name": "ours"}, "spec": spec});
        self.create_all::<PriceList>(list).await;
    }

    /// Takes that list away.
    pub(super) async fn delete_prices(&self) {
        let lists: Api<PriceList> = Api::all(self.client.clone());
        lists.delete("ours", &Default::default()).await.unwrap();
    }

    /// A node of eight GPUs.
    pub(super) async fn create_node(&self, name: &str) {
        let labels = json!({"nvidia.com/gpu.product": "H100", "kubernetes.io/hostname": name});
        self.create_all::<Node>(json!({"metadata": {"name": name, "labels": labels}}))
            .await;
        let capacity = json!({"nvidia.com/gpu": GPUS.to_string(), "cpu": "64", "memory": "512Gi", "pods": "110"});
        self.offer(name, capacity).await;
    }

    /// The node offers this from now on.
    pub(super) async fn offer(&self, name: &str, capacity: Value) {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let status =
            json!({"status": {"capacity": capacity, "allocatable": capacity, "conditions": ready}});
        self.nodes()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    pub(super) fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// An object of the namespace's user.
    pub(super) async fn create<K>(&self, mut object: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
    {
        named::<K>(&mut object);
        self.api::<K>()
            .create(
                &PostParams::default(),
                &serde_json::from_value(object).unwrap(),
            )
            .await
            .unwrap();
    }

    /// An object of the cluster's administrator.
    pub(super) async fn create_all<K>(&self, mut object: Value)
    where
        K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
    {
        named::<K>(&mut object);
        let api: Api<K> = Api::all(self.client.clone());
        api.create(
            &PostParams::default(),
            &serde_json::from_value(object).unwrap(),
        )
        .await
        .unwrap();
    }

    pub(super) async fn create_chat(&self, min: u32) {
        self.create::<InferenceDeployment>(json!({
            "metadata": {"name": "chat"},
            "spec": {
                "engine": "vLLM", "minReplicas": min, "maxReplicas": 3,
                "scaling": {
                    "signals": [{"type": "Engine", "target": 4}], "idle": {"after": "6s"},
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3}},
                },
                "drain": {"timeout": "5s"},
                "template": {"spec": {"terminationGracePeriodSeconds": 3, "containers": [container()]}},
            },
        }))
        .await;
    }

    pub(super) async fn create_job(&self, priority_class: Option<&str>) {
        let mut job = gang("train", 2);
        job["spec"]["priorityClassName"] = json!(priority_class);
        self.create::<TrainingJob>(job).await;
    }

    /// A gang of another team.
    pub(super) async fn create_gang_in(&self, namespace: &str, name: &str, workers: i32) {
        let mut job = gang(name, workers);
        named::<TrainingJob>(&mut job);
        let api: Api<TrainingJob> = Api::namespaced(self.client.clone(), namespace);
        let job = serde_json::from_value(job).unwrap();
        api.create(&PostParams::default(), &job).await.unwrap();
    }

    /// A pod that is not Bursar's and has a GPU already.
    pub(super) async fn create_foreign_pod(&self, name: &str) {
        let spec = json!({"nodeName": "node", "containers": [container()]});
        self.create::<Pod>(json!({"metadata": {"name": name}, "spec": spec}))
            .await;
    }

    pub(super) async fn set_limit(&self, limit: &str) {
        let api = self.api::<BudgetPolicy>();
        if api.get_opt("team").await.unwrap().is_none() {
            let spec = json!({"limit": limit, "period": "Monthly", "minimumUsefulRun": "5s"});
            self.create::<BudgetPolicy>(json!({"metadata": {"name": "team"}, "spec": spec}))
                .await;
        }
        let patch = Patch::Merge(json!({"spec": {"limit": limit}}));
        api.patch("team", &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Deletes a workload as its user does. What it owned goes in the next turns.
    pub(super) async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        self.api::<K>()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub(super) fn pods(&self) -> Vec<Pod> {
        self.server.objects()
    }

    /// Ready pods and how many of the requests each has. Those that leave finish what they have at once.
    pub(super) fn serving(&self) -> Vec<(Pod, u64)> {
        let mut ready = self.pods();
        ready.retain(|pod| {
            pod::is_ready(pod) && pod::label(pod, "bursar.dev/kind") == Some("InferenceDeployment")
        });
        let takes = |pod: &Pod| {
            pod.labels().contains_key(SERVING_LABEL) && pod.metadata.deletion_timestamp.is_none()
        };
        let taking = ready.iter().filter(|pod| takes(pod)).count() as u64;
        let mut rest = if taking == 0 {
            0
        } else {
            self.requests % taking
        };
        ready
            .into_iter()
            .map(|pod| {
                let mut busy = if takes(&pod) {
                    self.requests / taking
                } else {
                    0
                };
                if takes(&pod) && rest > 0 {
                    (busy, rest) = (busy + 1, rest - 1);
                }
                (pod, busy)
            })
            .collect()
    }

    /// Requests that wait in the gateway.
    pub(super) fn held(&self) -> u64 {
        let serves = |pod: &Pod| pod::is_ready(pod) && pod.labels().contains_key(SERVING_LABEL);
        if self.pods().iter().any(serves) {
            0
        } else {
            self.requests
        }
    }

    /// A second passes for everybody but Bursar.
    pub(super) async fn turn(&mut self) {
        self.now += SignedDuration::from_secs(1);
        self.server.set_clock(self.now);
        self.collect_garbage().await;
        if !self.slow || self.now.as_second() % 3 == 0 {
            self.deployments().await;
        }
        if !self.slow || self.now.as_second() % 3 == 0 {
            self.jobs().await;
        }
        self.scheduler().await;
        self.kubelet().await;
        self.endpoints().await;
    }

    async fn collect_garbage(&self) {
        let services: Vec<InferenceDeployment> = self.server.objects();
        let jobs: Vec<TrainingJob> = self.server.objects();
        let mut owners: Vec<String> = services.iter().filter_map(ResourceExt::uid).collect();
        owners.extend(jobs.iter().filter_map(ResourceExt::uid));
        self.sweep::<Deployment>(&owners).await;
        self.sweep::<Job>(&owners).await;
        self.sweep::<Service>(&owners).await;
        self.sweep::<EndpointSlice>(&owners).await;
        let deployments: Vec<Deployment> = self.server.objects();
        let jobs: Vec<Job> = self.server.objects();
        owners = deployments.iter().filter_map(ResourceExt::uid).collect();
        owners.extend(jobs.iter().filter_map(ResourceExt::uid));
        self.sweep::<Pod>(&owners).await;
    }

    async fn sweep<K>(&self, owners: &[String])
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        for object in self.server.objects::<K>() {
            let owned = object.owner_references().is_empty()
                || object
                    .owner_references()
                    .iter()
                    .any(|owner| owners.contains(&owner.uid));
            if !owned && object.meta().deletion_timestamp.is_none() {
                self.api::<K>()
                    .delete(&object.name_any(), &DeleteParams::default())
                    .await
                    .unwrap();
            }
        }
    }

    async fn deployments(&mut self) {
        for deployment in self.server.objects::<Deployment>() {
            let mut pods = self.alive(&deployment);
            let wanted = usize::try_from(deployment.spec.replicas.unwrap_or(1)).unwrap();
            let cost = |pod: &Pod| {
                pod.annotations()
                    .get(DELETION_COST_ANNOTATION)
                    .and_then(|cost| cost.parse::<i64>().ok())
            };
            pods.sort_by_key(|pod| {
                (
                    cost(pod).unwrap_or(0),
                    pod::is_ready(pod),
                    std::cmp::Reverse(pod.name_any()),
                )
            });
            let surplus = pods.len().saturating_sub(wanted);
            for pod in pods.iter().take(surplus) {
                if pod.labels().contains_key(SERVING_LABEL) {
                    self.cut.push(pod.name_any());
                }
                self.api::<Pod>()
                    .delete(&pod.name_any(), &DeleteParams::default())
                    .await
                    .unwrap();
            }
            for _ in pods.len()..wanted {
                self.make_pod(
                    &deployment,
                    &deployment.spec.template,
                    &format!("{}-", deployment.name_any()),
                )
                .await;
            }
            let status = json!({"status": {
                "replicas": wanted, "updatedReplicas": wanted, "observedGeneration": deployment.metadata.generation,
            }});
            self.report(&deployment, status).await;
        }
    }

    async fn jobs(&mut self) {
        for job in self.server.objects::<Job>() {
            let spec = job.spec.clone().unwrap();
            let suspended = spec.suspend == Some(true);
            let of_job: Vec<Pod> = self
                .pods()
                .into_iter()
                .filter(|pod| is_owned(pod, &job))
                .collect();
            let going = of_job
                .iter()
                .filter(|pod| !pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_some())
                .count();
            let alive = self.alive(&job);
            let wanted = if suspended {
                0
            } else {
                usize::try_from(spec.completions.unwrap_or(1)).unwrap()
            };
            for pod in alive.iter().skip(wanted) {
                self.api::<Pod>()
                    .delete(&pod.name_any(), &DeleteParams::default())
                    .await
                    .unwrap();
            }
            // a pod is replaced when the one before it has ended
            if going == 0 {
                for _ in alive.len()..wanted {
                    self.make_pod(&job, &spec.template, &format!("{}-", job.name_any()))
                        .await;
                }
            }
            let of_job: Vec<Pod> = self
                .pods()
                .into_iter()
                .filter(|pod| is_owned(pod, &job) && !pod::is_terminal(pod))
                .collect();
            let terminating = of_job
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_some())
                .count();
            let ready = of_job.iter().filter(|pod| pod::is_ready(pod)).count();
            let status = json!({"status": {"active": of_job.len() - terminating, "terminating": terminating, "ready": ready}});
            self.report(&job, status).await;
        }
    }

    /// Writes a status, if it is news.
    async fn report<K>(&mut self, object: &K, status: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let known = self
            .reported
            .insert(object.uid().unwrap_or_default(), status.clone());
        if known.as_ref() != Some(&status) {
            let patch = Patch::Merge(status);
            self.api::<K>()
                .patch_status(&object.name_any(), &PatchParams::default(), &patch)
                .await
                .unwrap();
        }
    }

    fn alive<K: ResourceExt>(&self, owner: &K) -> Vec<Pod> {
        let mut pods = self.pods();
        pods.retain(|pod| {
            is_owned(pod, owner)
                && !pod::is_terminal(pod)
                && pod.metadata.deletion_timestamp.is_none()
        });
        pods
    }

    /// A pod as admission leaves it.
    async fn make_pod<K>(
        &self,
        owner: &K,
        template: &k8s_openapi::api::core::v1::PodTemplateSpec,
        prefix: &str,
    ) where
        K: Resource<DynamicType = ()>,
    {
        let mut metadata = template.metadata.clone().unwrap_or_default();
        metadata.generate_name = Some(prefix.to_owned());
        metadata.owner_references = owner.controller_owner_ref(&()).map(|owner| vec![owner]);
        metadata.finalizers = self.admission.then(|| vec![SPEND_FINALIZER.to_owned()]);
        let pod = Pod {
            metadata,
            spec: template.spec.clone(),
            status: None,
        };
        self.api::<Pod>()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
    }

    async fn scheduler(&mut self) {
        let holds = |pod: &Pod| pod::node_name(pod).is_some() && !pod::is_terminal(pod);
        let mut free = GPUS - self.pods().iter().filter(|pod| holds(pod)).count();
        for pod in self.pods() {
            let waits = pod::node_name(&pod).is_none() && pod.metadata.deletion_timestamp.is_none();
            if !waits || free == 0 {
                continue;
            }
            free -= 1;
            let condition = json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": self.now.to_string()}]);
            self.patch_pod(&pod, json!({"spec": {"nodeName": "node"}}))
                .await;
            self.patch_status(&pod, json!({"conditions": condition}))
                .await;
            let workload = pod.labels()["bursar.dev/workload"].clone();
            self.stays.insert(
                pod.uid().unwrap(),
                Stay {
                    workload,
                    from: self.now,
                    to: None,
                },
            );
        }
    }

    async fn kubelet(&mut self) {
        for pod in self.pods() {
            let Some(stay) = self.stays.get_mut(pod::uid(&pod)) else {
                continue;
            };
            if let Some(deletion) = &pod.metadata.deletion_timestamp {
                let ordered = deletion.0
                    - SignedDuration::from_secs(
                        pod.metadata.deletion_grace_period_seconds.unwrap_or(0),
                    );
                let end = ordered + SignedDuration::from_secs(GRACE);
                if pod::is_terminal(&pod) {
                    self.remove(&pod).await;
                } else if self.now >= end {
                    stay.to = Some(self.now);
                    self.finish(&pod).await;
                    if pod.finalizers().is_empty() {
                        self.remove(&pod).await;
                    }
                }
            } else if stay.from + SignedDuration::from_secs(1) <= self.now
                && !pod::is_ready(&pod)
                && !pod::is_terminal(&pod)
            {
                let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": stay.from.to_string()});
                let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": self.now.to_string()});
                self.patch_status(&pod, json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [scheduled, ready]})).await;
            }
        }
    }

    pub(super) async fn remove(&self, pod: &Pod) {
        let now = DeleteParams::default().grace_period(0);
        self.api::<Pod>()
            .delete(&pod.name_any(), &now)
            .await
            .unwrap();
    }

    async fn finish(&self, pod: &Pod) {
        self.end(pod, self.stays[pod::uid(pod)].from).await;
    }

    /// Its containers end now; it was bound at that time.
    pub(super) async fn end(&self, pod: &Pod, bound: Timestamp) {
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": bound.to_string()});
        let ended = json!([{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "finishedAt": self.now.to_string()}},
        }]);
        self.patch_status(
            pod,
            json!({"phase": "Succeeded", "conditions": [scheduled], "containerStatuses": ended}),
        )
        .await;
    }

    async fn endpoints(&mut self) {
        for service in self.server.objects::<Service>() {
            let name = service.name_any();
            if service
                .spec
                .as_ref()
                .and_then(|spec| spec.cluster_ip.as_deref())
                == Some("None")
            {
                continue;
            }
            let serving = self.pods().into_iter().filter(|pod| {
                pod::is_ready(pod)
                    && pod.labels().contains_key(SERVING_LABEL)
                    && pod.metadata.deletion_timestamp.is_none()
            });
            let endpoints: Vec<Value> = serving
                .map(|pod| json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "uid": pod.uid()}}))
                .collect();
            let labels = json!({"bursar.dev/workload": name, "bursar.dev/kind": "InferenceDeployment", "kubernetes.io/service-name": name});
            let owner = service
                .controller_owner_ref(&())
                .map(|_| service.owner_references().to_vec());
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
                "metadata": {"name": format!("{name}-x"), "labels": labels, "ownerReferences": owner},
            });
            let params = PatchParams::apply("endpoints").force();
            let known = self
                .reported
                .insert(service.uid().unwrap_or_default(), slice.clone());
            if known.as_ref() == Some(&slice) {
                continue;
            }
            self.api::<EndpointSlice>()
                .patch(&format!("{name}-x"), &params, &Patch::Apply(slice))
                .await
                .unwrap();
        }
    }

    async fn patch_pod(&self, pod: &Pod, patch: Value) {
        let patch = Patch::Merge(patch);
        self.api::<Pod>()
            .patch(&pod.name_any(), &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    async fn patch_status(&self, pod: &Pod, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        self.api::<Pod>()
            .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Nano-units that each workload's ended pods cost, by this world's own journal.
    pub(super) fn cost(&self) -> BTreeMap<String, i128> {
        let mut cost = BTreeMap::new();
        for stay in self.stays.values() {
            let Some(to) = stay.to else { continue };
            let seconds = i128::from((to - stay.from).total(jiff::Unit::Second).unwrap() as i64);
            *cost.entry(stay.workload.clone()).or_insert(0) += PRICE * seconds / 3600;
        }
        cost
    }

    /// Each workload's record of each month: its own, if anything was written to it, else as it was folded.
    pub(super) fn records(&self) -> Vec<SpendRecord> {
        let all: Vec<SpendRecord> = self.server.objects();
        let (folded, own): (Vec<_>, Vec<_>) = all.into_iter().partition(SpendRecord::is_folded);
        let sections = folded.iter().flat_map(|record| record.unfold().unwrap());
        let written = own.into_iter().filter(|record| record.status.is_some());
        let by_name = |record: SpendRecord| (record.name_any(), record);
        let mut records: BTreeMap<String, SpendRecord> =
            sections.map(|(_, record)| by_name(record)).collect();
        records.extend(written.map(by_name));
        records.into_values().collect()
    }

    /// When pods were bound and when they ended, by this world's own journal, the first first.
    pub(super) fn times(&self) -> Vec<(Timestamp, Option<Timestamp>)> {
        let mut times: Vec<_> = self
            .stays
            .values()
            .map(|stay| (stay.from, stay.to))
            .collect();
        times.sort();
        times
    }

    /// Nano-units that the SpendRecords say.
    pub(super) fn recorded(&self) -> BTreeMap<String, i128> {
        let mut sums = BTreeMap::new();
        for record in self.records() {
            let account = record.to_account().unwrap();
            let settled: i128 = account
                .days()
                .values()
                .flatten()
                .map(|(_, line)| line.cost.total().nanos())
                .sum();
            *sums.entry(record.spec.name.clone()).or_insert(0) += settled;
        }
        sums.retain(|_, sum| *sum != 0);
        sums
    }

    /// Nano-units of those that rest on an estimated end.
    pub(super) fn estimated(&self) -> i128 {
        let records = self.records();
        let accounts = records.iter().map(|record| record.to_account().unwrap());
        accounts
            .flat_map(|account| account.days().clone().into_values().flatten())
            .map(|(_, line)| line.estimated.nanos())
            .sum()
    }

    /// Versions of all that Bursar could change, by kind and name.
    pub(super) fn state(&self) -> BTreeMap<String, String> {
        fn versions<K: Resource<DynamicType = ()> + DeserializeOwned>(
            server: &Server,
        ) -> Vec<(String, String)> {
            let objects = server.objects::<K>();
            let version = |object: &K| object.resource_version().unwrap_or_default();
            objects
                .iter()
                .map(|object| {
                    (
                        format!("{} {}", K::kind(&()), object.name_any()),
                        version(object),
                    )
                })
                .collect()
        }
        let server = &self.server;
        let all = [
            versions::<InferenceDeployment>(server),
            versions::<Deployment>(server),
            versions::<Service>(server),
            versions::<EndpointSlice>(server),
            versions::<Pod>(server),
            versions::<SpendRecord>(server),
        ];
        all.into_iter().flatten().collect()
    }

    /// Pods that ever held a node.
    pub(super) fn stays(&self) -> usize {
        self.stays.len()
    }
}

fn gang(name: &str, workers: i32) -> Value {
    let template =
        json!({"spec": {"terminationGracePeriodSeconds": 3, "containers": [container()]}});
    json!({"metadata": {"name": name}, "spec": {"framework": "PyTorch", "replicas": workers, "template": template}})
}

fn container() -> Value {
    json!({"name": "c", "image": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}}})
}

fn is_owned<K: ResourceExt>(object: &Pod, owner: &K) -> bool {
    object
        .owner_references()
        .iter()
        .any(|reference| Some(&reference.uid) == owner.uid().as_ref())
}

fn named<K: Resource<DynamicType = ()>>(object: &mut Value) {
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
}
