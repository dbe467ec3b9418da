//! The rest of the cluster, a second at a time: garbage collection, the Deployment and Job controllers, the scheduler, the kubelet
//! and the endpoints.

use std::collections::BTreeSet;

use bursar_api::lenient::Lenient;
use bursar_api::names::{DELETION_COST_ANNOTATION, KIND_LABEL, SERVING_LABEL, SPEND_FINALIZER};
use bursar_api::{InferenceDeployment, TrainingJob};
use bursar_apitest::Server;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodTemplateSpec, Secret, Service, Volume};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::journal::PodLifetime;
use super::{GPUS, LeaderWorkerSet, World};
use crate::pod;
use crate::training::job::finished;

const INDEX_LABEL: &str = "batch.kubernetes.io/job-completion-index";
/// Seconds from the order to end until a pod has ended.
const GRACE: i64 = 3;

impl World {
    /// A second passes for everybody but Bursar.
    pub(in crate::tests) async fn turn(&mut self) {
        self.now += SignedDuration::from_secs(1);
        self.server.set_clock(self.now);
        self.collect_garbage().await;
        if !self.slow || self.now.as_second() % 3 == 0 {
            self.deployments().await;
            self.leader_worker_sets().await;
            self.stateful_sets().await;
        }
        if !self.slow || self.now.as_second() % 3 == 0 {
            self.jobs().await;
        }
        self.scheduler().await;
        self.kubelet().await;
        self.endpoints().await;
    }

