//! Objects as a user writes them who wants to do harm.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// Labels and annotations that Bursar reads, of any object.
pub(super) const KEYS: [&str; 57] = [
    "bursar.dev/kind",
    "bursar.dev/workload",
    "bursar.dev/signal-credentials",
    "bursar.dev/serving",
    "bursar.dev/role",
    "bursar.dev/gateway",
    "bursar.dev/namespace",
    "bursar.dev/month",
    "bursar.dev/leader-uid",
    "bursar.dev/draining-since",
    "bursar.dev/gang-retries",
    "bursar.dev/gang-retry-at",
    "bursar.dev/gang-refused",
    "bursar.dev/gang-retry-had-room",
    "bursar.dev/gang-restarts",
    "bursar.dev/gang-restart-at",
    "bursar.dev/gang-disruptions",
    "bursar.dev/launcher-files",
    "bursar.dev/apply-now",
    "bursar.dev/spec-hash",
    "bursar.dev/suspended",
    "controller.kubernetes.io/pod-deletion-cost",
    "app",
    "app.kubernetes.io/name",
    "app.kubernetes.io/component",
    "app.kubernetes.io/managed-by",
    "pod-template-hash",
    "batch.kubernetes.io/job-completion-index",
    "kubernetes.io/service-name",
    "kueue.x-k8s.io/queue-name",
    "leaderworkerset.sigs.k8s.io/name",
    "leaderworkerset.sigs.k8s.io/worker-index",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "nvidia.com/gpu.product",
    "nvidia.com/gpu.count",
    "nvidia.com/gpu.memory",
    "nvidia.com/gpu.replicas",
    "amd.com/gpu.product-name",
    "beta.amd.com/gpu.product-name",
    "amd.com/gpu.device-id",
    "beta.amd.com/gpu.device-id",
    "amd.com/gpu.vram",
    "cloud.google.com/gke-tpu-accelerator",
    "karpenter.k8s.aws/instance-accelerator-name",
    "habana.ai/gaudi.product",
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "eks.amazonaws.com/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "gpu.nvidia.com/model",
    "gpu.nvidia.com/class",
    "doks.digitalocean.com/gpu-model",
    "kubernetes.azure.com/accelerator",
    "cloud.google.com/gke-max-shared-clients-per-gpu",
];

const GPUS: [&str; 6] = [
    "nvidia.com/gpu",
    "amd.com/gpu",
    "nvidia.com/mig-1g.5gb",
    "nvidia.com/gpu.shared",
    "google.com/tpu",
    "aws.amazon.com/neuroncore",
];

const VALUES: [&str; 44] = [
    "",
    " ",
    "-",
    "0",
    "-0",
    "-1",
    "1",
    "00",
    "1.5",
    "1e9",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "-9223372036854775808",
    "NaN",
    "inf",
    "true",
    "false",
    "unmanaged",
    "nodes",
    "InferenceDeployment",
    "TrainingJob",
    "chat",
    "train",
    "gateway",
    "bursar",
    "nvidia-dcgm-exporter",
    "team",
    "2026-11",
    "-009999-01-02T01:59:59Z",
    "0001-01-01T00:00:00Z",
    "2026-11-30T23:59:60Z",
    "9999-12-30T22:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "NVIDIA-H100-80GB-HBM3",
    "A100-SXM4-40GB-MIG-3g.20gb",
    "A100-SHARED",
    "-MIG-",
    "-SHARED",
    "MIG-0g.0gb-MIG-99g.9999gb",
    "\u{0}",
    "\u{202e}evil\u{1f4a5}",
    "line\nbreak\ttab",
];

const COUNTS: [&str; 14] = [
    "0",
    "1",
    "8",
    "2k",
    "1e3",
    "3000m",
    "1500m",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "8Ei",
    "-1",
    "-9223372036854775808",
];

const AMOUNTS: [&str; 10] = [
    "0",
    "1",
    "1m",
    "1n",
    "1e18",
    "9223372036854775807",
    "8Ei",
    "-8Ei",
    "999999999999999999999Ei",
    "0.000000001",
];

/// Makes objects from a seed.
pub(super) struct Hostile {
    rng: Rng,
    namespace: &'static str,
    /// Whether some of them are as large as the API server takes.
    pub(super) bulk: bool,
}

