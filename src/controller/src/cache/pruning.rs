//! What caches keep of an object, and which objects trigger a sync of accounts.

use bursar_api::lenient::Validate;
use bursar_api::names::{
    APPLY_NOW_ANNOTATION, DELETION_COST_ANNOTATION, DISRUPTIONS_ANNOTATION, DRAINING_ANNOTATION,
    KIND_LABEL, LAUNCHER_FILES_ANNOTATION, LEADER_ANNOTATION, NAMESPACE_LABEL, REFUSED_ANNOTATION,
    RESTART_AT_ANNOTATION, RESTARTS_ANNOTATION, RETRIES_ANNOTATION, RETRY_AT_ANNOTATION,
    RETRY_HAD_ROOM_ANNOTATION, ROLE_LABEL, SERVING_LABEL, SPEC_HASH_ANNOTATION, WORKLOAD_LABEL,
};
use bursar_api::quantities::FieldError;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_api::{
    BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, SpendRecord, TrainingJob,
    gpu_inventory,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Node, PersistentVolumeClaim, Pod, PodSpec, PodTemplateSpec, Service,
    Volume,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::ResourceExt;

use crate::cache::change::CachedKind;
use crate::cache::tombstones::Tombstones;
use crate::cache::trigger::Trigger;
use crate::owned_fields::compared_fields;
use crate::pod;
use crate::resource_claim;

/// How the cache of a kind treats its objects.
pub(crate) trait CachePolicy: ResourceExt {
    /// The kind, as changes name it.
    const KIND: CachedKind;

    /// Whether all fields can be read that a decision reads.
    ///
    /// # Errors
    /// The first field that cannot be read.
    fn check(&self) -> Result<(), FieldError> {
        Ok(())
    }

    /// Takes the object's unread parts away.
    fn prune(&mut self) {
        self.managed_fields_mut().clear();
    }

    /// Remembers what is needed of the object after it is gone.
    fn on_delete(&self, _: &Tombstones) {}

    /// Whether a change of this object may change an account.
    fn triggers(&self) -> bool {
        true
    }

    /// What a change of an object triggers of which no version could be read.
    fn trigger_of_unreadable(metadata: &ObjectMeta) -> Option<Trigger> {
        let label = || metadata.labels.as_ref()?.get(NAMESPACE_LABEL).cloned();
        let namespace = metadata.namespace.clone().or_else(label);
        namespace.is_none().then_some(Trigger::All)
    }
}

/// Kinds of Bursar's of which nothing but the managed fields is pruned.
macro_rules! validated {
    ($($kind:ident),*) => {$(
        impl CachePolicy for $kind {
            const KIND: CachedKind = CachedKind::$kind;

            fn check(&self) -> Result<(), FieldError> {
                self.validate()
            }
        }
    )*};
}

validated! { InferenceDeployment, TrainingJob, BudgetPolicy }

/// Its own status says which field cannot be read.
impl CachePolicy for SpendCorrection {
    const KIND: CachedKind = CachedKind::SpendCorrection;
}

impl CachePolicy for Deployment {
    const KIND: CachedKind = CachedKind::Deployment;

    /// Its annotation has a hash of what was asked for.
    fn prune(&mut self) {
        self.managed_fields_mut().clear();
        self.spec.template = PodTemplateSpec::default();
    }
}

impl CachePolicy for Job {
    const KIND: CachedKind = CachedKind::Job;

    /// Its annotation has a hash of what was asked for; the PodGroup of its pods is kept.
    fn prune(&mut self) {
        self.managed_fields_mut().clear();
        let Some(spec) = &mut self.spec else { return };
        let pods = std::mem::take(&mut spec.template).spec;
        spec.template.spec = pods.map(|pods| PodSpec {
            scheduling_group: pods.scheduling_group,
            ..PodSpec::default()
        });
    }
}

/// Owned ones, whose annotation has a hash of what was asked for. Edits of others show in a few fields.
impl CachePolicy for Service {
    const KIND: CachedKind = CachedKind::Service;

    fn prune(&mut self) {
        self.managed_fields_mut().clear();
        self.spec = self.spec.take().map(compared_fields);
        self.status = None;
    }
}

impl CachePolicy for EndpointSlice {
    const KIND: CachedKind = CachedKind::EndpointSlice;
}
impl CachePolicy for ConfigMap {
    const KIND: CachedKind = CachedKind::ConfigMap;
}
impl CachePolicy for PriorityClass {
    const KIND: CachedKind = CachedKind::PriorityClass;
}

/// The annotations that are read of cached objects.
const READ_ANNOTATIONS: [&str; 13] = [
    APPLY_NOW_ANNOTATION,
    DELETION_COST_ANNOTATION,
    DISRUPTIONS_ANNOTATION,
    DRAINING_ANNOTATION,
    LAUNCHER_FILES_ANNOTATION,
    LEADER_ANNOTATION,
    REFUSED_ANNOTATION,
    RESTART_AT_ANNOTATION,
    RESTARTS_ANNOTATION,
    RETRIES_ANNOTATION,
    RETRY_AT_ANNOTATION,
    RETRY_HAD_ROOM_ANNOTATION,
    SPEC_HASH_ANNOTATION,
];
/// Bursar writes no annotation that has more bytes: a longer one is somebody else's, and counts as absent.
const MAX_ANNOTATION_BYTES: usize = 2048;
/// The API server takes owner references of any length. No object has a longer kind, name or UID.
const MAX_OWNER_CHARACTERS: usize = 253;

/// Takes away what is not read of an object: annotations of others, of which a user can write 256 KB,
/// owners that do not control it, and what its kind leaves out.
pub(crate) fn prune<K: CachePolicy>(object: &mut K) {
    let metadata = object.meta_mut();
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, value| {
            READ_ANNOTATIONS.contains(&key.as_str()) && value.len() <= MAX_ANNOTATION_BYTES
        });
    }
    if let Some(owners) = &mut metadata.owner_references {
        owners.retain(|owner| owner.controller == Some(true));
        for owner in owners {
            for text in [
                &mut owner.api_version,
                &mut owner.kind,
                &mut owner.name,
                &mut owner.uid,
            ] {
                cut(text);
            }
        }
    }
    object.prune();
}

