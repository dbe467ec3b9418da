//! Reads the engines of all ready replicas, once a second.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_api::engine_presets::{Preset, preset};
use bursar_api::names::{KIND_LABEL, WORKLOAD_LABEL};
use bursar_api::spend::WorkloadKind;
use bursar_signals::engine::{Scraper, Source};
use bursar_signals::store::Readings;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::lock::lock;
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
        requests: preset.requests,
        input_tokens: preset.input_tokens,
        output_tokens: preset.output_tokens,
    }
}

/// True for a pod of this InferenceDeployment.
pub(crate) fn is_replica(pod: &Pod, namespace: &str, name: &str) -> bool {
    pod.namespace().as_deref() == Some(namespace)
        && pod::label(pod, WORKLOAD_LABEL) == Some(name)
        && pod::label(pod, KIND_LABEL) == Some(WorkloadKind::InferenceDeployment.as_str())
}

/// Reads engines, and tells whose readings changed.
pub(crate) struct Scrape {
    stores: Arc<Stores>,
    readings: SharedReadings,
    concerns: Concerns,
    scraper: Scraper,
}

/// A replica to read.
struct Target {
    service: (String, String),
    uid: String,
    address: IpAddr,
    source: Source,
}

impl Scrape {
    pub(crate) fn new(stores: Arc<Stores>, readings: SharedReadings, concerns: Concerns) -> Self {
        Self {
            stores,
            readings,
            concerns,
            scraper: Scraper::default(),
        }
    }

    /// Reads for as long as the process leads.
    pub(crate) async fn run(&self) {
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.concerns.is_closed() {
            ticks.tick().await;
            self.round().await;
        }
    }

    /// Reads every ready replica once.
    pub(crate) async fn round(&self) {
        let mut touched = BTreeSet::new();
        let reads = self.targets().into_iter().map(|target| async move {
            let read = self.scraper.read(target.address, target.source).await;
            (target, read)
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(CONCURRENCY);
        while let Some((Target { service, uid, .. }, read)) = reads.next().await {
            let now = Timestamp::now();
            let mut readings = lock(&self.readings);
            let readings = readings.entry(service.clone()).or_default();
            let before = (readings.busy(&uid, now), readings.active_at());
            match read {
                Ok(sample) => readings.sample(&uid, sample, now),
                Err(error) => readings.failure(&uid, error.to_string()),
            }
            if before != (readings.busy(&uid, now), readings.active_at()) {
                touched.insert(service.0);
            }
        }
        for namespace in touched {
            // nobody listens at the end of leadership
            self.concerns.send(Concern::Namespace(namespace)).ok();
        }
    }

    /// The ready replicas. What was read of others is forgotten.
    fn targets(&self) -> Vec<Target> {
        let pods = self.stores.pods.state();
        let mut targets = Vec::new();
        for service in self.stores.services.state() {
            let key = (service.namespace().unwrap_or_default(), service.name_any());
            let replicas: Vec<_> = pods
                .iter()
                .filter(|pod| is_replica(pod, &key.0, &key.1))
                .collect();
            let uids: BTreeSet<&str> = replicas.iter().map(|pod| pod::uid(pod)).collect();
            lock(&self.readings)
                .entry(key.clone())
                .or_default()
                .retain(&uids);
            let source = source(preset(service.spec.engine));
            for pod in replicas.into_iter().filter(|pod| pod::is_ready(pod)) {
                let ip = pod
                    .status
                    .as_ref()
                    .and_then(|status| status.pod_ip.as_ref());
                if let Some(address) = ip.and_then(|ip| ip.parse().ok()) {
                    targets.push(Target {
                        service: key.clone(),
                        uid: pod::uid(pod).to_owned(),
                        address,
                        source,
                    });
                }
            }
        }
        targets
    }
}