    async fn collect_garbage(&self) {
        let services: Vec<Lenient<InferenceDeployment>> = self.server.objects();
        let jobs: Vec<Lenient<TrainingJob>> = self.server.objects();
        let mut owners: Vec<String> = services.iter().filter_map(ResourceExt::uid).collect();
        owners.extend(jobs.iter().filter_map(ResourceExt::uid));
        self.sweep::<Deployment>(&owners).await;
        self.sweep::<Job>(&owners).await;
        self.sweep::<Service>(&owners).await;
        self.sweep::<EndpointSlice>(&owners).await;
        self.sweep::<Secret>(&owners).await;
        self.sweep::<ConfigMap>(&owners).await;
        let deployments: Vec<Deployment> = self.server.objects();
        let jobs: Vec<Job> = self.server.objects();
        owners = deployments.iter().filter_map(ResourceExt::uid).collect();
        self.sweep::<ReplicaSet>(&owners).await;
        let sets: Vec<ReplicaSet> = self.server.objects();
        owners.extend(sets.iter().filter_map(ResourceExt::uid));
        let groups: Vec<LeaderWorkerSet> = self.server.objects();
        let pods = self.pods();
        let mut makers: Vec<String> = groups.iter().filter_map(ResourceExt::uid).collect();
        makers.extend(pods.iter().filter_map(ResourceExt::uid));
        self.sweep::<StatefulSet>(&makers).await;
        let sets: Vec<StatefulSet> = self.server.objects();
        owners.extend(sets.iter().filter_map(ResourceExt::uid));
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
                    // of a kind without a controller here, which nobody deletes
                    .any(|owner| owners.contains(&owner.uid) || owner.kind == "JobSet");
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
            // one that is nobody's makes a ReplicaSet, as all do in a cluster
            let replica_set = match deployment.owner_references().is_empty() {
                true => Some(self.replica_set(&deployment).await),
                false => None,
            };
            let mut pods = match &replica_set {
                Some(replica_set) => self.alive(replica_set),
                None => self.alive(&deployment),
            };
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
                let template = &deployment.spec.template;
                let prefix = format!("{}-", deployment.name_any());
                match &replica_set {
                    Some(replica_set) => self.make_pod(replica_set, template, &prefix).await,
                    None => self.make_pod(&deployment, template, &prefix).await,
                }
            }
            let status = json!({"status": {
                "replicas": wanted, "updatedReplicas": wanted, "observedGeneration": deployment.metadata.generation,
            }});
            self.report(&deployment, status).await;
        }
    }

    async fn replica_set(&self, deployment: &Deployment) -> ReplicaSet {
        let name = format!("{}-7d4b", deployment.name_any());
        let api = self.api::<ReplicaSet>();
        if let Some(found) = api.get_opt(&name).await.unwrap() {
            return found;
        }
        let owner = deployment.controller_owner_ref(&()).unwrap();
        let replica_set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": {"selector": {}},
        });
        let replica_set = serde_json::from_value(replica_set).unwrap();
        api.create(&PostParams::default(), &replica_set)
            .await
            .unwrap()
    }

    async fn stateful_sets(&mut self) {
        for set in self.server.objects::<StatefulSet>() {
            let wanted = set.spec.replicas.unwrap_or(1);
            let name = |ordinal: i32| format!("{}-{ordinal}", set.name_any());
            let there = |pods: &[Pod], name: &str| pods.iter().any(|pod| pod.name_any() == name);
            let start = set
                .spec
                .ordinals
                .as_ref()
                .and_then(|ordinals| ordinals.start);
            let start = start.unwrap_or(0);
            let mut ordinals = (start..start + wanted).map(name);
            // one of a former set of this name may end still
            let pods = self.pods();
            let first = ordinals.find(|name| !there(&pods, name));
            if let Some(first) = first {
                let mut template = set.spec.template.clone();
                template.metadata.get_or_insert_default().name = Some(first);
                self.make_pod(&set, &template, "").await;
            }
            let last = self.alive(&set).len();
            let surplus = (0..64)
                .rev()
                .map(name)
                .find(|name| there(&self.alive(&set), name));
            if let Some(surplus) = surplus.filter(|_| last > usize::try_from(wanted).unwrap()) {
                let mut alive = self.alive(&set).into_iter();
                let serves = |pod: Pod| {
                    pod.name_any() == surplus && pod.labels().contains_key(SERVING_LABEL)
                };
                if alive.any(serves) {
                    self.cut.push(surplus.clone());
                }
                self.delete::<Pod>(&surplus).await;
            }
            let status = json!({"status": {"replicas": wanted, "updatedReplicas": wanted, "observedGeneration": set.metadata.generation}});
            self.report(&set, status).await;
        }
    }

    async fn jobs(&mut self) {
        for job in self.server.objects::<Job>() {
            let spec = job.spec.clone().unwrap();
            let ends = spec.suspend == Some(true) || finished(&job).is_some();
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
            let wanted = if ends {
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
            if going == 0 && !self.jobs_back_off {
                let taken: Vec<&str> = alive.iter().filter_map(index).collect();
                let missing = (0..wanted).map(|index| index.to_string());
                let missing = missing.filter(|index| !taken.contains(&index.as_str()));
                for index in missing.take(wanted.saturating_sub(alive.len())) {
                    let mut template = spec.template.clone();
                    let labels = template
                        .metadata
                        .get_or_insert_default()
                        .labels
                        .get_or_insert_default();
                    let prefix = format!("{}-{index}-", job.name_any());
                    labels.insert(INDEX_LABEL.to_owned(), index);
                    if let Some(why) = self.refusal() {
                        self.say_refused(&job, &prefix, why).await;
                        break;
                    }
                    self.make_pod(&job, &template, &prefix).await;
                }
            }
            let uid = job.uid().unwrap();
            match ends {
                true => drop(self.began.remove(&uid)),
                false => drop(self.began.entry(uid.clone()).or_insert(self.now)),
            }
            let began = self.began.get(&uid).map(ToString::to_string);
            let (ended, of_job): (Vec<Pod>, Vec<Pod>) = self
                .pods()
                .into_iter()
                .filter(|pod| is_owned(pod, &job))
                .partition(pod::is_terminal);
            let failed = ended.iter().filter(|pod| has_failed(pod)).count();
            let terminating = of_job
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_some())
                .count();
            let ready = of_job.iter().filter(|pod| pod::is_ready(pod)).count();
            let suspended = match spec.suspend {
                Some(true) => "True",
                _ => "False",
            };
            let mut status = json!({"status": {"active": of_job.len() - terminating, "terminating": terminating, "ready": ready, "failed": failed}});
            if finished(&job).is_none() {
                status["status"]["conditions"] =
                    json!([{"type": "Suspended", "status": suspended}]);
            }
            if let Some(began) = began {
                status["status"]["startTime"] = json!(began);
            }
            self.report(&job, status).await;
        }
    }

    /// Why no more workers are made, if the quota is used up.
    fn refusal(&self) -> Option<&'static str> {
        let (most, why) = self.worker_quota?;
        let pods = self.pods();
        let workers = pods
            .iter()
            .filter(|pod| index(pod).is_some() && !pod::is_terminal(pod));
        (workers.count() >= most).then_some(why)
    }

    /// The Job controller says in an Event that it could not make a pod.
    async fn say_refused(&self, job: &Job, prefix: &str, why: &str) {
        let now = self.now.to_string();
        let note = format!("Error creating: pods \"{prefix}x7xjq\" is forbidden: {why}");
        let event = json!({
            "metadata": {"name": format!("{}.{}", job.name_any(), self.now.as_second())},
            "eventTime": null, "reason": "FailedCreate", "type": "Warning", "note": note,
            "regarding": {"kind": "Job", "name": job.name_any(), "uid": job.uid()},
            "deprecatedFirstTimestamp": now, "deprecatedLastTimestamp": now,
        });
        self.create::<Event>(event).await;
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

    pub(super) fn alive<K: ResourceExt>(&self, owner: &K) -> Vec<Pod> {
        let mut pods = self.pods();
        pods.retain(|pod| {
            is_owned(pod, owner)
                && !pod::is_terminal(pod)
                && pod.metadata.deletion_timestamp.is_none()
        });
        pods
    }

    /// A pod as admission leaves it.
    async fn make_pod<K>(&self, owner: &K, template: &PodTemplateSpec, prefix: &str)
    where
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
        let held = self.pods().iter().filter(|pod| holds(pod)).count();
        let mut free = GPUS.saturating_sub(held);
        for pod in self.pods() {
            let waits = pod::node_name(&pod).is_none() && pod.metadata.deletion_timestamp.is_none();
            if !waits || free == 0 {
                continue;
            }
            free -= 1;
            let condition = json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": self.now.to_string()}]);
            let is_far = self.far.is_some_and(|(far, _)| index(&pod) == Some(far));
            let node = self.far.filter(|_| is_far).map_or("node", |(_, node)| node);
            self.patch_pod(&pod, json!({"spec": {"nodeName": node}}))
                .await;
            self.patch_status(&pod, json!({"conditions": condition}))
                .await;
            // that of an adopted pod, which has no label yet, is in `app`
            let labels = pod.labels();
            let workload = labels.get("bursar.dev/workload").or(labels.get("app"));
            let workload = workload.cloned().unwrap_or_default();
            self.lifetimes.insert(
                pod.uid().unwrap(),
                PodLifetime {
                    workload,
                    from: self.now,
                    to: None,
                    is_charged: pod::may_hold_gpus(&pod),
                },
            );
        }
    }

    async fn kubelet(&mut self) {
        for pod in self.pods() {
            let Some(lifetime) = self.lifetimes.get_mut(pod::uid(&pod)) else {
                continue;
            };
            if pod::node_name(&pod) == self.lost {
                continue;
            }
            if let Some(deletion) = &pod.metadata.deletion_timestamp {
                let ordered = deletion.0
                    - SignedDuration::from_secs(
                        pod.metadata.deletion_grace_period_seconds.unwrap_or(0),
                    );
                let end = ordered + SignedDuration::from_secs(GRACE);
                if pod::is_terminal(&pod) {
                    self.remove(&pod).await;
                } else if self.now >= end {
                    lifetime.to = Some(self.now);
                    self.finish(&pod).await;
                    if pod.finalizers().is_empty() {
                        self.remove(&pod).await;
                    }
                }
            } else if lifetime.from + SignedDuration::from_secs(1) <= self.now
                && !pod::is_ready(&pod)
                && !pod::is_terminal(&pod)
                && has_volumes(&self.server, &pod)
            {
                let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": lifetime.from.to_string()});
                let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": self.now.to_string()});
                self.patch_status(&pod, json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [scheduled, ready]})).await;
            }
        }
    }

    pub(in crate::tests) async fn remove(&self, pod: &Pod) {
        let now = DeleteParams::default().grace_period(0);
        self.api::<Pod>()
            .delete(&pod.name_any(), &now)
            .await
            .unwrap();
    }

    /// A worker that is told to stop fails.
    async fn finish(&self, pod: &Pod) {
        let code = if index(pod).is_some() { 143 } else { 0 };
        self.exit(pod, self.lifetimes[pod::uid(pod)].from, code)
            .await;
    }

    /// A worker ends by itself, with this exit code.
    pub(in crate::tests) async fn fail(&mut self, pod: &Pod, code: i32) {
        let lifetime = self.lifetimes.get_mut(pod::uid(pod)).unwrap();
        lifetime.to = Some(self.now);
        let bound = lifetime.from;
        self.exit(pod, bound, code).await;
    }

    /// The API of evictions takes a pod away.
    pub(in crate::tests) async fn evict(&self, pod: &Pod) {
        let mut conditions = json!(pod.status.as_ref().unwrap().conditions);
        let target = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "lastTransitionTime": self.now.to_string()});
        conditions.as_array_mut().unwrap().push(target);
        self.patch_status(pod, json!({"conditions": conditions}))
            .await;
        self.tell_to_stop(pod).await;
    }

    /// Somebody deletes a pod.
    pub(in crate::tests) async fn tell_to_stop(&self, pod: &Pod) {
        let params = DeleteParams::default();
        self.api::<Pod>()
            .delete(&pod.name_any(), &params)
            .await
            .unwrap();
    }

    /// Its containers end now; it was bound at that time.
    pub(in crate::tests) async fn end(&self, pod: &Pod, bound: Timestamp) {
        self.exit(pod, bound, 0).await;
    }

    async fn exit(&self, pod: &Pod, bound: Timestamp, code: i32) {
        let known = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let target = known.filter(|condition| condition.type_ == "DisruptionTarget");
        let target = target.map(|condition| json!(condition));
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": bound.to_string()});
        let conditions: Vec<Value> = target.chain([scheduled]).collect();
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let ended = json!([{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "finishedAt": self.now.to_string()}},
        }]);
        self.patch_status(
            pod,
            json!({"phase": phase, "conditions": conditions, "containerStatuses": ended}),
        )
        .await;
    }

    /// The slices of Services that select replicas, as the cluster makes them.
    async fn endpoints(&mut self) {
        let services = self.server.objects::<Service>();
        for service in &services {
            if service.labels().get(KIND_LABEL).map(String::as_str) != Some("InferenceDeployment") {
                continue;
            }
            let name = service.name_any();
            let spec = service.spec.as_ref();
            let selector = spec
                .and_then(|spec| spec.selector.clone())
                .unwrap_or_default();
            let serving = self.pods().into_iter().filter(|pod| {
                let mut selected = selector.iter();
                pod::is_ready(pod)
                    && selected.all(|(label, value)| pod.labels().get(label) == Some(value))
                    && pod.metadata.deletion_timestamp.is_none()
            });
            let endpoints: Vec<Value> = serving
                .map(|pod| json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "uid": pod.uid()}}))
                .collect();
            let mut labels = service.labels().clone();
            labels.insert("kubernetes.io/service-name".to_owned(), name.clone());
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
        // those of a Service that is gone go with it
        for slice in self.server.objects::<EndpointSlice>() {
            let name = slice.name_any();
            let Some(of) = name.strip_suffix("-x") else {
                continue;
            };
            if !services.iter().any(|service| service.name_any() == of) {
                self.delete::<EndpointSlice>(&name).await;
            }
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
}