/// Leaves as much of a text as a name can have.
fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MAX_OWNER_CHARACTERS) {
        *text = text[..end].to_owned();
    }
}

/// Prunes who wrote which field; when stays, and whether it was the status.
fn prune_managers(entries: &mut [ManagedFieldsEntry]) {
    for entry in entries {
        *entry = ManagedFieldsEntry {
            time: entry.time.take(),
            subresource: entry.subresource.take(),
            ..Default::default()
        };
    }
}

impl CachePolicy for PriceList {
    const KIND: CachedKind = CachedKind::PriceList;

    /// The times of edits stay: they say since when a price is known.
    fn prune(&mut self) {
        prune_managers(self.managed_fields_mut());
    }

    fn check(&self) -> Result<(), FieldError> {
        self.validate()
    }
}

impl CachePolicy for SpendRecord {
    const KIND: CachedKind = CachedKind::SpendRecord;

    /// The accounts of nodes are nobody's namespace's.
    fn triggers(&self) -> bool {
        self.spec.kind != WorkloadKind::Node
    }

    /// Nobody finds a record by another name than its workload's.
    fn trigger_of_unreadable(metadata: &ObjectMeta) -> Option<Trigger> {
        let (workload, _) = WorkloadRef::from_record_name(metadata.name.as_deref()?)?;
        let is_of_nodes = workload.kind == WorkloadKind::Node;
        (!is_of_nodes).then(|| super::of_record(workload))
    }
}

impl CachePolicy for Node {
    const KIND: CachedKind = CachedKind::Node;

    /// A node's heartbeat changes its status every few minutes, and the list of its images is long.
    fn prune(&mut self) {
        self.managed_fields_mut().clear();
        if let Some(status) = &mut self.status {
            status.images = None;
        }
    }

    fn on_delete(&self, tombstones: &Tombstones) {
        let uid = self.metadata.uid.clone();
        tombstones.put_node(uid.unwrap_or_default(), Timestamp::now());
    }
}

/// The volumes that are charged for, with what they are charged by.
fn charged_volumes(mut volumes: Vec<Volume>) -> Vec<Volume> {
    volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
    for volume in &mut volumes {
        let template = volume
            .ephemeral
            .as_mut()
            .and_then(|made| made.volume_claim_template.as_mut());
        if let Some(template) = template {
            template.metadata = None;
        }
    }
    volumes
}

