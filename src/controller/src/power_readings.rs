//! The measured power of GPUs: the dcgm-exporters are read once a minute.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_core::ledger::Charge;
use bursar_signals::engine::Scraper;
use bursar_signals::power::{PORT, Watts};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::cache::Stores;
use crate::lock::lock;
use crate::pod;

const PACE: Duration = Duration::from_mins(1);
/// Exporters that are read at the same time.
const CONCURRENCY: usize = 16;
/// The median of this time counts, and it changes no more often.
const WINDOW: SignedDuration = SignedDuration::from_mins(15);
/// A pod whose first measurement is this old has been measured for the whole window.
const SETTLED: SignedDuration = SignedDuration::from_mins(14);
/// An older measurement does not count.
const FRESH: SignedDuration = SignedDuration::from_mins(5);

/// Namespaces in which administrators run dcgm-exporter: NVIDIA's operator, GKE's own, and the usual
/// ones of a chart. Of these the first that has an exporter counts, where none is named.
const USUAL_NAMESPACES: [&str; 6] = [
    "gpu-operator",
    "nvidia-gpu-operator",
    "gke-managed-system",
    "kube-system",
    "dcgm-exporter",
    "monitoring",
];

/// The measured power of pods.
pub(crate) type SharedPowerReadings = Arc<Mutex<PowerReadings>>;

/// Watts of pods in the last quarter of an hour.
#[derive(Debug)]
pub(crate) struct PowerReadings {
    began: Timestamp,
    /// The namespace whose exporters are believed; the usual one if `None`.
    exporters: Option<String>,
    pods: BTreeMap<(String, String), VecDeque<(Timestamp, f64)>>,
}

impl PowerReadings {
    /// No measurement yet.
    pub(crate) fn new(began: Timestamp) -> Self {
        Self {
            began,
            exporters: None,
            pods: BTreeMap::new(),
        }
    }

    /// No measurement yet, and exporters of this namespace alone.
    pub(crate) fn of_exporters_in(namespace: Option<String>, began: Timestamp) -> Self {
        Self {
            exporters: namespace.filter(|name| !name.is_empty()),
            ..Self::new(began)
        }
    }

    /// Records what was read at `now`.
    pub(crate) fn take(&mut self, read: Watts, now: Timestamp) {
        for (pod, watts) in read {
            self.pods.entry(pod).or_default().push_back((now, watts));
        }
        let old = |at: Timestamp| now.duration_since(at) > WINDOW;
        self.pods.retain(|_, samples| {
            while samples.front().is_some_and(|(at, _)| old(*at)) {
                samples.pop_front();
            }
            !samples.is_empty()
        });
    }

    /// The watts that the pod's charge is priced by from `now` on. `None` for those of its model.
    ///
    /// The median of the last 15 minutes, which no single sample moves, once it was measured for so long and differs by more than a
    /// tenth from what counts; nothing changes more often than every 15 minutes, so that a record
    /// stays small. Without a measurement of the last 5 minutes, the model's. What a leader has not
    /// measured yet stays as it is on record.
    pub(crate) fn median_watts(
        &self,
        namespace: &str,
        charge: &Charge,
        now: Timestamp,
    ) -> Option<u32> {
        let counts = charge.attributes().amounts.watts;
        let changed = charge
            .previous_amounts()
            .last()
            .map(|earlier| earlier.until);
        if changed.is_some_and(|at| now.duration_since(at) < WINDOW) {
            return counts;
        }
        let samples = self
            .pods
            .get(&(namespace.to_owned(), charge.pod().to_owned()));
        // a pod of the same name may have been there before
        let ours = samples.into_iter().flatten();
        let ours: Vec<_> = ours.filter(|(at, _)| *at >= charge.start()).collect();
        let within = |at: Timestamp, span| now.duration_since(at) <= span;
        let (Some((first, _)), Some((last, _))) = (ours.first(), ours.last()) else {
            return counts.filter(|_| within(self.began, FRESH));
        };
        if !within(*last, FRESH) {
            return None;
        }
        if within(*first, SETTLED) {
            return counts;
        }
        let median = median(ours.iter().map(|(_, watts)| *watts).collect()).round() as u32;
        let close = |counts: u32| u64::from(median.abs_diff(counts)) * 10 <= u64::from(counts);
        counts.filter(|counts| close(*counts)).or(Some(median))
    }
}

