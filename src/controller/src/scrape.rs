//! Reads the engines of all ready replicas, once a second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bursar_api::names::{KIND_LABEL, WORKLOAD_LABEL};
use bursar_api::presets::{Preset, preset};
use bursar_api::spend::WorkloadKind;
use bursar_signals::engine::{Scraper, Source};
use bursar_signals::store::Readings;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pod;
use crate::watch::{Concern, Concerns, Stores};

const PACE: Duration = Duration::from_secs(1);
/// Pods that are read at the same time.
const CONCURRENCY: usize = 64;

/// Readings by namespace and name.
pub(crate) type SharedReadings = Arc<Mutex<BTreeMap<(String, String), Readings>>>;

fn source(preset: Preset) -> Source {
    Source {
        port: preset.port,
        path: preset.metrics_path,
        waiting: preset.waiting,
        running: preset.running,
        activity: preset.activity,
    }
}

/// True for a pod of this InferenceDeployment.
pub(crate) fn is_replica(pod: &Pod, namespace: &str, name: &str) -> bool {
    pod.namespace().as_deref() == Some(namespace)
        && pod::label(pod, WORKLOAD_LABEL) == Some(name)
        && pod::label(pod, KIND_LABEL) == Some(WorkloadKind::InferenceDeployment.as_str())
}

/// Reads for as long as the process leads.
pub(crate) async fn run(stores: Arc<Stores>, readings: SharedReadings, concerns: Concerns) {
    let scraper = Scraper::default();
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let pods = stores.pods.state();
        let mut targets = Vec::new();
        for service in stores.services.state() {
            let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
            let key = (namespace, name);
            let replicas: Vec<_> = pods
                .iter()
                .filter(|pod| is_replica(pod, &key.0, &key.1))
                .collect();
            let uids: BTreeSet<&str> = replicas.iter().map(|pod| pod::uid(pod)).collect();
            readings
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(key.clone())
                .or_default()
                .retain(&uids);
            let source = source(preset(service.spec.engine));
            for pod in replicas.into_iter().filter(|pod| pod::is_ready(pod)) {
                let address = pod
                    .status
                    .as_ref()
                    .and_then(|status| status.pod_ip.as_ref())
                    .and_then(|ip| ip.parse().ok());
                if let Some(address) = address {
                    targets.push((key.clone(), pod::uid(pod).to_owned(), address, source));
                }
            }
        }
        let mut touched = BTreeSet::new();
        let reads = targets.into_iter().map(|(key, uid, address, source)| {
            let scraper = &scraper;
            async move { (key, uid, scraper.read(address, source).await) }
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(CONCURRENCY);
        while let Some((key, uid, read)) = reads.next().await {
            let now = Timestamp::now();
            let mut readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
            let readings = readings.entry(key.clone()).or_default();
            let before = (readings.busy(&uid, now), readings.active_at());
            match read {
                Ok(sample) => readings.sample(&uid, sample, now),
                Err(error) => readings.failure(&uid, error.to_string()),
            }
            if before != (readings.busy(&uid, now), readings.active_at()) {
                touched.insert(key.0);
            }
        }
        for namespace in touched {
            if concerns.send(Concern::Namespace(namespace)).is_err() {
                return;
            }
        }
    }
}
