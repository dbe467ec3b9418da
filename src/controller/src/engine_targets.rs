//! The engines to read, from the events of pods and InferenceDeployments. An event changes only
//! what it is about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use bursar_api::InferenceDeployment;
use bursar_api::engine::series_selector::SeriesSelector;
use bursar_api::engine::{Alternatives, EngineSettings};
use bursar_api::names::{KIND_LABEL, WORKLOAD_LABEL};
use bursar_api::signal::EngineMeasure;
use bursar_api::spend::WorkloadKind;
use bursar_core::scaling::LatencyMeasure;
use bursar_signals::engine_metrics::{EngineMetrics, Load, Metric, Source};
use bursar_signals::engine_reads::{Target, Targets};
use bursar_signals::exposition::Selector;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::lock::lock;
use crate::pod;

/// Namespace and name of a service.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// A change of what is read.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// Read this.
    Upsert(Target),
    /// Read this UID no more.
    Remove(Arc<str>),
}

/// A service, or a pod of it, that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gone {
    /// The service.
    pub(crate) service: Key,
    /// The pod's UID; `None` if it is the service.
    pub(crate) uid: Option<Arc<str>>,
}

/// A pod of a service.
#[derive(Debug, PartialEq, Eq)]
struct Replica {
    service: Key,
    /// Where it is read; `None` while it is not ready.
    address: Option<IpAddr>,
}

/// What is known of services and their pods.
#[derive(Debug, Default)]
struct State {
    services: BTreeMap<Key, Arc<Source>>,
    replicas: BTreeMap<Arc<str>, Replica>,
    by_service: BTreeMap<Key, BTreeSet<Arc<str>>>,
    /// The pods of a list that is not complete yet.
    listed_pods: Option<BTreeSet<Arc<str>>>,
    /// The services of a list that is not complete yet.
    listed_services: Option<BTreeSet<Key>>,
    /// What went since that was last asked for.
    gone: Vec<Gone>,
}

/// Tells the reader of engines which pods to read.
#[derive(Debug)]
pub(crate) struct EngineTargets {
    state: Mutex<State>,
    targets: Targets,
}

impl EngineTargets {
    /// No pods yet.
    pub(crate) fn new(targets: Targets) -> Self {
        Self {
            state: Mutex::default(),
            targets,
        }
    }

    /// Takes an event of the watch of pods.
    pub(crate) fn on_pod(&self, event: &Event<Pod>) {
        let mut state = lock(&self.state);
        let changes = state.on_pod(event);
        self.send(changes);
    }

    /// Takes an event of the watch of InferenceDeployments.
    pub(crate) fn on_service(&self, event: &Event<InferenceDeployment>) {
        let mut state = lock(&self.state);
        let changes = state.on_service(event);
        self.send(changes);
    }

    /// Whether a pod of this UID names this service as its own.
    pub(crate) fn has_replica(&self, namespace: &str, service: &str, uid: &str) -> bool {
        let state = lock(&self.state);
        let replica = state.replicas.get(uid);
        replica.is_some_and(|replica| {
            *replica.service.0 == *namespace && *replica.service.1 == *service
        })
    }

    /// Whether there is this service.
    pub(crate) fn has_service(&self, service: &Key) -> bool {
        lock(&self.state).services.contains_key(service)
    }

    /// The services and pods that went since the last call.
    pub(crate) fn take_gone(&self) -> Vec<Gone> {
        std::mem::take(&mut lock(&self.state).gone)
    }

    /// Waits until every engine has been read once.
    pub(crate) async fn all_read(&self) {
        self.targets.all_read().await;
    }

    /// Changes are sent while the state is locked, so that they arrive in its order.
    fn send(&self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Upsert(target) => self.targets.upsert(target),
                Change::Remove(uid) => self.targets.remove(&uid),
            }
        }
    }
}