impl CachePolicy for PersistentVolumeClaim {
    const KIND: CachedKind = CachedKind::PersistentVolumeClaim;

    /// Its size is all that is read, with the next look at its namespace.
    fn prune(&mut self) {
        prune_metadata(self);
        if let Some(status) = &mut self.status {
            (status.conditions, status.allocated_resources) = (None, None);
        }
    }

    fn triggers(&self) -> bool {
        false
    }
}

impl CachePolicy for ResourceClaim {
    const KIND: CachedKind = CachedKind::ResourceClaim;

    fn prune(&mut self) {
        prune_metadata(self);
        self.spec = None;
        if let Some(status) = &mut self.status {
            status.devices = None;
        }
    }

    fn triggers(&self) -> bool {
        resource_claim::holds_gpus(self)
    }
}

impl CachePolicy for ResourceSlice {
    const KIND: CachedKind = CachedKind::ResourceSlice;

    fn prune(&mut self) {
        prune_metadata(self);
        self.spec.shared_counters = None;
        let devices = self.spec.devices.iter_mut().flatten();
        devices.for_each(|device| *device = gpu_inventory::pruned(device));
    }

    /// It is read with the next look at a pod.
    fn triggers(&self) -> bool {
        false
    }
}

fn prune_metadata<K: ResourceExt>(object: &mut K) {
    object.managed_fields_mut().clear();
    object.annotations_mut().clear();
    object.labels_mut().clear();
}

/// Labels that say whose a pod is, what it is, and which worker of its gang. A user can write very many
/// that begin as they do.
const READ_LABELS_OF_PODS: [&str; 9] = [
    KIND_LABEL,
    WORKLOAD_LABEL,
    ROLE_LABEL,
    SERVING_LABEL,
    "app",
    "pod-template-hash",
    "app.kubernetes.io/name",
    "app.kubernetes.io/component",
    pod::INDEX_LABEL,
];

impl CachePolicy for Pod {
    const KIND: CachedKind = CachedKind::Pod;

    /// The times of status writes stay: they date ends that the kubelet did not.
    fn prune(&mut self) {
        prune_managers(self.managed_fields_mut());
        self.labels_mut()
            .retain(|key, _| READ_LABELS_OF_PODS.contains(&key.as_str()));
        let Some(spec) = &mut self.spec else { return };
        spec.volumes = spec.volumes.take().map(charged_volumes);
        (
            spec.ephemeral_containers,
            spec.host_aliases,
            spec.image_pull_secrets,
        ) = (None, None, None);
        for container in spec
            .containers
            .iter_mut()
            .chain(spec.init_containers.iter_mut().flatten())
        {
            *container = Container {
                name: std::mem::take(&mut container.name),
                ports: container.ports.take(),
                resources: container.resources.take(),
                restart_policy: container.restart_policy.take(),
                ..Container::default()
            };
        }
    }

    fn triggers(&self) -> bool {
        self.labels().contains_key(WORKLOAD_LABEL)
            || pod::may_hold_gpus(self)
            || pod::is_gateway(self)
    }

    /// A pod without the labels is charged, if at all, to the namespace's unmanaged pods.
    fn trigger_of_unreadable(metadata: &ObjectMeta) -> Option<Trigger> {
        let namespace = metadata.namespace.clone()?;
        let labelled = Self {
            metadata: metadata.clone(),
            ..Self::default()
        };
        let workload = pod::workload_of(&labelled);
        let workload = workload.unwrap_or_else(|| WorkloadRef::unmanaged(namespace));
        Some(Trigger::Workload(workload))
    }