fn index(pod: &Pod) -> Option<&str> {
    pod.labels().get(INDEX_LABEL).map(String::as_str)
}

/// Whether the Secrets and ConfigMaps that a pod mounts are there.
fn has_volumes(server: &Server, pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| &spec.volumes).flatten();
    let names: BTreeSet<&str> = volumes.filter_map(mounted).collect();
    let mut there: BTreeSet<String> = BTreeSet::new();
    if !names.is_empty() {
        let secrets = server.objects::<Secret>();
        there.extend(secrets.iter().map(ResourceExt::name_any));
        let maps = server.objects::<ConfigMap>();
        there.extend(maps.iter().map(ResourceExt::name_any));
    }
    names.into_iter().all(|name| there.contains(name))
}

/// The name of the Secret or the ConfigMap that a volume is.
pub(in crate::tests) fn mounted(volume: &Volume) -> Option<&str> {
    let secret = volume.secret.as_ref();
    let secret = secret.and_then(|secret| secret.secret_name.as_deref());
    secret.or(volume.config_map.as_ref().map(|map| map.name.as_str()))
}

fn has_failed(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.and_then(|status| status.phase.as_deref()) == Some("Failed")
}

fn is_owned<K: ResourceExt>(object: &Pod, owner: &K) -> bool {
    object
        .owner_references()
        .iter()
        .any(|reference| Some(&reference.uid) == owner.uid().as_ref())
}