impl State {
    fn on_pod(&mut self, event: &Event<Pod>) -> Vec<Change> {
        let mut changes = Vec::new();
        match event {
            Event::Init => self.listed_pods = Some(BTreeSet::new()),
            Event::InitApply(pod) | Event::Apply(pod) => {
                if let Some(listed) = &mut self.listed_pods
                    && is_replica(pod)
                {
                    listed.insert(pod::uid(pod).into());
                }
                self.set_pod(pod, &mut changes);
            }
            Event::Delete(pod) => self.remove_pod(pod::uid(pod), &mut changes),
            Event::InitDone => {
                let listed = self.listed_pods.take().unwrap_or_default();
                let gone = self.replicas.keys().filter(|uid| !listed.contains(*uid));
                for uid in gone.cloned().collect::<Vec<_>>() {
                    self.remove_pod(&uid, &mut changes);
                }
            }
        }
        changes
    }

    fn on_service(&mut self, event: &Event<InferenceDeployment>) -> Vec<Change> {
        let mut changes = Vec::new();
        match event {
            Event::Init => self.listed_services = Some(BTreeSet::new()),
            Event::InitApply(service) | Event::Apply(service) => {
                let key = key(service);
                if let Some(listed) = &mut self.listed_services {
                    listed.insert(key.clone());
                }
                let settings = service.spec.engine_settings().ok().flatten();
                let Some(engine) = settings.filter(|engine| !engine.loads.is_empty()) else {
                    self.remove_service(&key, &mut changes);
                    return changes;
                };
                let source = source(engine, &service.spec.engine_measures());
                if self
                    .services
                    .get(&key)
                    .is_none_or(|known| **known != source)
                {
                    self.services.insert(key.clone(), Arc::new(source));
                    self.update_service(&key, &mut changes);
                }
            }
            Event::Delete(service) => self.remove_service(&key(service), &mut changes),
            Event::InitDone => {
                let listed = self.listed_services.take().unwrap_or_default();
                let gone = self.services.keys().filter(|key| !listed.contains(*key));
                for key in gone.cloned().collect::<Vec<_>>() {
                    self.remove_service(&key, &mut changes);
                }
            }
        }
        changes
    }

    fn set_pod(&mut self, pod: &Pod, changes: &mut Vec<Change>) {
        let Some(service) = service_of(pod) else {
            return self.remove_pod(pod::uid(pod), changes);
        };
        let address = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_ref());
        let address = address.and_then(|address| address.parse().ok());
        let uid = pod::uid(pod);
        let known = self.replicas.get(uid);
        // one that was ready still works on the requests that it has
        let was_read = known.is_some_and(|known| known.address.is_some());
        let is_read = pod::is_ready(pod) || was_read || pod::was_ready(pod);
        let replica = Replica {
            service,
            address: address.filter(|_| is_read && !pod::is_terminal(pod)),
        };
        if known == Some(&replica) {
            return;
        }
        if known.is_some_and(|known| known.service != replica.service) {
            self.remove_pod(uid, changes);
        }
        let uid: Arc<str> = uid.into();
        let pods = self.by_service.entry(replica.service.clone()).or_default();
        pods.insert(Arc::clone(&uid));
        self.replicas.insert(Arc::clone(&uid), replica);
        self.update_replica(&uid, changes);
    }

    fn remove_pod(&mut self, uid: &str, changes: &mut Vec<Change>) {
        let Some((uid, replica)) = self.replicas.remove_entry(uid) else {
            return;
        };
        if let Some(pods) = self.by_service.get_mut(&replica.service) {
            pods.remove(&uid);
            if pods.is_empty() {
                self.by_service.remove(&replica.service);
            }
        }
        changes.push(Change::Remove(Arc::clone(&uid)));
        self.gone.push(Gone {
            service: replica.service,
            uid: Some(uid),
        });
    }

    fn remove_service(&mut self, key: &Key, changes: &mut Vec<Change>) {
        if self.services.remove(key).is_some() {
            self.update_service(key, changes);
            self.gone.push(Gone {
                service: key.clone(),
                uid: None,
            });
        }
    }

    fn update_service(&self, key: &Key, changes: &mut Vec<Change>) {
        for uid in self.by_service.get(key).into_iter().flatten() {
            self.update_replica(uid, changes);
        }
    }

    /// A pod is read while it is ready and its service is there.
    fn update_replica(&self, uid: &Arc<str>, changes: &mut Vec<Change>) {
        let target = || {
            let Replica { service, address } = self.replicas.get(uid)?;
            Some(Target {
                namespace: Arc::clone(&service.0),
                service: Arc::clone(&service.1),
                uid: Arc::clone(uid),
                address: (*address)?,
                source: Arc::clone(self.services.get(service)?),
            })
        };
        changes.push(match target() {
            Some(target) => Change::Upsert(target),
            None => Change::Remove(Arc::clone(uid)),
        });
    }
}

