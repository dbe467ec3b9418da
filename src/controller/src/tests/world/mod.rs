//! Everything but Bursar: users, clients and their requests, and the rest of the cluster. It keeps its own journal of when pods held
//! a node, from which [`World::cost`] computes what the ledger must say.

mod cluster;
mod journal;
mod leader_worker_sets;

use std::collections::BTreeMap;

use bursar_api::names::SERVING_LABEL;
use bursar_api::{BudgetPolicy, InferenceDeployment, PriceList, SpendRecord, TrainingJob};
use bursar_apitest::Server;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(super) use self::cluster::mounted;
use self::journal::PodLifetime;
pub(super) use self::leader_worker_sets::LeaderWorkerSet;
use crate::pod;
use crate::priority::AllowedClass;

pub(super) const NAMESPACE: &str = "team";
pub(super) const OPERATOR: &str = "bursar-system";
/// GPUs of the only node.
const GPUS: usize = 8;

pub(super) struct World {
    pub(super) server: Server,
    pub(super) now: Timestamp,
    /// Requests that clients have in flight; they wait in the gateway while nobody serves.
    pub(super) requests: u64,
    client: Client,
    lifetimes: BTreeMap<String, PodLifetime>,
    /// Replicas that a Deployment took away while the Service still sent them requests.
    pub(super) cut: Vec<String>,
    /// The Deployment and the Job controllers act in every third second only.
    pub(super) slow: bool,
    /// Whether an admission policy gives pods their finalizer.
    pub(super) admission: bool,
    /// After how long edits take effect that would stop something.
    pub(super) change_grace: SignedDuration,
    /// PriorityClasses that count beside other namespaces.
    pub(super) allowed_classes: Vec<AllowedClass>,
    /// Whether controllers only observe from the next one on.
    pub(super) observe_only: bool,
    /// Workers of this index go to another node than the first one.
    pub(super) far: Option<(&'static str, &'static str)>,
    /// Jobs make no pods, as after many failures.
    pub(super) jobs_back_off: bool,
    /// The cluster refuses to make more workers than these, in these words.
    pub(super) worker_quota: Option<(usize, &'static str)>,
    /// When Jobs began to run, by UID.
    began: BTreeMap<String, Timestamp>,
    /// The kubelet of this node is not there.
    pub(super) lost: Option<&'static str>,
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
            lifetimes: BTreeMap::new(),
            cut: Vec::new(),
            slow: false,
            admission: true,
            change_grace: SignedDuration::ZERO,
            allowed_classes: Vec::new(),
            observe_only: false,
            far: None,
            jobs_back_off: false,
            worker_quota: None,
            began: BTreeMap::new(),
            lost: None,
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
        self.delete_all::<PriceList>("ours").await;
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

    /// The kubelet of a node is not heard of any more.
    pub(super) async fn lose(&mut self, node: &'static str) {
        self.lost = Some(node);
        let unknown = json!([{"type": "Ready", "status": "Unknown"}]);
        let status = Patch::Merge(json!({"status": {"conditions": unknown}}));
        let params = PatchParams::default();
        self.nodes()
            .patch_status(node, &params, &status)
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

    /// The gateway of this name is ready from now on, or is not.
    pub(super) async fn set_gateway(&self, name: &str, ready: bool) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), OPERATOR);
        if api.get_opt(name).await.unwrap().is_none() {
            let labels = json!({"app.kubernetes.io/name": "bursar", "app.kubernetes.io/component": "gateway"});
            let pod = json!({
                "metadata": {"name": name, "labels": labels},
                "spec": {"nodeName": "other", "containers": [{"name": "c", "image": "gateway"}]},
            });
            let pod = serde_json::from_value(pod).unwrap();
            api.create(&PostParams::default(), &pod).await.unwrap();
        }
        let conditions = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        let status =
            json!({"status": {"phase": "Running", "podIP": "10.0.9.1", "conditions": conditions}});
        let params = PatchParams::default();
        api.patch_status(name, &params, &Patch::Merge(status))
            .await
            .unwrap();
    }

    /// The gateway of this name is gone.
    pub(super) async fn delete_gateway(&self, name: &str) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), OPERATOR);
        let at_once = DeleteParams::default().grace_period(0);
        api.delete(name, &at_once).await.unwrap();
    }

    /// Sets `activation` of the service.
    pub(super) async fn set_activation(&self, activation: Value) {
        let patch = Patch::Merge(json!({"spec": {"activation": activation}}));
        self.api::<InferenceDeployment>()
            .patch("chat", &PatchParams::default(), &patch)
            .await
            .unwrap();
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

    /// Deletes an object of the cluster's administrator.
    pub(super) async fn delete_all<K>(&self, name: &str)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        api.delete(name, &DeleteParams::default()).await.unwrap();
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
            pod::is_ready(pod)
                && pod::label(pod, "bursar.dev/kind") == Some("InferenceDeployment")
                && pod::leader(pod).is_none()
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
}

pub(super) fn gang(name: &str, workers: i32) -> Value {
    let template =
        json!({"spec": {"terminationGracePeriodSeconds": 3, "containers": [container()]}});
    json!({"metadata": {"name": name}, "spec": {"framework": "PyTorch", "replicas": workers, "template": template}})
}

fn container() -> Value {
    json!({"name": "c", "image": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}}})
}

fn named<K: Resource<DynamicType = ()>>(object: &mut Value) {
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
}