/// The middle sample; of an even number, the lower one of the two in the middle. 0 of none.
fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len().saturating_sub(1) / 2;
    samples.get(middle).copied().unwrap_or_default()
}

/// Reads all exporters for as long as the process leads.
pub(crate) async fn run(stores: Arc<Stores>, measured: SharedPowerReadings) {
    let scraper = Scraper;
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        sync_once(&stores, &scraper, &measured).await;
    }
}

async fn sync_once(stores: &Stores, scraper: &Scraper, measured: &SharedPowerReadings) {
    let pods = stores.pods.state();
    let named = lock(measured).exporters.clone();
    let reads = exporters(&pods, named.as_deref())
        .into_iter()
        .map(|(address, port, node)| async move { (scraper.watts(address, port).await, node) });
    let mut reads = futures::stream::iter(reads).buffer_unordered(CONCURRENCY);
    let mut all = Watts::new();
    while let Some((read, node)) = reads.next().await {
        match read {
            Ok(mut read) => {
                // an exporter knows its own node
                let node_pods = pods.iter().filter(|pod| pod::node_name(pod) == Some(node));
                let node_pods: BTreeSet<_> = node_pods
                    .map(|pod| (pod.namespace().unwrap_or_default(), pod.name_any()))
                    .collect();
                read.retain(|pod, _| node_pods.contains(pod));
                all.append(&mut read);
            }
            Err(error) => tracing::debug!(node, %error, "a dcgm-exporter cannot be read"),
        }
    }
    lock(measured).take(all, Timestamp::now());
}

/// The exporters of the one namespace that is believed: anybody who may run pods could say what the
/// pods of a node draw.
fn exporters<'a>(pods: &'a [Arc<Pod>], named: Option<&str>) -> Vec<(IpAddr, u16, &'a str)> {
    let mut by_namespace: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for pod in pods {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(exporter) = exporter(pod) {
            by_namespace.entry(namespace).or_default().push(exporter);
        }
    }
    let usual = USUAL_NAMESPACES
        .iter()
        .find(|name| by_namespace.contains_key(*name));
    let believed = named.or(usual.copied());
    believed
        .and_then(|name| by_namespace.remove(name))
        .unwrap_or_default()
}

/// The address and port of a dcgm-exporter, and its node.
fn exporter(pod: &Pod) -> Option<(IpAddr, u16, &str)> {
    let is_exporter = pod::label(pod, "app.kubernetes.io/name") == Some("dcgm-exporter")
        || pod::label(pod, "app") == Some("nvidia-dcgm-exporter");
    if !is_exporter || !pod::is_ready(pod) {
        return None;
    }
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named = ports.find(|port| port.name.as_deref() == Some("metrics"));
    let port = named.map_or(Ok(PORT), |port| u16::try_from(port.container_port));
    let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    Some((address, port.ok()?, pod::node_name(pod)?))
}