    fn on_delete(&self, tombstones: &Tombstones) {
        if pod::may_hold_gpus(self) {
            tombstones.put_pod(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api_calls::is_as_asked;

    fn pruned<K: CachePolicy + serde::de::DeserializeOwned>(object: Value) -> K {
        let mut object: K = serde_json::from_value(object).unwrap();
        prune(&mut object);
        object
    }

    #[test]
    fn owned_objects_keep_what_tells_whether_they_are_as_asked() {
        let metadata = |hash: &str| {
            json!({
                "name": "chat", "namespace": "team", "annotations": {bursar_api::names::SPEC_HASH_ANNOTATION: hash},
                "managedFields": [{"manager": "bursar"}],
            })
        };
        let template = json!({"spec": {"containers": [{"name": "engine", "env": [{"name": "LONG", "value": "x".repeat(100_000)}]}]}});
        let deployment = |hash: &str| {
            let spec = json!({"replicas": 3, "selector": {}, "template": template});
            pruned::<Deployment>(json!({"metadata": metadata(hash), "spec": spec}))
        };
        let found = deployment("one");
        assert!(serde_json::to_string(&found).unwrap().len() < 500);
        assert_eq!(found.spec.replicas, Some(3));
        assert!(is_as_asked(&found, &deployment("one")));
        assert!(!is_as_asked(&found, &deployment("other")));
        let spec = json!({"suspend": true, "template": template});
        let job: Job = pruned(json!({"metadata": metadata("one"), "spec": spec}));
        assert!(serde_json::to_string(&job).unwrap().len() < 500);
        assert_eq!(job.spec.as_ref().and_then(|spec| spec.suspend), Some(true));
    }

    #[test]
    fn annotations_of_others_are_not_kept() {
        let annotations = json!({
            "kubectl.kubernetes.io/last-applied-configuration": "{}", "bursar.dev/apply-now": "yes", "note": "x".repeat(250_000),
        });
        let budget: BudgetPolicy = pruned(json!({
            "metadata": {"name": "monthly", "namespace": "team", "annotations": annotations},
            "spec": {"limit": "10", "period": "Monthly", "onExhausted": "ScaleToZero"},
        }));
        let keys: Vec<&String> = budget.annotations().keys().collect();
        assert_eq!(keys, ["bursar.dev/apply-now"]);
    }

    /// Case T13.
    #[test]
    fn a_pod_takes_little_room_whatever_its_user_writes_on_it() {
        let long = "x".repeat(250_000);
        let labels: std::collections::BTreeMap<String, &str> = (0..3_000)
            .map(|number| (format!("label-{number}"), "value"))
            .collect();
        let owner = |controller: bool| json!({"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u", "controller": controller});
        let forged = json!({"apiVersion": long, "kind": long, "name": long, "uid": long, "controller": true});
        let mut pod = json!({
            "metadata": {
                "name": "p", "namespace": "team", "labels": labels, "annotations": {"note": long},
                "ownerReferences": vec![owner(false); 1_000],
            },
            "spec": {
                "containers": [{"name": "c", "command": [long], "args": [long], "env": [{"name": "LONG", "value": long}],
                    "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
                "hostAliases": vec![json!({"ip": "10.0.0.1"}); 10_000],
            },
        });
        pod["metadata"]["labels"]["bursar.dev/workload"] = json!("chat");
        pod["metadata"]["ownerReferences"]
            .as_array_mut()
            .unwrap()
            .push(owner(true));
        let kept: Pod = pruned(pod.clone());
        let bytes = serde_json::to_string(&kept).unwrap().len();
        assert!(bytes < 500, "{bytes} bytes");
        assert_eq!(pod::label(&kept, "bursar.dev/workload"), Some("chat"));
        assert_eq!((pod::maker(&kept), pod::gpus(&kept)[0].1), (Some("u"), 1));

        // names that begin as those that are read, and values without end of these
        for prefix in ["bursar.dev/", "batch.kubernetes.io/"] {
            for number in 0..3_000 {
                pod["metadata"]["labels"][format!("{prefix}{number}")] = json!("x".repeat(63));
                pod["metadata"]["annotations"][format!("{prefix}{number}")] = json!("x");
            }
        }
        for name in READ_ANNOTATIONS {
            pod["metadata"]["annotations"][name] = json!(long);
        }
        pod["metadata"]["ownerReferences"] = json!([forged]);
        let kept: Pod = pruned(pod);
        let bytes = serde_json::to_string(&kept).unwrap().len();
        assert!(bytes < 1_500, "{bytes} bytes");
        assert_eq!(kept.labels().len(), 1, "{:?}", kept.labels());
        assert_eq!(kept.annotations().len(), 0, "{:?}", kept.annotations());
    }
}
