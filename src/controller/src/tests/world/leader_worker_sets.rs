//! LeaderWorkerSets and their controller: a StatefulSet of leaders, and one of workers for each of these.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;

use super::World;

/// A LeaderWorkerSet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::tests) struct LeaderWorkerSet {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    pub(in crate::tests) spec: Value,
}

impl Resource for LeaderWorkerSet {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "LeaderWorkerSet".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "leaderworkerset.x-k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "leaderworkersets".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl World {
    /// Makes the StatefulSets of all LeaderWorkerSets, and makes a group anew of which a pod goes.
    pub(super) async fn leader_worker_sets(&mut self) {
        for set in self.server.objects::<LeaderWorkerSet>() {
            let name = set.name_any();
            let group = &set.spec["leaderWorkerTemplate"];
            let template = match &group["leaderTemplate"] {
                Value::Null => group["workerTemplate"].clone(),
                template => template.clone(),
            };
            let owner = set.controller_owner_ref(&());
            let labels = json!({
                "leaderworkerset.sigs.k8s.io/name": name, "leaderworkerset.sigs.k8s.io/worker-index": "0",
            });
            let replicas = set.spec["replicas"].as_i64().unwrap_or(1);
            let leaders = (name.clone(), json!([owner]), template, labels);
            let leaders = self.apply_set(leaders, replicas, 0).await;
            let size = group["size"].as_i64().unwrap_or(1);
            for leader in self.alive(&leaders) {
                let labels = json!({"leaderworkerset.sigs.k8s.io/name": name});
                let owner = json!([leader.controller_owner_ref(&())]);
                let template = group["workerTemplate"].clone();
                let workers = (leader.name_any(), owner, template, labels);
                let workers = self.apply_set(workers, size - 1, 1).await;
                let mut of_group = self.pods().into_iter();
                let goes = |pod: &Pod| {
                    let owners = pod.owner_references();
                    let is_worker = owners
                        .iter()
                        .any(|owner| Some(&owner.uid) == workers.uid().as_ref());
                    is_worker && pod.metadata.deletion_timestamp.is_some()
                };
                if of_group.any(|pod| goes(&pod)) {
                    self.delete::<Pod>(&leader.name_any()).await;
                }
            }
        }
    }

    /// A StatefulSet of this name, owner, template and further labels.
    async fn apply_set(
        &self,
        (name, owners, mut template, labels): (String, Value, Value, Value),
        replicas: i64,
        first: i64,
    ) -> StatefulSet {
        for (label, value) in labels.as_object().unwrap() {
            template["metadata"]["labels"][label] = value.clone();
        }
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": name, "ownerReferences": owners},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": labels}, "template": template,
                "ordinals": {"start": first},
            },
        });
        let params = PatchParams::apply("leaderworkerset").force();
        let patch = Patch::Apply(set);
        let api = self.api::<StatefulSet>();
        api.patch(&name, &params, &patch).await.unwrap()
    }
}