#[cfg(test)]
mod tests {
    use bursar_core::ledger::{PreviousAmounts, StoredCharge};
    use bursar_core::pricing::{PricingAttributes, ResourceAmounts};
    use serde_json::json;

    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + minute * 60).unwrap()
    }

    fn measured(samples: &[(i64, f64)]) -> PowerReadings {
        let mut measured = PowerReadings::new(at(0));
        for (minute, watts) in samples {
            let key = ("team".to_owned(), "chat".to_owned());
            measured.take([(key, *watts)].into(), at(*minute));
        }
        measured
    }

    fn charge(watts: Option<u32>, changed: Option<i64>, start: i64) -> Charge {
        let amounts = ResourceAmounts {
            watts,
            ..ResourceAmounts::default()
        };
        let facts = PricingAttributes {
            amounts,
            ..PricingAttributes::default()
        };
        let previous = changed.map(|minute| PreviousAmounts {
            until: at(minute),
            amounts: ResourceAmounts::default(),
        });
        Charge::restore(StoredCharge {
            previous_amounts: previous.into_iter().collect(),
            ..StoredCharge::new("u".into(), "chat".into(), facts, at(start))
        })
        .unwrap()
    }

    #[test]
    fn the_median_of_a_quarter_of_an_hour_counts_where_it_differs_by_a_tenth_and_no_more_often() {
        let steady = |watts: f64, until: i64| -> Vec<(i64, f64)> {
            (0..=until).map(|minute| (minute, watts)).collect()
        };
        for (samples, counts, changed, now, want) in [
            // measured for less than a quarter of an hour
            (steady(300.0, 10), None, None, 10, None),
            (steady(300.0, 10), Some(500), None, 10, Some(500)),
            (steady(300.4, 20), None, None, 20, Some(300)),
            (steady(330.0, 20), Some(300), None, 20, Some(300)),
            (steady(331.0, 20), Some(300), None, 20, Some(331)),
            (steady(269.0, 20), Some(300), None, 20, Some(269)),
            (steady(0.0, 20), Some(300), None, 20, Some(0)),
            // what changed a moment ago stays
            (steady(600.0, 20), Some(300), Some(6), 20, Some(300)),
            (steady(600.0, 20), Some(300), Some(5), 20, Some(600)),
            // nothing was measured of late, and never by this leader
            (steady(300.0, 20), Some(300), None, 26, None),
            (Vec::new(), Some(300), None, 5, Some(300)),
            (Vec::new(), Some(300), None, 6, None),
        ] {
            let watts =
                measured(&samples).median_watts("team", &charge(counts, changed, 0), at(now));
            assert_eq!(watts, want, "{counts:?} {changed:?} at {now}");
        }
        let later = charge(None, None, 10);
        let watts = measured(&steady(300.0, 20)).median_watts("team", &later, at(20));
        assert_eq!(watts, None, "another pod of that name was measured");
    }

    #[test]
    fn one_sample_moves_no_money() {
        let mut samples: Vec<(i64, f64)> = (0..=14).map(|minute| (minute, 320.0)).collect();
        samples.push((15, 2_000.0));
        for minute in 15..=29 {
            let watts = measured(&samples).median_watts("team", &charge(None, None, 0), at(minute));
            assert_eq!(watts, Some(320), "minute {minute}");
            samples.push((minute + 1, 320.0));
        }
    }

    #[test]
    fn exporters_of_one_namespace_are_believed() {
        let exporter = |namespace: &str, ip: &str| -> Arc<Pod> {
            let pod = json!({
                "metadata": {"name": "e", "namespace": namespace, "labels": {"app": "nvidia-dcgm-exporter"}},
                "spec": {"nodeName": "n", "containers": []},
                "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
            });
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let pods = [
            exporter("tenant", "10.0.0.1"),
            exporter("monitoring", "10.0.0.2"),
            exporter("gpu-operator", "10.0.0.3"),
        ];
        let read = |pods: &[Arc<Pod>], named| -> Vec<String> {
            let read = exporters(pods, named).into_iter();
            read.map(|(ip, _, _)| ip.to_string()).collect()
        };
        assert_eq!(read(&pods, None), ["10.0.0.3"]);
        assert_eq!(read(&pods, Some("tenant")), ["10.0.0.1"]);
        assert_eq!(read(&pods[..1], None), [""; 0]);
        assert_eq!(read(&pods, Some("elsewhere")), [""; 0]);
    }

    #[test]
    fn an_exporter_is_told_by_its_label_and_names_its_port() {
        let pod = |labels: serde_json::Value, ports: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "e", "labels": labels},
                "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": ports}]},
                "status": {"podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .unwrap()
        };
        let metrics = json!([{"name": "metrics", "containerPort": 9500}]);
        let ip: IpAddr = "10.0.0.9".parse().unwrap();
        let operators = pod(json!({"app": "nvidia-dcgm-exporter"}), metrics);
        assert_eq!(exporter(&operators), Some((ip, 9500, "n")));
        let charts = pod(
            json!({"app.kubernetes.io/name": "dcgm-exporter"}),
            json!([]),
        );
        assert_eq!(exporter(&charts), Some((ip, 9400, "n")));
        assert_eq!(exporter(&pod(json!({"app": "chat"}), json!([]))), None);
    }
}