fn key(service: &InferenceDeployment) -> Key {
    let namespace = service.namespace().unwrap_or_default();
    (namespace.into(), service.name_any().into())
}

/// Whether a pod has an engine that answers requests: of several pods of a replica the one that leads.
fn is_replica(pod: &Pod) -> bool {
    pod::label(pod, KIND_LABEL) == Some(WorkloadKind::InferenceDeployment.as_str())
        && pod::label(pod, WORKLOAD_LABEL).is_some()
        && pod::leader(pod).is_none()
}

/// The InferenceDeployment that a pod names as its own, whether there is one or not.
fn service_of(pod: &Pod) -> Option<Key> {
    let name = pod::label(pod, WORKLOAD_LABEL).filter(|_| is_replica(pod))?;
    let namespace = pod.metadata.namespace.as_deref()?;
    Some((namespace.into(), name.into()))
}

/// Where the metrics of an engine are and what they are called, those of these measures included.
pub(crate) fn source(engine: EngineSettings, measures: &BTreeSet<EngineMeasure>) -> Source {
    let selector = |SeriesSelector { name, labels }| Selector { name, labels };
    let metric = |alternatives: Alternatives| Metric {
        alternatives: alternatives
            .into_iter()
            .map(|series| series.into_iter().map(selector).collect())
            .collect(),
    };
    let asked = |measure| {
        let is_asked = measures.contains(&measure);
        is_asked.then(|| metric(engine.measure(measure).to_vec()))
    };
    let kv_cache_use = asked(EngineMeasure::KvCacheUse);
    let latencies = [
        (
            LatencyMeasure::TimeToFirstToken,
            EngineMeasure::TimeToFirstToken,
        ),
        (LatencyMeasure::InterToken, EngineMeasure::InterTokenLatency),
    ];
    let latencies = latencies.into_iter().filter_map(|(latency, measure)| {
        let mut metric = asked(measure)?;
        for selector in metric.alternatives.iter_mut().flatten() {
            selector.name.push_str("_bucket");
        }
        Some((latency, metric))
    });
    let latencies = latencies.collect();
    let loads = engine.loads.into_iter().map(|load| Load {
        queued: metric(load.queued),
        running: metric(load.running),
        request_time: metric(load.request_time),
        units_per_second: load.units_per_second,
    });
    let idle_page = engine.idle_page;
    let metrics = EngineMetrics {
        loads: loads.collect(),
        requests: metric(engine.requests),
        input_tokens: metric(engine.input_tokens),
        output_tokens: metric(engine.output_tokens),
        kv_cache_use,
        latencies,
        counting: engine.counting,
        idle_page: idle_page.map(|names| names.iter().map(|name| (*name).into()).collect()),
    };
    Source::new(engine.metrics_port, engine.metrics_path.into(), metrics)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str) -> InferenceDeployment {
        let template = json!({"spec": {"containers": [{"name": "engine", "image": "engine"}]}});
        serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
            "metadata": {"name": name, "namespace": "team"},
            "spec": {"engine": "vLLM", "maxReplicas": 3, "template": template},
        }))
        .unwrap()
    }

    fn pod(uid: &str, service: &str, address: &str, ready: bool) -> Pod {
        let ready = if ready { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {
                "name": uid, "namespace": "team", "uid": uid,
                "labels": {KIND_LABEL: "InferenceDeployment", WORKLOAD_LABEL: service},
            },
            "status": {"podIP": address, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    /// What changes ask for, as words.
    fn words(changes: Vec<Change>) -> Vec<String> {
        let word = |change| match change {
            Change::Upsert(target) => {
                let Target {
                    namespace, service, ..
                } = &target;
                format!(
                    "read {} of {namespace}/{service} at {}",
                    target.uid, target.address
                )
            }
            Change::Remove(uid) => format!("not {uid}"),
        };
        changes.into_iter().map(word).collect()
    }

    fn gone(state: &mut State) -> Vec<String> {
        let gone = std::mem::take(&mut state.gone).into_iter();
        gone.map(|gone| match gone.uid {
            Some(uid) => format!("{uid} of {}", gone.service.1),
            None => gone.service.1.to_string(),
        })
        .collect()
    }

    #[test]
    fn a_pod_is_read_from_when_it_is_ready_while_its_service_is_there() {
        let mut state = State::default();
        let ready = pod("a", "chat", "10.0.0.1", true);
        assert_eq!(words(state.on_pod(&Event::Apply(ready.clone()))), ["not a"]);
        let apply = Event::Apply(service("chat"));
        let read = ["read a of team/chat at 10.0.0.1"];
        assert_eq!(words(state.on_service(&apply)), read);
        assert_eq!(
            words(state.on_service(&apply)),
            [""; 0],
            "nothing of it is new"
        );
        assert_eq!(words(state.on_pod(&Event::Apply(ready.clone()))), [""; 0]);
        let unready = pod("a", "chat", "10.0.0.1", false);
        let still = words(state.on_pod(&Event::Apply(unready)));
        assert_eq!(still, [""; 0], "it works on what it has");
        assert_eq!(words(state.on_pod(&Event::Apply(ready))), [""; 0]);
        let never = pod("b", "chat", "10.0.0.2", false);
        assert_eq!(words(state.on_pod(&Event::Apply(never))), ["not b"]);
        let delete = Event::Delete(service("chat"));
        assert_eq!(words(state.on_service(&delete)), ["not a", "not b"]);
        assert_eq!(gone(&mut state), ["chat"], "the pod is still there");
    }

    #[test]
    fn a_pod_that_is_deleted_or_changes_its_service_is_gone_from_it() {
        let mut state = State::default();
        state.on_service(&Event::Apply(service("chat")));
        state.on_service(&Event::Apply(service("code")));
        state.on_pod(&Event::Apply(pod("a", "chat", "10.0.0.1", true)));
        let moved = Event::Apply(pod("a", "code", "10.0.0.1", true));
        let read = "read a of team/code at 10.0.0.1";
        assert_eq!(words(state.on_pod(&moved)), ["not a", read]);
        assert_eq!(gone(&mut state), ["a of chat"]);
        // another pod takes the address before the end of the old one is seen
        state.on_pod(&Event::Apply(pod("b", "code", "10.0.0.1", true)));
        let delete = Event::Delete(pod("a", "code", "10.0.0.1", true));
        assert_eq!(words(state.on_pod(&delete)), ["not a"]);
        let mut foreign = pod("b", "code", "10.0.0.1", true);
        foreign.metadata.labels = None;
        assert_eq!(words(state.on_pod(&Event::Apply(foreign))), ["not b"]);
        assert_eq!(gone(&mut state), ["a of code", "b of code"]);
        assert!(state.replicas.is_empty() && state.by_service.is_empty());
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let mut state = State::default();
        for event in [
            Event::Init,
            Event::InitApply(service("chat")),
            Event::InitApply(service("code")),
            Event::InitDone,
        ] {
            state.on_service(&event);
        }
        for uid in ["a", "b"] {
            state.on_pod(&Event::Apply(pod(uid, "chat", "10.0.0.1", true)));
        }
        state.on_pod(&Event::Apply(pod("c", "code", "10.0.0.3", true)));
        let pods = [
            Event::Init,
            Event::InitApply(pod("a", "chat", "10.0.0.1", true)),
            Event::InitApply(pod("c", "code", "10.0.0.3", true)),
            Event::InitDone,
        ];
        let changes: Vec<_> = pods.iter().flat_map(|event| state.on_pod(event)).collect();
        assert_eq!(words(changes), ["not b"]);
        let services = [
            Event::Init,
            Event::InitApply(service("chat")),
            Event::InitDone,
        ];
        let changes = services.iter().flat_map(|event| state.on_service(event));
        assert_eq!(words(changes.collect()), ["not c"]);
        assert_eq!(gone(&mut state), ["b of chat", "code"]);
    }
}