impl Hostile {
    pub(super) fn new(seed: u64, namespace: &'static str) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            namespace,
            bulk: false,
        }
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.rng.usize(..count) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.rng.usize(..choices.len())]
    }

    /// A resource that counts as a GPU.
    pub(super) fn gpu(&mut self) -> &'static str {
        self.of(&GPUS)
    }

    fn value(&mut self) -> String {
        match self.rng.usize(..24) {
            0 => "x".repeat(253),
            1 => "y".repeat(self.rng.usize(..70)),
            2 => "\u{1f4a5}".repeat(64),
            // the API server takes 256 KiB of annotations
            3 if self.bulk && self.one_in(8) => "z\n".repeat(120_000),
            _ => self.of(&VALUES).to_owned(),
        }
    }

    fn annotations(&mut self) -> Map<String, Value> {
        let keys = KEYS.into_iter().filter(|_| self.rng.usize(..3) == 0);
        let keys: Vec<&str> = keys.collect();
        let named = keys
            .into_iter()
            .map(|key| (key.to_owned(), json!(self.value())));
        let mut all: Map<String, Value> = named.collect();
        all.extend(self.other_keys());
        all
    }

    /// The API server takes 63 bytes as the value of a label.
    fn labels(&mut self) -> Map<String, Value> {
        let mut all = self.annotations();
        all.retain(|_, value| value.as_str().is_some_and(|value| value.len() <= 63));
        all
    }

    /// Very many keys that begin as those that are read.
    fn other_keys(&mut self) -> Map<String, Value> {
        let count = if self.bulk && self.one_in(40) {
            2_000
        } else {
            0
        };
        let keys = (0..count).flat_map(|number| {
            let ours = (format!("bursar.dev/{number}"), json!("x".repeat(60)));
            [ours, (format!("batch.kubernetes.io/{number}"), json!("x"))]
        });
        keys.collect()
    }

    fn owner(&mut self) -> Value {
        let kind = self.of(&[
            "ReplicaSet",
            "Job",
            "DaemonSet",
            "Node",
            "TrainingJob",
            "InferenceDeployment",
            "Deployment",
            "",
        ]);
        let uid = match self.one_in(2) {
            // of the first objects of the other namespace
            true => format!("00000000-0000-4000-8000-{:012}", self.rng.usize(..60)),
            false => self.value(),
        };
        let name = match self.one_in(2) {
            true => self.of(&["chat", "train", "node", "chat-7b9f"]).to_owned(),
            false => self.value(),
        };
        let version = self.of(&["apps/v1", "batch/v1", "v1", "bursar.dev/v1alpha1"]);
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": self.one_in(2)})
    }

    /// Metadata of a namespaced object.
    fn metadata(&mut self, name: &str) -> Value {
        let owners: Vec<Value> = (0..self.rng.usize(..4)).map(|_| self.owner()).collect();
        json!({
            "name": name, "namespace": self.namespace, "uid": null, "labels": self.labels(), "annotations": self.annotations(),
            "ownerReferences": owners, "creationTimestamp": "2026-11-30T10:00:00Z",
        })
    }

    /// Metadata of a workload, whose labels nobody checks.
    fn workload_metadata(&mut self, name: &str) -> Value {
        let mut metadata = self.metadata(name);
        metadata["ownerReferences"] = json!([]);
        metadata
    }

    fn resources(&mut self) -> Value {
        let mut amounts = Map::new();
        for _ in 0..self.rng.usize(..3) {
            let (gpu, count) = (self.of(&GPUS), self.of(&COUNTS));
            amounts.insert(gpu.to_owned(), json!(count));
        }
        for resource in ["cpu", "memory", "ephemeral-storage", "example.com/tpu-v99"] {
            if self.one_in(3) {
                amounts.insert(resource.to_owned(), json!(self.of(&AMOUNTS)));
            }
        }
        match self.rng.usize(..3) {
            0 => json!({"limits": amounts}),
            1 => json!({"requests": amounts}),
            _ => json!({"limits": amounts, "requests": amounts}),
        }
    }

    fn container(&mut self, name: &str) -> Value {
        let policy = self.of(&[None, Some("Always"), Some("Never"), Some("")]);
        json!({"name": name, "image": "i", "resources": self.resources(), "restartPolicy": policy})
    }

    /// A pod, in most cases one that is bound to an odd node.
    pub(super) fn pod(&mut self, name: &str) -> Value {
        let containers: Vec<Value> = (0..self.rng.usize(1..4))
            .map(|at| self.container(&format!("c{at}")))
            .collect();
        let init: Vec<Value> = (0..self.rng.usize(..3))
            .map(|at| self.container(&format!("i{at}")))
            .collect();
        let ephemeral = json!({"name": "e", "image": "i"});
        let claims: Vec<Value> = (0..self.rng.usize(..4))
            .map(|at| json!({"name": format!("v{at}"), "persistentVolumeClaim": {"claimName": format!("p{}", self.rng.usize(..60))}}))
            .collect();
        let node = match self.one_in(4) {
            true => None,
            false => Some(format!("odd-{}", self.rng.usize(..8))),
        };
        let grace = self.of(&[
            None,
            Some(0),
            Some(-1),
            Some(i64::MAX),
            Some(i64::MIN),
            Some(30),
        ]);
        let deleted = self.of(&[
            None,
            None,
            Some("2026-11-30T10:00:00Z"),
            Some("9999-12-30T22:00:00Z"),
        ]);
        let mut metadata = self.metadata(name);
        metadata["deletionTimestamp"] = json!(deleted);
        metadata["deletionGracePeriodSeconds"] = json!(deleted.and(grace));
        let finished = self.of(&[
            "2026-11-30T11:00:00Z",
            "0001-01-01T00:00:00Z",
            "9999-12-30T22:00:00Z",
            "1970-01-01T00:00:00Z",
        ]);
        let state = json!({"terminated": {"exitCode": 1, "finishedAt": finished, "message": self.value(), "reason": self.value()}});
        json!({
            "metadata": metadata,
            "spec": {
                "nodeName": node, "containers": containers, "initContainers": init, "ephemeralContainers": [ephemeral],
                "volumes": claims, "terminationGracePeriodSeconds": grace, "overhead": {"cpu": self.of(&AMOUNTS)},
                "priority": self.of(&[None, Some(i32::MAX), Some(i32::MIN)]),
                "nodeSelector": {"kubernetes.io/hostname": self.value()},
            },
            "status": {
                "phase": self.of(&["Running", "Pending", "Failed", "Succeeded", "", "Unknown"]),
                "podIP": self.of(&["10.0.0.1", "169.254.169.254", "::1", "x"]),
                "startTime": "2026-11-30T10:00:00Z",
                "containerStatuses": [{"name": "c0", "ready": true, "restartCount": i32::MAX, "image": "i", "imageID": "i", "state": state}],
                "conditions": [{"type": "Ready", "status": self.of(&["True", "False", "", "x"]), "message": self.value()}],
            },
        })
    }

    /// A node whose labels are anything.
    pub(super) fn node(&mut self, name: &str) -> Value {
        let mut metadata = self.workload_metadata(name);
        metadata["namespace"] = Value::Null;
        let capacity = json!({(self.gpu()): self.of(&COUNTS), "nvidia.com/gpu": self.of(&COUNTS), "cpu": self.of(&AMOUNTS), "memory": "1Ti", "pods": "110"});
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        json!({"metadata": metadata, "status": {"capacity": capacity, "allocatable": capacity, "conditions": conditions}})
    }

    /// A Job, which may say that it is one of Bursar's.
    pub(super) fn job(&mut self, name: &str) -> Value {
        let count = [None, Some(0), Some(1), Some(i32::MAX), Some(i32::MIN)];
        let template =
            json!({"spec": {"restartPolicy": "Never", "containers": [self.container("c")]}});
        json!({
            "metadata": self.metadata(name),
            "spec": {"completions": self.of(&count), "suspend": self.one_in(2), "template": template},
            "status": {"active": self.of(&count), "failed": self.of(&count), "succeeded": self.of(&count), "terminating": self.of(&count)},
        })
    }

    /// A Deployment, which may say that it is one of Bursar's.
    pub(super) fn deployment(&mut self, name: &str) -> Value {
        let mut metadata = self.metadata(name);
        if self.one_in(2) {
            metadata["labels"]["bursar.dev/kind"] = json!("InferenceDeployment");
            metadata["labels"]["bursar.dev/workload"] = json!(name);
        }
        let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [self.container("c")]}});
        let replicas = self.of(&[0, 1, 100_000, i32::MAX, -1]);
        json!({"metadata": metadata, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "x"}}, "template": template}})
    }

    pub(super) fn volume_claim(&mut self, name: &str) -> Value {
        let amount = self.of(&AMOUNTS);
        let spec = json!({"storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": amount}}});
        json!({"metadata": self.metadata(name), "spec": spec, "status": {"capacity": {"storage": amount}}})
    }

    /// A template that asks for a GPU and mounts claims of any size.
    fn template(&mut self) -> Value {
        let volumes: Vec<Value> = (0..3)
            .map(|at| json!({"name": format!("v{at}"), "persistentVolumeClaim": {"claimName": format!("p{}", self.rng.usize(..60))}}))
            .collect();
        let container =
            json!({"name": "c", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "1"}}});
        json!({"spec": {"containers": [container], "volumes": volumes}})
    }

    pub(super) fn service(&mut self, name: &str) -> Value {
        let spec = json!({"engine": "vLLM", "minReplicas": 1, "maxReplicas": 1, "template": self.template()});
        json!({"metadata": self.workload_metadata(&format!("s{name}")), "spec": spec})
    }

    pub(super) fn training_job(&mut self, name: &str) -> Value {
        let spec = json!({"framework": "PyTorch", "replicas": 64, "template": self.template()});
        json!({"metadata": self.workload_metadata(&format!("t{name}")), "spec": spec})
    }

    pub(super) fn budget(&mut self, name: &str) -> Value {
        let limit = self.of(&["0.01", "1", "1000000000"]);
        json!({"metadata": self.workload_metadata(name), "spec": {"limit": limit, "period": "Monthly"}})
    }

    pub(super) fn front(&mut self, name: &str) -> Value {
        let port = self.of(&[1, 80, 20_000, 29_999]);
        json!({"metadata": self.metadata(name), "spec": {"selector": {"bursar.dev/workload": "chat"}, "ports": [{"port": port}]}})
    }

    pub(super) fn slice(&mut self, name: &str) -> Value {
        let mut metadata = self.metadata(name);
        metadata["labels"]["bursar.dev/workload"] = json!("chat");
        let endpoint = json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}});
        json!({"metadata": metadata, "addressType": "IPv4", "endpoints": [endpoint], "ports": [{"port": 20_000}]})
    }
}
